"""The specification runs as printed, with only the package renamed.

Its Python blocks run in order in one namespace, its shell lines in a shell, its tables row by row.
Docker is tested with its files.
"""

import ast
import asyncio
import builtins
import inspect
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from support import invariants
from support.paths import ROOT
from support.wait import wait_until, wait_until_sync

import aragora_q
from aragora_q.base import Job, JobStatus
from aragora_q.config.settings import QueueConfig, get_queue_config
from aragora_q.contracts import Completed, Identity, Report
from aragora_q.job import DebateResult
from aragora_q.retry import is_retryable_error
from aragora_q.streams.queue import RedisStreamsQueue

SPECIFICATION = (ROOT / "tests" / "fixtures" / "specification.md").read_text()
QUEUE = "aragora:queue:debates:"


def section(title):
    """The text under a heading, up to the next heading of the same or a higher level."""
    start = re.search(rf"^(#+) {re.escape(title)}$", SPECIFICATION, re.MULTILINE)
    text = SPECIFICATION[start.end() :]
    end = re.search(
        rf"^#{{1,{len(start[1])}}} ",
        re.sub(r"```.*?```", _blank, text, flags=re.DOTALL),
        re.MULTILINE,
    )
    return text[: end.start() if end else len(text)]


def _blank(match):
    return re.sub(r"[^\n]", " ", match[0])


def blocks(language, text=SPECIFICATION):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def table(title):
    """The rows of a section's table, without the heading, cells without back quotes."""
    rows = re.findall(r"^\|(.+)\|$", section(title), re.MULTILINE)[2:]
    return [[cell.strip().strip("`") for cell in row.split("|")] for row in rows]


async def run(code, namespace):
    """Run a block of Python, with `await` at its top level as the document has it."""
    renamed = code.replace("aragora.queue", "aragora_q")
    compiled = compile(renamed, "specification.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, namespace)
    if inspect.isawaitable(result):
        await result


@pytest.fixture
def _settings(monkeypatch, redis_url):
    monkeypatch.setenv("REDIS_URL", redis_url)
    for name in ("CLAUDE", "GPT"):
        monkeypatch.setenv(f"ARAGORA_AGENT_{name}", "demo")


@pytest.mark.usefixtures("_settings")
async def test_python_blocks_run_as_printed(capsys, redis_client):
    """Enqueue, work, configure, back off, watch: each block does what its comments and prints say."""
    enqueue, work, config, policy, queue_stats, worker_stats = blocks("python")
    known = {}

    await run(enqueue, known)
    client = known["queue"]
    job_id = known["job_id"]
    assert capsys.readouterr().out == f"Job enqueued: {job_id}\nStatus: pending\n"

    working = asyncio.create_task(run(work, known))
    await wait_until(lambda: "worker" in known or working.done())
    worker = known["worker"]
    await wait_until(lambda: worker.get_stats()["jobs_processed"] == 1, timeout=90)
    done = await client.get_job(job_id)
    assert await client.get_status(job_id) is JobStatus.COMPLETED
    assert isinstance(DebateResult.from_dict(done.result), DebateResult)

    await run(config, known)
    assert get_queue_config() is known["config"]

    await run(policy, known)
    delays = re.findall(r"^# Attempt (\d): ([\d.]+)s \(± 20%\)$", policy, re.MULTILINE)
    assert len(delays) == 3
    for attempt, seconds in delays:
        delay = known["policy"].delay_seconds(int(attempt))
        assert 0.8 * float(seconds) <= delay <= 1.2 * float(seconds)

    capsys.readouterr()
    await run(queue_stats, known)
    length, pending, groups = capsys.readouterr().out.splitlines()
    assert (length, pending) == ("Stream length: 0", "Pending jobs: 0")
    assert groups.startswith("Consumer groups: [{")
    assert "'aragora-workers'" in groups

    await run(worker_stats, known)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "Worker ID: worker-1",
        "Active jobs: 0",
        "Jobs processed: 1",
        "Jobs failed: 0",
    ]
    assert re.fullmatch(r"Uptime: [\d.]+s", lines[4])

    await worker.stop()
    await working
    await known["queue"].close()
    await client.close()
    invariants.check(redis_client, QUEUE)


def test_every_block_is_tested():
    """Six blocks of Python and three of shell; the others are figures."""
    assert len(blocks("python")) == 6
    shell = blocks("bash")
    assert [block.splitlines()[0] for block in shell] == [
        "# Start a worker",
        "# Start with workers",
        "# Unit tests",
    ]


def in_shell(text, redis_url, **options):
    """Start lines of the document in a shell; `options` are those of Popen."""
    port = redis_url.rpartition(":")[2]
    bin_directory = Path(sys.executable).parent
    return subprocess.Popen(
        ["bash", "-c", f'redis-cli() {{ command redis-cli -p {port} "$@"; }}\n{text}'],
        env={
            **os.environ,
            "PATH": f"{bin_directory}:{os.environ['PATH']}",
            "REDIS_URL": redis_url,
            "ARAGORA_QUEUE_EXECUTOR": "command",
            "ARAGORA_QUEUE_EXEC_COMMAND": "true",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


@contextmanager
def workers_of(paragraph, redis_url):
    """Start the workers of some lines, and stop them at the end; they must stop cleanly."""
    shell = in_shell(f"{paragraph}\nwait", redis_url)
    try:
        yield shell
        os.killpg(shell.pid, signal.SIGTERM)
        said = shell.communicate(timeout=60)[1]
        assert "worker stopped" in said
        assert "Traceback" not in said
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.communicate()


@pytest.mark.parametrize("command", ["aragora-q worker", "python -m aragora_q worker"])
def test_worker_lines_run_as_printed(redis_url, redis_client, command):
    """Each paragraph of the worker's shell block starts the workers that its comment announces."""
    [block] = blocks("bash", section("Command Line Worker"))
    start, custom, several = (
        block.replace("python -m scripts.queue_worker", command)
        .replace("redis://redis.example.com:6379", redis_url)
        .strip()
        .split("\n\n")
    )

    def registered():
        return {
            name: redis_client.hget(f"{QUEUE}worker:{name}", "concurrency")
            for name in redis_client.zrange(f"{QUEUE}workers", 0, -1)
        }

    for paragraph, expected in (
        (start, {"worker-1": "3"}),
        (custom, None),
        (several, {"worker-1": "3", "worker-2": "3"}),
    ):
        with workers_of(paragraph, redis_url):
            number = len(expected or [1])
            wait_until_sync(lambda number=number: len(registered()) == number, 30)
            assert expected is None or registered() == expected
        wait_until_sync(lambda: not registered(), what="the workers to unregister")


def test_redis_cli_lines_of_troubleshooting(redis_url):
    """`ping`, `XINFO GROUPS` and `XPENDING` show what the document says that they show."""
    lines = re.findall(r"`(redis-cli [^`]+)`", section("Troubleshooting"))
    assert len(lines) == 3

    async def one_running_job():
        queue = RedisStreamsQueue(QueueConfig(redis_url=redis_url))
        await queue.enqueue(Job({}, id="j1"))
        session = queue.session(Identity("worker-1"))
        await session.register({})
        [_] = (await session.start(1)).jobs
        await queue.close()

    asyncio.run(one_running_job())
    ping, groups, pending = (in_shell(line, redis_url).communicate(timeout=60)[0] for line in lines)
    assert ping == "PONG\n"
    assert groups.split()[:2] == ["name", "aragora-workers"]
    assert pending.splitlines()[0] == "1"
    assert "worker-1" in pending


def test_environment_variables_are_the_documented_ones(monkeypatch):
    """Each row's variable exists, has the printed default, and changes the setting it describes."""
    fields = {
        "REDIS_URL": ("redis_url", "redis://elsewhere:1", "redis://elsewhere:1"),
        "ARAGORA_QUEUE_PREFIX": ("key_prefix", "mine:", "mine:"),
        "ARAGORA_QUEUE_RETRY_MAX": ("retry_max_attempts", "5", 5),
        "ARAGORA_QUEUE_CLAIM_IDLE_MS": ("claim_idle_ms", "1500", 1500),
        "ARAGORA_QUEUE_MAX_JOB_TTL_DAYS": ("max_job_ttl_days", "2", 2),
    }
    rows = {name: default for name, default, _ in table("Environment Variables")}
    assert set(rows) == set(fields)
    for variable, (field, text, value) in fields.items():
        assert str(getattr(QueueConfig(), field)) == rows[variable] or getattr(
            QueueConfig(), field
        ) == float(rows[variable])
        monkeypatch.setenv(variable, text)
        assert getattr(QueueConfig(), field) == value
        monkeypatch.delenv(variable)


async def test_environment_variables_mean_what_they_say(monkeypatch, redis_url, redis_client):
    """On the server: prefix of the keys, attempts of a job, its lease, and its retention."""
    for name, value in {
        "REDIS_URL": redis_url,
        "ARAGORA_QUEUE_PREFIX": "mine:",
        "ARAGORA_QUEUE_RETRY_MAX": "1",
        "ARAGORA_QUEUE_CLAIM_IDLE_MS": "1500",
        "ARAGORA_QUEUE_MAX_JOB_TTL_DAYS": "2",
    }.items():
        monkeypatch.setenv(name, value)
    queue = await aragora_q.create_redis_queue()
    await queue.enqueue(Job({}, id="j1"))
    session = queue.session(Identity("worker-1"))
    await session.register({})
    [job] = (await session.start(1)).jobs
    fields = redis_client.hgetall("mine:debates:job:j1")
    assert (fields["max_attempts"], fields["lease_ms"]) == ("1", "1500")
    assert await session.report([Report(job, Completed(b"{}"))]) == ["completed"]
    assert {key.partition(":")[0] for key in redis_client.scan_iter()} == {"mine"}
    days = redis_client.pttl("mine:debates:job:j1") / 86_400_000
    assert 2 < days <= 3
    await queue.close()


async def test_redis_commands_are_the_documented_ones(redis_url, redis_client):
    """Enqueue, dequeue, acknowledge, claim, pending and length use the stream commands of the table."""
    redis_client.config_resetstat()
    queue = RedisStreamsQueue(QueueConfig(redis_url=redis_url))
    await queue.enqueue(Job({}, id="j1"))
    session = queue.session(Identity("dead"))
    await session.register({})
    [_] = (await session.start(1)).jobs
    entry = redis_client.hget(f"{QUEUE}job:j1", "entry")
    redis_client.xclaim(f"{QUEUE}stream", "aragora-workers", "dead", 0, [entry], idle=10**8)
    redis_client.config_resetstat()
    await queue.reclaim()
    await queue.reclaim()
    stats = await queue.get_queue_stats()
    [job] = (await session.start(1)).jobs
    await session.report([Report(job, Completed(b"{}"))])
    await queue.enqueue(Job({}))
    used = {name.removeprefix("cmdstat_").upper() for name in redis_client.info("commandstats")}
    assert {command for _, command, _ in table("Redis Streams Commands")} <= used
    assert {"stream_length", "pending_count", "groups"} <= set(stats)
    await queue.close()


def test_components_are_where_the_table_says():
    """Each module or package of the table exists, and defines the names that its purpose mentions."""
    for module_name, purpose in table("Components"):
        module = import_module(f"aragora_q.{module_name.removesuffix('.py')}")
        for name in re.findall(r"`(\w+)`", purpose):
            defined_in = getattr(module, name).__module__
            assert defined_in == module.__name__ or defined_in.startswith(f"{module.__name__}.")


def test_life_of_a_job_has_the_documented_states():
    """Every state of the diagram is a status."""
    [diagram] = blocks("", section("Job Lifecycle"))
    states = set(re.findall(r"\b[A-Z]{4,}\b", diagram))
    assert states == {"PENDING", "PROCESSING", "COMPLETED", "RETRYING", "FAILED"}
    assert states <= {status.name for status in JobStatus}


def test_errors_are_retried_as_listed():
    """Both lists, item by item: types by name, patterns by message."""
    retried, final = re.split(
        r"^\*\*Non-", section("Retryable vs Non-Retryable Errors"), flags=re.MULTILINE
    )
    for name in re.findall(r"`(\w+)`", retried):
        assert is_retryable_error(getattr(builtins, name)("x"))
    for text in ("rate limits", "server errors"):
        assert text in retried
        assert is_retryable_error(RuntimeError(text))
    for name in re.findall(r"`(\w+)`", final):
        assert not is_retryable_error(getattr(builtins, name)("x"))
    words = re.findall(r'"([a-z ]+)"', final)
    assert words == ["invalid", "not found", "validation"]
    for word in words:
        assert not is_retryable_error(RuntimeError(f"it is {word}"))


def test_statistics_have_the_documented_keys():
    """The keys that the monitoring blocks read are those that the statistics promise."""
    read = set(re.findall(r"stats\['(\w+)'\]", section("Monitoring")))
    assert read == {
        "stream_length", "pending_count", "groups",
        "worker_id", "active_jobs", "jobs_processed", "jobs_failed", "uptime_seconds",
    }  # fmt: skip


def test_test_lines_name_what_exists():
    """The document's pytest lines find the file and the package that they name."""
    [block] = blocks("bash", section("Testing"))
    lines = [line.split() for line in block.splitlines() if line.startswith("pytest")]
    assert lines
    for _, file, option in lines:
        assert (ROOT / file).is_file()
        covered = option.partition("--cov=")[2].replace("aragora.queue", "aragora_q")
        assert not covered or find_spec(covered)
