# Completion of aragora-q. Written by `make docs`.
_aragora_q() {
  local at words command="" word=${COMP_WORDS[COMP_CWORD]}
  for ((at = 1; at < COMP_CWORD; at++)); do
    [[ ${COMP_WORDS[at]} == -* ]] && continue
    case "$command" in
    "") command=${COMP_WORDS[at]} ;;
    config|models) command+=" ${COMP_WORDS[at]}" ;;
    esac
  done
  case "$command" in
    "") words="enqueue worker status wait list tail cancel requeue pause resume stats reap purge exporter healthcheck config models acl doctor bench demo --version --debug --help" ;;
    "enqueue") words="--agents -a --rounds --consensus --job-timeout --id --priority --delay --max-attempts --durability --wait --timeout --json --jsonl --quiet -q --redis-url --queue --config -h --help" ;;
    "worker") words="--worker-id --concurrency --executor --exec --metrics-port --burst --redis-url --queue --config -h --help" ;;
    "status") words="--json --jsonl --redis-url --queue --config -h --help" ;;
    "wait") words="--timeout --json --jsonl --quiet -q --redis-url --queue --config -h --help" ;;
    "list") words="--status -s --limit -n --json --jsonl --quiet -q --redis-url --queue --config -h --help" ;;
    "tail") words="--after --json --jsonl --redis-url --queue --config -h --help" ;;
    "cancel") words="--json --jsonl --quiet -q --redis-url --queue --config -h --help" ;;
    "requeue") words="--json --jsonl --quiet -q --redis-url --queue --config -h --help" ;;
    "pause") words="--quiet -q --redis-url --queue --config -h --help" ;;
    "resume") words="--quiet -q --redis-url --queue --config -h --help" ;;
    "stats") words="--watch -w --prometheus --json --jsonl --redis-url --queue --config -h --help" ;;
    "reap") words="--max-time --dry-run --json --jsonl --quiet -q --redis-url --queue --config -h --help" ;;
    "purge") words="--older-than --status --dry-run --yes -y --json --jsonl --quiet -q --redis-url --queue --config -h --help" ;;
    "exporter") words="--listen --redis-url --queue --config -h --help" ;;
    "healthcheck") words="-h --help" ;;
    "config show") words="--origin --json --config -h --help" ;;
    "config check") words="--config -h --help" ;;
    "models pull") words="--quiet -q -h --help" ;;
    "acl") words="--user --password-file --redis-url --queue --config -h --help" ;;
    "doctor") words="--repair --yes -y --max-time --from --json --jsonl --redis-url --queue --config -h --help" ;;
    "bench") words="--server --repeats --backlog --json --jsonl -h --help" ;;
    "demo") words="--agents -a --rounds --redis-url --config -h --help" ;;
    "config") words="show check" ;;
    "models") words="pull" ;;
  esac
  if [[ -z $command || $word == -* || " $words" != *" -"* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
  fi
}
complete -o default -F _aragora_q aragora-q
