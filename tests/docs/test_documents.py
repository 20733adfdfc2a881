"""Every shell block of every page runs as printed, where the page says; a block that says nothing runs here.

A new block of a new page needs no line in this module: it is found, and run, or refused. The few lines
that no test can run as printed are in `support.docs.SUBSTITUTES`, with what is run instead of them.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import containers
from support.docs import ROOT, SUBSTITUTES, blocks, calls, pages, script, shell, spans, write_files

from tools import gen_docs

pytestmark = pytest.mark.timeout(600)

LANGUAGES = {"sh", "python", "toml", "yaml", "text", "json", "mermaid"}
PLACES = {"", "debian", "docker", "cluster"}
PYTHON = {"README.md", "docs/reference/api.md"}
"""Pages whose Python is not in files: tests/docs/test_readme.py runs it, except signatures."""
APART = {
    *("docs/experiments.md", "docs/http-api.md", "docs/money.md", "docs/observability.md"),
    "docs/webhooks.md",
}
"""Pages that the modules named after them, such as test_money_page.py, run: all blocks, and what they print, or
with a console, a provider or a receiver."""
RUN_ELSEWHERE = {"ask.py", "chapters.py", "draft.sh", "forward.sh", "write.py"}
"""Programs that no shell block runs: test_executors_page.py and test_observability_page.py run them."""

PAGES = sorted(pages())


def pages_for(place):
    return [page for page in PAGES if shell(page, place)]


MANUAL = "docs/operations.md"
CONSOLE = "deploy/compose/console.yml"
"""The file that COMPOSE_FILE adds."""
NEEDS = {"docs/executors.md": "jq", "docs/receipts.md": "openssl", MANUAL: "openssl"}
"""Programs that a page's blocks call and that a machine may lack."""
ASK = "--agents demo:bold,demo:careful --rounds 1"
SHOWS = {
    "README.md": [
        r"^agreement +67%, 2 of 3 seats",
        r"^Independent answers$",
        r"^completed +1\b",
    ],
    "docs/executors.md": [r"6 words", r"TEA OR COFFEE\?"],
    "docs/groups.md": [
        r"^would cancel: 1 job$|^jobs +3: 3 pending",
        r"^jobs +3: 3 completed",
        r"^then +survey\.then, enqueued",
        r"^job +nightly-.*\.then$",
    ],
    MANUAL: [r'"verb":"hold",.*"reason":"prices changed"'],
    "docs/receipts.md": [
        r"^degraded +no$",
        r"^signature +none: the receipt is not signed$",
        r"^signature +ok, by key [0-9a-f]{8}$",
        r"^digest ok$",
        r"^signature ok$",
        r"^verified$",
    ],
    "docs/schedules.md": [
        r"^next +Mon .* 06:00 CES?T",
        r"^weekly-risks@\d+-run enqueued$",
        r"^weekly-risks +not loaded .* none yet",
        r"^weekly-risks +paused +on resume +completed",
        r"^weekly-risks: paused by .*: holidays$",
        r"^weekly-risks is resumed; next: Mon ",
    ],
    "docs/python.md": [
        r"^completed \[demo\]",
        r'"words": 6\b',
        r"^3 passed",
        r"^1 of 3 about food, 2 live, then waiting$",
        r"^jobs +3: 2 completed, 1 cancelled",
    ],
}
"""What the blocks of a page print."""


@pytest.mark.parametrize("page", PAGES)
def test_blocks_say_what_they_are(page):
    """Each block has a language, each shell block a place, and Python a test; text blocks have no commands."""
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block}: one of {sorted(LANGUAGES)}"
        assert block.place in (PLACES if block.language == "sh" else {""}), (
            f"{block}: unknown place"
        )
        if block.file:
            assert block.file in RUN_ELSEWHERE or runs(page, block.file), (
                f"{block}: nothing runs it"
            )
        else:
            assert block.language != "python" or page in PYTHON, f"{block}: no test runs it"
        if block.language == "text":
            assert not re.search(r"^(\$ |aragora-q |make |docker )", block.text, re.MULTILINE), (
                f"{block}: its language is sh"
            )


@pytest.mark.parametrize("page", PAGES)
def test_no_block_leaves_a_umask(page):
    """It is set in a subshell: files that later blocks make stay readable for the services that need them."""
    for block in blocks(page):
        if block.language == "sh":
            assert not re.search(r"^umask", block.text, re.MULTILINE), block


def runs(page, program):
    """Whether a shell block of the page runs a program that the page shows, by its file or as a module."""
    stem = program.rpartition(".")[0]
    names = rf"\b({re.escape(program)}\b|{stem}:\w)"
    return any(re.search(names, block.text) for block in shell(page, ""))


def test_every_substitute_is_needed():
    """Every line that is not run as printed is printed on some page."""
    printed = "\n".join(block.text for page in PAGES for block in blocks(page))
    assert [line for line in SUBSTITUTES if line not in printed] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page):
    """Every command and option that a page names, in a block or in its text, exists."""
    commands = gen_docs.commands()
    for text in [*(block.text for block in blocks(page)), *spans(page)]:
        for words in filter(None, calls(text, "aragora-q")):
            name = next((n for n in (" ".join(words[:2]), words[0]) if n in commands), None)
            if words[0] in {"[OPTIONS]", "COMMAND"}:  # the usage of aragora-q itself
                continue
            assert name or words[0] in {"--version", "--help"}, f"{page}: aragora-q {words}"
            known = {o for each in commands[name].params for o in each.opts} if name else set(words)
            options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert options <= known | {"--help", "-h"}, f"{page}: aragora-q {words}"


@pytest.fixture
def clone(tmp_path):
    """A copy of the repository as a user clones it."""
    return Path(
        shutil.copytree(
            ROOT, tmp_path / "aragora-q",
            ignore=shutil.ignore_patterns(".*", "dist", "build", "__pycache__"),
        )
    )  # fmt: skip


def run_here(page, place, clone, **variables):
    """Run a page's blocks for one place in a clone; return their output."""
    here = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        # `make setup` has been done: this is the environment it has made.
        "MAKEFLAGS": f"--assume-old={sys.prefix}/.ready -- VENV={sys.prefix}",
        "PIP_NO_COMPILE": "1",  # little of what is installed is used
    }
    done = subprocess.run(
        ["bash", "-c", script(shell(page, place))],
        capture_output=True, text=True, timeout=300, check=False, cwd=clone,
        env={**os.environ, **here, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("page", [page for page in pages_for("") if page not in APART])
def test_page_works_here(page, clone, request):
    """In a clone, with only what the page has installed, all commands succeed in order."""
    if (program := NEEDS.get(page)) and not shutil.which(program):
        pytest.skip(f"no {program}: apt-get install {program}")
    write_files(page, clone)
    if any("dist/" in block.text for block in shell(page, "")):
        shutil.copytree(request.getfixturevalue("dist"), clone / "dist")
    said = run_here(page, "", clone)
    for pattern in SHOWS.get(page, ()):
        assert re.search(pattern, said, re.MULTILINE), said


@pytest.mark.parametrize("page", pages_for("cluster"))
def test_page_works_at_a_cluster(page, clone):
    """The resources that would be sent to a cluster are built."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl")
    assert "kind: Deployment" in run_here(page, "cluster", clone)


@pytest.mark.parametrize("page", pages_for("docker"))
def test_page_works_with_docker(page, clone, compose, tmp_path):
    """Compose starts the services; only the project's name and the ports are the test's."""
    if (curl := shutil.which("curl")) is None:
        pytest.skip("no curl: apt-get install curl")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, command in {
        "docker": 'case "$1 ${COMPOSE_FILE-}" in\n'
        f'  "compose ") exec {" ".join(compose.command(clone))} "${{@:2}}" ;;\n'
        f'  compose*) exec {" ".join(compose.command(clone, clone / CONSOLE))} "${{@:2}}" ;;\n'
        f'  *) exec {shutil.which("docker")} "$@" ;;\nesac',
        # A reader types more slowly than a console starts.
        "curl": f"until {curl} -so /dev/null http://{compose.http}/healthz; do sleep 0.1; done\n"
        f'exec {curl} "${{@/127.0.0.1:8080/{compose.http}}}"',
    }.items():
        (tools / name).write_text(f"#!/bin/bash\n{command}\n")
        (tools / name).chmod(0o755)
    said = run_here(page, "docker", clone, PATH=f"{tools}:{os.environ['PATH']}", **compose.images)
    assert "aragora_q_queue_jobs" in said


@pytest.fixture(scope="module")
def manual(debian, wheels):
    """A Debian with a clone on which the manual was followed to its end, except Back up and Restore."""
    with containers.start(
        debian, "--volume", f"{wheels}:/wheels:ro", "--workdir", "/root/aragora-q"
    ) as container:
        subprocess.run(
            f"tar c --exclude='./.*' --exclude=__pycache__ --exclude=./dist . |"
            f" docker exec --interactive {container.id} tar x",
            shell=True, cwd=ROOT, check=True,
        )  # fmt: skip
        # A reader does not restart Redis five times in ten seconds; tests of several pages do.
        container(
            "mkdir -p /run/systemd/system/redis-server.service.d; cd /run/systemd/system;"
            " printf '[Unit]\\nStartLimitIntervalSec=0\\n' > redis-server.service.d/tests.conf;"
            " systemctl daemon-reload"
        )
        follow(
            container,
            [b for b in shell(MANUAL, "debian") if b.section not in {"Back up", "Restore"}],
        )
        yield container


def follow(container, some, before="", after=""):
    """Run blocks in a container after the commands in `before`; then those in `after` must succeed."""
    session = f"set -e\n{before}\n{script(some)}\n{after}"
    wheels = ("--env", "PIP_NO_INDEX=1", "--env", "PIP_FIND_LINKS=/wheels")
    done = subprocess.run(
        ["docker", "exec", "--interactive", *wheels, container.id, "timeout", "240", "bash", "-c", session],
        input="y\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        state = container("systemctl list-jobs; journalctl --lines 50; tail /var/log/redis/*.log")
        pytest.fail(f"{done.returncode}\n{done.stdout}\n{done.stderr}\n{state}")


def test_manual_works(manual):
    """From nothing to monitored workers: the settings that the manual makes are permanent."""
    kept = manual("cat /etc/redis/redis.conf").splitlines()
    assert "appendonly yes" in kept, "for the next start"


def test_restore_brings_the_jobs_back(manual):
    """Backed up, destroyed, restored: an ended job is unchanged, a delayed one waits, a running one runs
    again, uncharged; later jobs are gone. The same after the next start of Redis.
    """

    def section(name):
        return [block for block in shell(MANUAL, "debian") if block.section == name]

    before = f"""
        aragora-q enqueue 'Is it kept?' --id ended {ASK} --wait --quiet
        aragora-q status ended --json > /tmp/ended
        aragora-q enqueue 'Is it here?' --id waiting {ASK} --delay 1d
        aragora-q enqueue 'Is it run?' --id running {ASK} --queue slow
        export ARAGORA_QUEUE_CLAIM_IDLE_MS=1000
        aragora-q worker --queue slow --exec 'sleep 600' --metrics-port 0 >/dev/null 2>&1 & worker=$!
        until aragora-q status running --queue slow --json | grep '"processing"'; do sleep 0.1; done
    """
    after = f"kill -KILL $worker; aragora-q enqueue 'Too late?' --id late {ASK}"
    follow(manual, section("Back up"), before, after)

    destroy = "systemctl stop redis-server; rm -rf /var/lib/redis/*; systemctl start redis-server"
    after = f"""
        systemctl restart redis-server
        aragora-q status ended --json | diff /tmp/ended -
        aragora-q status waiting --json | grep '"pending"'
        aragora-q status late || test $? = 3
        aragora-q enqueue 'Does it go on?' {ASK} --wait --timeout 60 --quiet
        export ARAGORA_QUEUE_CLAIM_IDLE_MS=1000
        aragora-q worker --queue slow --exec 'echo {{}}' --metrics-port 0 >/dev/null 2>&1 & worker=$!
        aragora-q wait running --queue slow --timeout 90 --quiet
        kill $worker
        aragora-q status running --queue slow --json | grep '"attempts":1,'
    """
    follow(manual, section("Restore"), f"{destroy}; aragora-q status ended || test $? = 3", after)


BOTH_UP = "systemctl is-active aragora-q-worker@1 aragora-q-worker@2"
RUNBOOKS = {
    "backlog-old": (
        "",
        "systemctl is-active aragora-q-worker@3; systemctl disable --now aragora-q-worker@3",
    ),
    "budget-burns-fast": ("aragora-q budget set day 1/day", "aragora-q budget reset day"),
    "budget-nearly-used": ("aragora-q budget set day 1/day", "aragora-q budget reset day"),
    "crashes": ("systemctl kill --signal KILL aragora-q-worker@1", ""),
    "credit-exhausted": ("", ""),
    "dead-letters": (
        """echo '{"id": "dead", "payload": {"agents": []}}' | aragora-q enqueue -
        aragora-q wait dead --quiet || test $? = 1""",
        "aragora-q stats --json | grep '\"requeued\": *1'",
    ),
    "deliveries-late": (
        "redis-cli HSET aragora:queue:debates:webhooks failures:ops 3",
        "aragora-q webhook forget ops",
    ),
    "deliveries-lost": ("redis-cli HINCRBY aragora:queue:debates:counters deliveries_failed 1", ""),
    "eviction": (
        "redis-cli CONFIG SET maxmemory-policy allkeys-lru; redis-cli CONFIG REWRITE",
        "systemctl restart redis-server; redis-cli CONFIG GET maxmemory-policy | grep noeviction",
    ),
    "exporter-down": ("systemctl kill --signal STOP aragora-q-exporter", ""),
    "held-long": (
        f"aragora-q enqueue 'Is it wanted?' --id wanted {ASK} --delay 1d; aragora-q hold wanted",
        "aragora-q unhold wanted",
    ),
    "late-starts-burn-fast": ("", "systemctl disable --now aragora-q-worker@3"),
    "late-starts-burn-slow": ("", "systemctl disable --now aragora-q-worker@3"),
    "leases-lost": ("", ""),
    "no-append-only-file": (
        "redis-cli CONFIG SET appendonly no; redis-cli CONFIG REWRITE",
        "grep '^appendonly yes' /etc/redis/redis.conf; aragora-q stats --json | grep '\"has_aof\": *true'",
    ),
    "no-workers": (
        f"""systemctl stop 'aragora-q-worker@*'
        aragora-q enqueue 'Is a worker there?' --id unattended {ASK}
        echo 'concurrency = "many"' > /etc/aragora-q/conf.d/wrong.toml
        systemctl start aragora-q-worker@1 aragora-q-worker@2 || true
        rm /etc/aragora-q/conf.d/wrong.toml""",
        f"aragora-q wait unattended --timeout 60 --quiet; {BOTH_UP}",
    ),
    "objective-invalid": (
        """systemctl restart prometheus
        until promtool query instant http://127.0.0.1:9090 up; do sleep 1; done""",
        "systemctl is-active prometheus",
    ),
    "provider-closed": ("", ""),
    "purge-not-running": (
        "systemctl disable --now aragora-q-purge.timer",
        "systemctl is-active aragora-q-purge.timer",
    ),
    "reaper-not-running": (
        "systemctl disable --now aragora-q-reap.timer",
        "systemctl is-active aragora-q-reap.timer",
    ),
    "redis-away": (
        f"""aragora-q enqueue 'Is it safe?' --id safe {ASK} --wait --quiet
        echo 'no command' | tee --append /var/lib/redis/appendonlydir/*.incr.aof
        systemctl restart redis-server || redis-cli ping || test $? = 1""",
        f"aragora-q status safe; {BOTH_UP}",
    ),
    "redis-memory-high": ("", ""),
    "schedule-missed": (
        "redis-cli HSET aragora:queue:debates:schedules missed:nightly 3",
        "aragora-q schedule forget nightly",
    ),
    "schedule-overdue": (
        "redis-cli HSET aragora:queue:debates:schedules next:nightly 1000",
        "aragora-q schedule list | grep 'not configured here'; aragora-q schedule forget nightly",
    ),
    "schedule-refused": (
        "redis-cli HSET aragora:queue:debates:schedules error:nightly 'group g is sealed'",
        f"aragora-q schedule list | grep sealed; aragora-q schedule forget nightly; {BOTH_UP}",
    ),
    "spend-uncertain": ("", ""),
    "unpriced-calls": ("", ""),
    "webhook-disabled": (
        "redis-cli HSET aragora:queue:debates:webhooks since:ops 1; aragora-q webhook disable ops",
        "aragora-q webhook enable ops; aragora-q webhook forget ops",
    ),
    "worker-stuck": (
        "systemctl kill --signal STOP aragora-q-worker@1",
        "systemctl is-active aragora-q-worker@1; aragora-q healthcheck 127.0.0.1:9711",
    ),
}
"""For each runbook what is wrong when it is opened, and what is so when it was followed."""


def test_every_runbook_is_tried():
    """Each page of docs/runbooks with commands has its fault above."""
    there = {Path(page).stem for page in pages_for("debian") if "/runbooks/" in page}
    assert there == set(RUNBOOKS)


@pytest.mark.parametrize("name", RUNBOOKS)
def test_runbook_helps(name, manual):
    """With the fault that it is for, every command of a runbook works, and the fault is gone afterwards."""
    before, after = RUNBOOKS[name]
    follow(manual, shell(f"docs/runbooks/{name}.md", "debian"), before, after)


@pytest.mark.parametrize(
    "page", [p for p in pages_for("debian") if p != MANUAL and "/runbooks/" not in p]
)
def test_page_works_on_debian(page, manual):
    """As root, in the clone, all commands succeed in order."""
    follow(manual, shell(page, "debian"))
