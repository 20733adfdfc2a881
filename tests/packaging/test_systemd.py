"""The systemd units in operation: the package on a Debian with systemd as process 1."""

import json

import pytest
from support.docs import blocks
from support.wait import wait_until_sync

pytestmark = pytest.mark.timeout(600)

WORKER = "aragora-q-worker@1"
PASSWORD_FILE = "/etc/credstore/aragora-q.redis-password"


@pytest.fixture(scope="module")
def redis(debian_container):
    """A Redis whose password services have from their credential only."""
    # A worker that is started before its server waits: this is the first claim, checked below.
    debian_container(f"umask 077; printf 'correct horse' > {PASSWORD_FILE}")
    debian_container("printf 'ARAGORA_QUEUE_CLAIM_IDLE_MS=4000\\n' > /etc/default/aragora-q")
    debian_container(f"systemctl start {WORKER}")
    before = debian_container(f"systemctl is-active {WORKER}")
    debian_container("printf 'requirepass \"correct horse\"\\n' >> /etc/redis/redis.conf")
    # Debian's own unit asks for more than a container grants.
    debian_container("redis-server /etc/redis/redis.conf --daemonize yes --dir /tmp --logfile ''")
    return before


def cli(debian_container, command):
    return debian_container(f"REDIS_PASSWORD_FILE={PASSWORD_FILE} aragora-q {command}")


def pid(debian_container):
    return int(debian_container(f"systemctl show --property MainPID --value {WORKER}"))


def test_worker_waits_for_redis(debian_container, redis):
    """A worker started before Redis is READY, and starts jobs when Redis is there, with the password from
    its credential and the worker id from its unit.
    """
    assert redis == "active"
    job = cli(
        debian_container, "enqueue 'Is it on?' --agents demo:bold,demo:careful --rounds 1 --quiet"
    )
    cli(debian_container, f"wait {job} --timeout 60")
    assert debian_container("stat -c '%U %a' " + PASSWORD_FILE) == "root 600"
    [worker] = json.loads(cli(debian_container, "stats --json"))["workers"]
    assert worker["worker_id"].endswith("-1")


def test_stuck_worker_is_replaced(debian_container, redis):
    """A worker that hangs misses its watchdog, is killed and restarted."""
    stuck = pid(debian_container)
    debian_container(
        f"mkdir -p /run/systemd/system/{WORKER}.service.d;"
        f" printf '[Service]\\nWatchdogSec=3\\n' > /run/systemd/system/{WORKER}.service.d/t.conf;"
        f" systemctl daemon-reload; systemctl restart {WORKER}"
    )
    stuck = pid(debian_container)
    debian_container(f"kill -STOP {stuck}")
    wait_until_sync(lambda: pid(debian_container) not in {0, stuck}, 60, "a new worker")
    wait_until_sync(
        lambda: debian_container(f"systemctl is-active {WORKER} || true") == "active", 30, "READY"
    )
    assert "watchdog" in debian_container(f"journalctl --no-pager --unit {WORKER}").lower()
    debian_container(  # in later tests, the short watchdog could kill a slow worker
        f"rm /run/systemd/system/{WORKER}.service.d/t.conf;"
        f" systemctl daemon-reload; systemctl restart {WORKER}"
    )


def test_killed_worker_is_back(debian_container, redis):
    """After SIGKILL the unit is READY again within ten seconds, with another pid, and runs jobs."""
    killed = pid(debian_container)
    debian_container(f"kill -KILL {killed}")
    wait_until_sync(
        lambda: (
            pid(debian_container) not in {0, killed}
            and debian_container(f"systemctl is-active {WORKER} || true") == "active"
        ),
        30,
        "a new worker",
    )
    down = debian_container(
        f"journalctl --no-pager --output short-unix --unit {WORKER}"
        " | awk '/code=killed, status=9/ {t = $1} /Started/ && t {print $1 - t; t = 0}' | tail -n 1"
    )
    assert float(down) < 10
    job = cli(
        debian_container, "enqueue 'Back?' --agents demo:bold,demo:careful --rounds 0 --quiet"
    )
    cli(debian_container, f"wait {job} --timeout 60")


def test_timer_reaps(debian_container, redis):
    """The reap timer fires, and its pass succeeds: the queue has its time."""
    assert json.loads(cli(debian_container, "stats --json"))["last_reap_at"] is None
    debian_container("systemctl start aragora-q-reap.timer")
    wait_until_sync(
        lambda: json.loads(cli(debian_container, "stats --json"))["last_reap_at"],
        60,
        "a pass of the timer",
    )
    debian_container("systemctl start aragora-q-purge.service")
    assert json.loads(cli(debian_container, "stats --json"))["last_purge_at"]


def test_exporter_serves(debian_container, redis):
    """The exporter is up, healthy, and shows the worker."""
    debian_container("systemctl start aragora-q-exporter")
    assert debian_container("aragora-q healthcheck 127.0.0.1:9474") == "ok"
    assert debian_container("aragora-q healthcheck 127.0.0.1:9711") == "ok"


ASK = """
import sys, urllib.error, urllib.request
path, method, token = sys.argv[1:]
data = None if method == "GET" else b"{}"
request = urllib.request.Request("http://127.0.0.1:8080" + path, method=method, data=data)
request.add_header("Content-Type", "application/json")
if token:
    request.add_header("Authorization", "Bearer " + token)
try:
    print(urllib.request.urlopen(request, timeout=30).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def test_console_serves(debian_container, redis):
    """The console has the roles whose credentials it finds, as Redis users, and neither the password of the
    workers nor their provider keys; a token works as soon as it is made.
    """
    debian_container("echo ANTHROPIC_API_KEY=secret >> /etc/default/aragora-q")
    debian_container(
        """set -e; umask 077; cd /root; export REDISCLI_AUTH='correct horse'
        for role in stats operator; do
          head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \\n' > $role.password
          aragora-q acl $role --password-file $role.password | redis-cli
        done
        echo "redis://aragora-q-operator:$(cat operator.password)@127.0.0.1:6379" \\
          > /etc/credstore/aragora-q.web-operator-redis-url
        mv stats.password /etc/credstore/aragora-q.web-redis-password
        head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' > /etc/credstore/aragora-q.receipt-key
        echo REDIS_URL=redis://aragora-q-stats@127.0.0.1:6379 > /etc/default/aragora-q-web
        echo ARAGORA_QUEUE_WEB_TOKENS_FILE=/etc/aragora-q/tokens >> /etc/default/aragora-q-web
        systemctl start aragora-q-web"""
    )

    def ask(path, method="GET", token=""):
        words = f"'{path}' {method} '{token}'"
        return int(debian_container(f"python3 -c '{ASK}' {words}"))

    api = "/api/v1/queues/debates"
    assert debian_container("aragora-q healthcheck 127.0.0.1:8080") == "ok"
    assert ask("/jobs") == 200
    assert ask(f"{api}/pause", "POST") in {401, 403}
    token = debian_container(
        "aragora-q token alice --role operator --file /etc/aragora-q/tokens 2>/dev/null"
    )
    assert ask(f"{api}/pause", "POST", token) == 200
    assert ask(f"{api}/resume", "POST", token) == 200
    assert ask(f"{api}/jobs", "POST", token) == 403, "no credential of a producer"
    seen = debian_container(
        "p=$(systemctl show --property MainPID --value aragora-q-web);"
        " tr '\\0' '\\n' < /proc/$p/environ; ls /run/credentials/aragora-q-web.service;"
        " cat /run/credentials/aragora-q-web.service/*"
    )
    assert "web-operator-redis-url" in seen
    assert "receipt-key" in seen
    assert "correct horse" not in seen
    assert "ANTHROPIC_API_KEY" not in seen
    debian_container("systemctl stop aragora-q-web")
    assert debian_container("systemctl show --property Result --value aragora-q-web") == "success"


def test_worker_has_the_secrets_of_webhooks(debian_container, redis):
    """A secret that only root can read reaches the worker by LoadCredential, and its messages verify: for the
    end of a job, and of that of a schedule, which `aragora-q-reap` enqueues. Other users of the host see no
    secret.
    """
    [receiver] = (each for each in blocks("docs/webhooks.md") if each.text.startswith("# plain.py"))
    debian_container("mkdir -p /root/receiver; cat > /root/receiver/plain.py", input=receiver.text)
    at = debian_container("date -u -d '-1 min' '+%s %M %H %d %m'").split()
    due = int(at[0]) // 60 * 60
    debian_container(
        f"""set -e; cd /root/receiver
        (umask 077; echo "whsec_$(head -c 32 /dev/urandom | base64)" > ops.secret)
        install -m 600 ops.secret /etc/credstore/aragora-q.webhook-ops
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 7 -subj /CN=localhost \
          -addext subjectAltName=IP:127.0.0.1 -keyout receiver.key -out receiver.crt 2> /dev/null
        install -m 644 receiver.crt /etc/aragora-q/receiver.crt
        systemd-run --unit receiver --working-directory /root/receiver python3 plain.py
        cat > /etc/aragora-q/conf.d/webhooks.toml <<'TOML'
[webhooks.ops]
url = "https://127.0.0.1:8443/"
secret_file = "webhook-ops"
ca_file = "/etc/aragora-q/receiver.crt"
allow_networks = ["127.0.0.1/32"]
[schedules.nightly]
cron = "{at[1]} {at[2]} {at[3]} {at[4]} *"
[schedules.nightly.job]
question = "What happened?"
agents = ["demo:bold", "demo:careful"]
rounds = 1
notify = ["ops"]
TOML
        export REDISCLI_AUTH='correct horse'
        redis-cli HSET aragora:queue:debates:schedules next:nightly {due}000 last:nightly {due - 3600}000
        systemctl stop {WORKER}
        systemctl start aragora-q-reap
        test "$(redis-cli EXISTS aragora:queue:debates:job:nightly@{due})" = 1
        mkdir -p /run/systemd/system/{WORKER}.service.d
        printf '[Service]\\nLoadCredential=webhook-ops:aragora-q.webhook-ops\\n' \
          > /run/systemd/system/{WORKER}.service.d/webhooks.conf
        systemctl daemon-reload; systemctl start {WORKER}"""
    )
    try:
        enqueue = "enqueue 'Is it signed?' --agents demo:bold,demo:careful --rounds 1 --quiet"
        for job in (cli(debian_container, f"{enqueue} --notify ops"), f"nightly@{due}"):
            wait_until_sync(
                lambda job=job: f"'id': '{job}'" in debian_container("journalctl --unit receiver"),
                60,
                f"the message of {job}",
            )
        webhook = json.loads(cli(debian_container, "webhook list --json"))
        assert webhook["failures"] == 0, webhook
        place = "/run/credentials/aragora-q-worker@1.service/webhook-ops"
        assert (
            debian_container(f"test -f {place} && setpriv --reuid nobody cat {place} || echo no")
            == "no"
        )
    finally:
        debian_container(
            "systemctl stop receiver; rm /etc/aragora-q/conf.d/webhooks.toml"
            f" /run/systemd/system/{WORKER}.service.d/webhooks.conf;"
            f" systemctl daemon-reload; systemctl restart {WORKER}"
        )


def test_stop_drains(debian_container, redis):
    """`systemctl stop` lets a running job finish, and reports success."""
    may_end = "/usr/local/bin/slow-may-end"
    debian_container(
        f"printf '#!/bin/sh\\nuntil test -e {may_end}; do sleep 0.1; done; sleep 3; echo {{}}\\n'"
        " > /usr/local/bin/slow; chmod +x /usr/local/bin/slow"
    )
    debian_container(
        f"mkdir -p /run/systemd/system/{WORKER}.service.d;"
        f" printf '[Service]\\nEnvironment=ARAGORA_QUEUE_EXECUTOR=command"
        f" ARAGORA_QUEUE_EXEC_COMMAND=/usr/local/bin/slow\\n'"
        f" > /run/systemd/system/{WORKER}.service.d/t.conf;"
        f" systemctl daemon-reload; systemctl restart {WORKER}"
    )
    job = cli(debian_container, "enqueue 'Slow?' --agents demo:bold,demo:careful --quiet")

    def state():
        return json.loads(cli(debian_container, f"status {job} --json"))["status"]

    wait_until_sync(lambda: state() == "processing", 30, "the job to run")
    debian_container(f"touch {may_end}; systemctl stop {WORKER}")
    assert state() == "completed"
    assert debian_container(f"systemctl show --property Result --value {WORKER}") == "success"


def test_package_is_complete(debian_container):
    """Program, units, manual pages, completions, settings, user, and the files for Prometheus, Grafana
    and on-call staff.
    """
    listed = debian_container("dpkg --listfiles aragora-q").splitlines()
    for path in (
        "/usr/share/man/man1/aragora-q.1.gz", "/usr/share/man/man5/aragora-q.toml.5.gz",
        "/usr/share/bash-completion/completions/aragora-q",
        "/usr/share/zsh/vendor-completions/_aragora-q",
        "/usr/share/fish/vendor_completions.d/aragora-q.fish",
        "/etc/aragora-q/aragora-q.toml", "/usr/lib/sysusers.d/aragora-q.conf",
        "/lib/systemd/system/aragora-q-worker@.service", "/usr/share/doc/aragora-q/copyright",
        "/usr/share/doc/aragora-q/examples/prometheus/alerts.yml",
        "/usr/share/doc/aragora-q/examples/grafana/aragora-q.json",
        "/usr/share/doc/aragora-q/README.md", "/usr/share/doc/aragora-q/docs/reliability.md",
        "/usr/share/doc/aragora-q/docs/reference/settings.md",
        "/usr/share/doc/aragora-q/docs/reference/openapi.json",
        "/usr/share/doc/aragora-q/docs/console-overview.webp",
        "/lib/systemd/system/aragora-q-web.service",
        "/usr/share/doc/aragora-q/docs/runbooks/redis-away.md",
    ):  # fmt: skip
        assert path in listed


def test_package_upgrades_and_can_be_purged(debian_container, redis):
    """An enabled worker starts at boot; an upgrade keeps it; purging the package leaves no file."""
    debian_container(f"systemctl enable --now {WORKER}")
    assert WORKER in debian_container("systemctl list-dependencies --plain multi-user.target"), (
        "at boot"
    )
    debian_container("dpkg --install /packages/*.deb")
    wait_until_sync(
        lambda: debian_container(f"systemctl is-active {WORKER} || true") == "active",
        30,
        "the worker",
    )
    debian_container("dpkg --purge aragora-q")
    left = debian_container(
        "find / -xdev -path /proc -prune -o -path /sys -prune -o"
        " -name '*aragora[-_]q*' -not -path '/run/*' -not -path '/etc/default/*'"
        " -not -path '/etc/credstore/*' -not -path '/tmp/*' -not -path '/var/*' -print"
    )
    assert left == ""
    assert debian_container("pgrep -f bin/[a]ragora-q || true") == ""
