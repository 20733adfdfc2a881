"""Completions for bash, zsh and fish: plain tables, so that no key press waits for a Python to start.

Called by generate.py, which hands in the commands; the package installs what comes of it.
"""

from __future__ import annotations

import re
from typing import Any

WRITTEN = "# Completion of aragora-q. Written by `make docs`."


def options(command: Any) -> list[tuple[list[str], bool, str]]:
    """Of each option all spellings, whether it takes a value, and the first sentence of its help."""
    found = [
        ([*each.opts, *each.secondary_opts], not each.is_flag, _sentence(each.help))
        for each in command.params
        if each.param_type_name == "option" and not each.hidden
    ]
    return [*found, (["-h", "--help"], False, "Show what the command does")]


def _sentence(text: str) -> str:
    """Text up to its first full stop, without what would end a shell's quoted text."""
    return re.sub(r"['\\`]", "", re.split(r"\.(?:\s|$)", text)[0].strip())


def _groups(commands: dict[str, Any]) -> dict[str, list[str]]:
    """The commands that have commands of their own."""
    found: dict[str, list[str]] = {}
    for name in commands:
        group, _, sub = name.partition(" ")
        if sub:
            found.setdefault(group, []).append(sub)
    return found


def bash(commands: dict[str, Any], lines: dict[str, str]) -> str:
    """The script for bash; where it knows nothing, bash completes files."""
    groups = _groups(commands)
    cases = []
    for name, command in commands.items():
        words = " ".join(word for spellings, _, _ in options(command) for word in spellings)
        cases.append(f'    "{name}") words="{words}" ;;')
    cases += [f'    "{group}") words="{" ".join(subs)}" ;;' for group, subs in groups.items()]
    return "\n".join([
        WRITTEN,
        "_aragora_q() {",
        '  local at words command="" word=${COMP_WORDS[COMP_CWORD]}',
        "  for ((at = 1; at < COMP_CWORD; at++)); do",
        "    [[ ${COMP_WORDS[at]} == -* ]] && continue",
        '    case "$command" in',
        '    "") command=${COMP_WORDS[at]} ;;',
        f'    {"|".join(groups)}) command+=" ${{COMP_WORDS[at]}}" ;;',
        "    esac",
        "  done",
        '  case "$command" in',
        f'    "") words="{" ".join(lines)} --version --debug --help" ;;',
        *cases,
        "  esac",
        '  if [[ -z $command || $word == -* || " $words" != *" -"* ]]; then',
        '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")',
        "  fi",
        "}",
        "complete -o default -F _aragora_q aragora-q",
    ]) + "\n"  # fmt: skip


def zsh(commands: dict[str, Any], lines: dict[str, str]) -> str:
    """The script for zsh, a function that is loaded by its name."""
    head = [f"    '{name}:{_sentence(line)}'" for name, line in lines.items()]
    cases = []
    for name, command in commands.items():
        cases.append(f"  '{name}') options=(")
        cases += [
            f"    '{word}:{told}'" for spellings, _, told in options(command) for word in spellings
        ]
        cases.append("  ) ;;")
    groups = _groups(commands)
    cases += [f"  '{group}') names=({' '.join(subs)}) ;;" for group, subs in groups.items()]
    return "\n".join([
        "#compdef aragora-q",
        WRITTEN,
        "local -a names options",
        "local command='' word",
        "for word in ${words[2,CURRENT-1]}; do",
        "  [[ $word == -* ]] && continue",
        "  case $command in",
        "  '') command=$word ;;",
        f"  {'|'.join(groups)}) command+=\" $word\" ;;",
        "  esac",
        "done",
        "case $command in",
        "  '') names=(",
        *head,
        "  )",
        "  options=('--version:Show the version' '--help:Show the commands') ;;",
        *cases,
        "esac",
        "if [[ $words[CURRENT] == -* ]]; then",
        "  _describe -o option options",
        "elif (( $#names )); then",
        "  _describe command names",
        "else",
        "  _files",
        "fi",
    ]) + "\n"  # fmt: skip


def fish(commands: dict[str, Any], lines: dict[str, str]) -> str:
    """The script for fish."""
    first = "complete -c aragora-q -n __fish_use_subcommand"
    out = [WRITTEN]
    out += [f"{first} -f -a {name} -d '{_sentence(line)}'" for name, line in lines.items()]
    out += [f"{first} -l version -d 'Show the version'", f"{first} -l help -d 'Show the commands'"]
    for group, subs in _groups(commands).items():
        seen = f"__fish_seen_subcommand_from {group}; and not __fish_seen_subcommand_from {' '.join(subs)}"
        out.append(f"complete -c aragora-q -n '{seen}' -f -a '{' '.join(subs)}'")
    for name, command in commands.items():
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in name.split())
        for spellings, takes_value, told in options(command):
            forms = " ".join(
                f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}"
                for word in spellings
            )
            value = " -r" if takes_value else ""
            out.append(f"complete -c aragora-q -n '{seen}' {forms}{value} -d '{told}'")
    return "\n".join(out) + "\n"
