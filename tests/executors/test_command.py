"""The `command` executor on real programs, on asyncio's event loop and on uvloop's."""

import asyncio
import logging
import time
from pathlib import Path

import pytest
from support.memory_session import MemorySession, make_attempt, result_of
from support.wait import wait_until

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import Failed, Released, Retry
from aragora_q.errors import ConfigError, RedisUnreachable
from aragora_q.executors import command
from aragora_q.worker import attempt


def test_program_gets_the_job_and_answers_with_the_result(run_program):
    """stdin holds the whole job and its earlier checkpoints; what stdout says is the result."""
    outcome, _ = run_program(
        "cat",
        session=MemorySession({"round-1": {"kept": True}}),
        payload=b'{"question": "caf\xc3\xa9?"}',
        id="j1",
        attempts=2,
        fence=7,
        crashes=1,
        priority=5,
        group="nightly",
        tags={"env": "prod"},
    )
    job = result_of(outcome)
    assert job["id"] == "j1"
    assert job["payload"] == {"question": "café?"}
    assert (job["attempt"], job["max_attempts"], job["is_last_attempt"]) == (2, 3, False)
    assert (job["fence"], job["crashes"], job["priority"]) == (7, 1, 5)
    assert (job["group"], job["tenant"], job["tags"]) == ("nightly", None, {"env": "prod"})
    assert job["checkpoints"] == {"round-1": {"kept": True}}


def test_program_knows_its_job_from_the_environment(run_program):
    """Job id, attempt and fence are environment variables."""
    outcome, _ = run_program(
        'echo "{\\"is\\": \\"$ARAGORA_JOB_ID $ARAGORA_JOB_ATTEMPT $ARAGORA_JOB_FENCE\\"}"',
        id="j1",
        attempts=2,
        fence=7,
    )
    assert result_of(outcome) == {"is": "j1 2 7"}


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        ("exit 75", Retry("RetryLater: exit code 75: why", 1.0, charged=False)),
        ("exit 65", Failed("PermanentError: exit code 65: why")),
        ("exit 2", Failed("PermanentError: exit code 2: why")),
        ("exit 1", Retry("CommandFailed: exit code 1: why", 1.0)),
        ("exit 127", Retry("CommandFailed: exit code 127: why", 1.0)),
        ("kill -KILL $$", Retry("CommandFailed: killed by SIGKILL: why", 1.0)),
        ("kill -TERM $$", Retry("CommandFailed: killed by SIGTERM: why", 1.0)),
    ],
)
def test_exit_code_decides_the_outcome(run_program, ending, outcome):
    """75 is retry later, 65 and 2 are permanent, all others retry; stderr's last line is the error."""
    assert run_program(f"echo first >&2; echo why >&2; {ending}")[0] == outcome


def test_exit_code_decides_whatever_the_program_says(run_program):
    """Messages that make an exception permanent do not override a program's exit code."""
    outcome, _ = run_program("echo 'invalid: not found' >&2; exit 1")
    assert outcome == Retry("CommandFailed: exit code 1: invalid: not found", 1.0)


def test_program_sets_the_delay(run_program):
    """`retry_after` on fd 3 is used like a provider's Retry-After; it needs exit code 75."""
    outcome, _ = run_program("""echo '{"retry_after": 40.5}' >&3; exit 75""")
    assert outcome == Retry("RetryLater: exit code 75", 40.5, charged=False)


def test_progress_and_checkpoints_arrive_in_order(run_program):
    """What the program writes to fd 3 reaches the queue, all of it before the job ends."""
    outcome, session = run_program(
        """
        echo '{"progress": {"round": 1}}' >&3
        echo '{"checkpoint": "round-1", "value": {"answer": 1}}' >&3
        echo '{"checkpoint": "round-1", "value": {"answer": 2}}' >&3
        printf '{"checkpoint": "last", "value": {"no": "newline"}}' >&3
        echo '{}'
        """
    )
    assert result_of(outcome) == {}
    assert session.progress == [{"round": 1}]
    assert session.kept == {"round-1": {"answer": 2}, "last": {"no": "newline"}}


def test_checkpoints_of_a_failing_program_are_kept(run_program):
    """The next attempt finds what the failed one had saved."""
    _, session = run_program("""echo '{"checkpoint": "a", "value": {"n": 1}}' >&3; exit 1""")
    assert session.kept == {"a": {"n": 1}}


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1]",
        '{"progres": {}}',
        '{"progress": 3}',
        '{"progress": {}, "checkpoint": "a"}',
        '{"checkpoint": "a"}',
        '{"checkpoint": "", "value": {}}',
        '{"checkpoint": "%s", "value": {}}' % ("n" * 201),
        '{"retry_after": "soon"}',
        '{"retry_after": true}',
        r"\377\376",
    ],
)
def test_unknown_line_on_fd_3_is_a_warning(run_program, caplog, line):
    """An unknown message is logged with the job's id, and the job goes on."""
    outcome, session = run_program(f"""printf '{line}\\n' >&3; echo '{{"ok": 1}}'""", id="j1")
    assert result_of(outcome) == {"ok": 1}
    assert not session.progress
    assert not session.kept
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.job == "j1"
    assert "fd 3" in record.getMessage()


def test_endless_line_on_fd_3_ends_the_job(run_program, monkeypatch):
    """A checkpoint beyond every limit fails the job permanently; the rest of the output is not read."""
    monkeypatch.setattr(command, "MAX_MESSAGE_BYTES", 100_000)
    outcome, _ = run_program("yes | tr -d '\\n' >&3; echo '{}'")
    assert outcome == Failed("PermanentError: a line on fd 3 is longer than 100000 bytes")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("true", "exit code 0, but stdout (b'') is not JSON"),
        ("echo hello", "exit code 0, but stdout (b'hello\\n') is not JSON"),
        ("echo '[1]'", "exit code 0, but stdout is not a JSON object"),
        ("echo '{} {}'", "is not JSON"),
        (r"printf '{\"a\": \"\377\"}'", "is not JSON"),
    ],
)
def test_output_that_is_no_result_fails_the_job(run_program, text, error):
    """A successful program without a result: the error shows what it wrote instead."""
    outcome, _ = run_program(text)
    assert isinstance(outcome, Failed)
    assert error in outcome.error


def test_result_is_bounded(run_program):
    """A program whose output does not end is stopped at max_result_bytes."""
    outcome, _ = run_program("yes", settings={"max_result_bytes": 100_000})
    assert outcome == Failed("PermanentError: stdout is longer than max_result_bytes (100000)")


def test_result_of_exactly_the_limit_is_accepted(run_program):
    """The limit is inclusive."""
    outcome, _ = run_program("""printf '{"a":"123"}'""", settings={"max_result_bytes": 11})
    assert result_of(outcome) == {"a": "123"}


def test_stderr_goes_to_the_log_line_by_line(run_program, caplog):
    """Each line is one record with job and attempt; bytes that are not text do no harm."""
    caplog.set_level(logging.INFO, "aragora_q")
    run_program(r"printf 'one\n\n two \377\nthree' >&2; echo '{}'", id="j1", attempts=2)
    said = [(record.job, record.attempt, record.text) for record in caplog.records]
    assert said == [("j1", 2, "one"), ("j1", 2, "two \ufffd"), ("j1", 2, "three")]


def test_flood_on_stderr_is_bounded(run_program, caplog):
    """A program cannot flood the log, with neither many lines nor a long one."""
    caplog.set_level(logging.INFO, "aragora_q")
    started = time.monotonic()
    run_program("yes | head -200000 >&2; yes | tr -d '\\n' | head -c 1000000 >&2; echo '{}'")
    seconds = int(time.monotonic() - started) + 2
    assert 0 < len(caplog.records) <= seconds * command.LOG_LINES_PER_SECOND
    assert max(len(record.text) for record in caplog.records) <= command.MAX_LOG_LINE_BYTES + 1


def test_program_need_not_read_its_job(run_program):
    """A large job whose program ignores stdin neither blocks nor breaks anything."""
    outcome, _ = run_program("echo '{}'", payload=b'{"a": "%s"}' % (b"x" * 1_000_000))
    assert result_of(outcome) == {}


def test_large_job_is_read_whole(run_program):
    """Payloads beyond a pipe's capacity arrive complete."""
    outcome, _ = run_program(
        """echo "{\\"bytes\\": $(wc -c)}" """, payload=b'{"a": "%s"}' % (b"x" * 1_000_000)
    )
    assert result_of(outcome)["bytes"] > 1_000_000


def test_secrets_are_not_passed_to_programs(run_program, monkeypatch, tmp_path):
    """A program gets the worker's environment without access to Redis, systemd or the receiver of spans."""
    secret = tmp_path / "secret"
    secret.write_text("hush")
    hidden = {
        "REDIS_URL": "redis://:hush@localhost",
        "REDIS_PASSWORD": "hush",
        "REDIS_PASSWORD_FILE": str(secret),
        "REDIS_SENTINEL_PASSWORD": "hush",
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "NOTIFY_SOCKET": "/run/hush",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=hush",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=hush",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://me:hush@localhost",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://localhost/v1/metrics?key=hush",
    }
    passed = {"OPENAI_API_KEY": "of-it", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost"}
    for name, value in {**hidden, **passed}.items():
        monkeypatch.setenv(name, value)
    dump = "exec env -0"
    outcome, _ = run_program(f"""{dump} | tr -c 'A-Z0-9_=' ' ' | sed 's/.*/{{"env": "&"}}/'""")
    variables = result_of(outcome)["env"]
    for name in passed:
        assert f"{name}=" in variables
    for name in hidden:
        assert f"{name}=" not in variables


def test_secrets_that_are_allowed_are_passed(run_program, monkeypatch):
    """The setting names variables that are passed nevertheless."""
    monkeypatch.setenv("REDIS_URL", "redis://somewhere")
    monkeypatch.setenv("REDIS_PASSWORD", "hush")
    outcome, _ = run_program(
        """echo "{\\"url\\": \\"$REDIS_URL\\", \\"password\\": \\"$REDIS_PASSWORD\\"}" """,
        settings={"exec_env_allowlist": "HOME, REDIS_URL"},
    )
    assert result_of(outcome) == {"url": "redis://somewhere", "password": ""}


def test_program_starts_with_default_signals_and_a_new_session(run_program):
    """No ignored signal is inherited, and Ctrl-C at the terminal does not reach the program."""
    outcome, _ = run_program(
        """
        ignored=0x$(sed -n 's/^SigIgn:.//p' /proc/self/status)  # bit 12: SIGPIPE, bit 24: SIGXFSZ
        ends=$(readlink /proc/$$/fd/0 /proc/$$/fd/3 | cut -c1-5 | tr '\\n' ' ')
        session=$(cut -d' ' -f6 /proc/$$/stat)
        leads=$((session == $$))
        echo "{\\"ignored\\": $((ignored & 0x1001000)), \\"ends\\": \\"$ends\\", \\"leads\\": $leads}"
        """
    )
    assert result_of(outcome) == {"ignored": 0, "ends": "/memf pipe: ", "leads": 1}


def test_checkpoint_waits_for_redis(run_program, monkeypatch):
    """While Redis is away, checkpoints wait for it, and so do those of earlier attempts at the start."""
    monkeypatch.setattr(attempt, "CHECKPOINT_RETRY_SECONDS", 0.01)
    session = MemorySession({"old": {"n": 1}})
    session.refuse_with = [RedisUnreachable("away")] * 3
    original = session.checkpoint
    asked = []

    async def away_twice(job, name, value):
        asked.append(name)
        if len(asked) <= 2:
            raise RedisUnreachable("away")
        await original(job, name, value)

    session.checkpoint = away_twice
    outcome, _ = run_program(
        """echo '{"checkpoint": "new", "value": {}}' >&3; cat""", session=session
    )
    assert result_of(outcome)["checkpoints"] == {"old": {"n": 1}}
    assert session.kept == {"old": {"n": 1}, "new": {}}


def test_progress_does_not_wait_for_redis(run_program, caplog):
    """During an outage progress is dropped with a warning; the job goes on."""
    session = MemorySession()
    original = session.report_progress

    async def away(job, progress):
        session.refuse_with = [RedisUnreachable("Redis is away")]
        await original(job, progress)

    session.report_progress = away
    outcome, _ = run_program("""echo '{"progress": {"n": 1}}' >&3; echo '{}'""", session=session)
    assert result_of(outcome) == {}
    assert any(getattr(record, "text", "") == "Redis is away" for record in caplog.records)


def test_flood_of_progress_is_bounded(run_program):
    """Only some of many progress messages are sent; a checkpoint after them is kept."""
    started = time.monotonic()
    outcome, session = run_program(
        """yes '{"progress": {"n": 1}}' | head -20000 >&3
        echo '{"checkpoint": "a", "value": {}}' >&3; echo '{}'"""
    )
    assert result_of(outcome) == {}
    seconds = int(time.monotonic() - started) + 2
    assert 0 < len(session.progress) <= seconds * command.PROGRESS_PER_SECOND
    assert session.kept == {"a": {}}


def test_a_missing_program_is_the_workers_trouble(on_loop, program, tmp_path):
    """A deploy that replaces the program under a running worker charges no job."""
    config = QueueConfig(exec_command=program("echo '{}'"))
    executor = command.create(config)
    (tmp_path / "program").unlink()
    attempt = make_attempt(executor)
    assert on_loop(attempt.run()) == Released()
    assert attempt.trouble == f"cannot start {tmp_path / 'program'}: No such file or directory"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("", "exec_command is empty"),
        ("  ", "exec_command is empty"),
        ("no-such-program --x", "exec_command: 'no-such-program' not found or not executable"),
        ("'unbalanced", "exec_command: No closing quotation"),
        ("./none", "exec_command: './none' not found or not executable"),
        ("./data", "exec_command: './data' is not executable: run chmod"),
        ("./", "exec_command: './' is a directory"),
    ],
)
def test_command_that_cannot_run_is_refused_at_start(tmp_path, monkeypatch, line, error):
    """The worker does not start with a command that would fail every job; it says why."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").touch(mode=0o644)
    with pytest.raises(ConfigError, match=error):
        command.create(QueueConfig(exec_command=line))


def test_arguments_are_not_a_shell(on_loop):
    """Quotes group arguments; nothing on the command line is expanded."""
    line = """printf '{"words": "%s|%s"}' '$HOME; a' b"""
    executor = command.create(QueueConfig(exec_command=line))
    assert on_loop(executor(Job({}))) == {"words": "$HOME; a|b"}


def test_runs_leave_no_descriptor_behind(on_loop, program):
    """After many programs, also failing ones, the worker has as many open files as before."""
    good = command.create(QueueConfig(exec_command=program("echo '{}'")))

    async def count():
        await good(Job({}))
        before = len(list(Path("/proc/self/fd").iterdir()))
        await asyncio.gather(*(good(Job({})) for _ in range(20)))
        await wait_until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= before)

    on_loop(count())
