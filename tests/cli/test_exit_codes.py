"""Exit codes: one claim per code, on a server in the state that causes it."""

import json
import os
import resource
import signal
import subprocess
import time
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from support import servers
from support.wait import wait_until_sync

from aragora_q.streams import queue as streams

ENQUEUE = ("enqueue", "x", "--agents", "demo,demo", "--id", "job")


@pytest.fixture
def full(redis_client, redis_url):
    """A server without free memory."""
    redis_client.config_set("maxmemory", 1)
    yield redis_url
    redis_client.config_set("maxmemory", 0)


@pytest.fixture
def loading(own_server):
    """A server that is loading its data."""
    slow = ("--key-load-delay", "400")  # microseconds: it takes 40 s at least
    server = own_server("--appendonly", "yes", *slow)
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for n in range(100_000):
            pipeline.set(f"key:{n}", "x")
        pipeline.execute()
    server.kill(signal.SIGTERM)
    server.start(wait=False)

    def is_loading():
        try:
            with server.client(socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
                client.ping()
        except redis.BusyLoadingError:
            return True
        except (redis.ConnectionError, redis.TimeoutError):
            return False
        raise AssertionError("it has loaded already")

    wait_until_sync(is_loading)
    return server.url


@pytest.fixture
def replica(own_server):
    """A server that refuses writes."""
    server = own_server()
    with server.client() as client:
        client.replicaof("127.0.0.1", servers.free_port())
    return server.url


@pytest.fixture
def locked(own_server):
    """A server with a password."""
    return own_server("--requirepass", "secret").url


@pytest.fixture
def forbidden(own_server):
    """The URL of a user with almost no rights."""
    server = own_server()
    with server.client() as client:
        client.acl_setuser(
            "reader", enabled=True, passwords=["+pw"], commands=["+info", "+ping", "+hello"]
        )
    return server.url.replace("redis://", "redis://reader:pw@")


@pytest.fixture
def cluster_down(own_server, monkeypatch):
    """A cluster node that serves no slots, and a client that does not wait for a failover."""
    monkeypatch.setattr(streams, "FAILOVER_SECONDS", 0.2)
    return own_server("--cluster-enabled", "yes").url.replace("redis://", "redis+cluster://")


@pytest.fixture
def down():
    """A port without a server."""
    return f"redis://127.0.0.1:{servers.free_port()}"


@pytest.fixture
def nowhere():
    """A socket that does not exist."""
    return "unix:///no/such.socket"


@pytest.fixture
def without_database(redis_url):
    """The number of a database that the server does not have."""
    return urlsplit(redis_url)._replace(path="/999").geturl()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "args", "code", "message"),
    [
        ("down", ENQUEUE, 69, ": connection refused"),
        ("nowhere", ENQUEUE, 69, "unix:///no/such.socket: No such file or directory"),
        ("without_database", ("stats",), 78, "DB index is out of range"),
        ("down", ("status", "x"), 69, "cannot reach Redis at"),
        ("full", ENQUEUE, 75, "OOM"),
        ("loading", ENQUEUE, 75, "LOADING"),
        ("loading", ("list",), 75, "LOADING"),
        ("replica", ENQUEUE, 75, "READONLY"),
        ("cluster_down", ENQUEUE, 75, "no node serves slot"),
        ("locked", ENQUEUE, 77, "denies access"),
        ("locked", ("tail",), 77, "denies access"),
        ("forbidden", ENQUEUE, 77, "denies access"),
        ("forbidden", ("status", "x"), 77, "denies access"),
    ],
)
def test_an_error_of_the_server_is_one_line_and_a_hint(
    request, run_cli, state, args, code, message
):
    """The exit code gives the kind of error; stderr says what, where and what to do, without secrets."""
    url = request.getfixturevalue(state)
    ended = run_cli(*args, "--redis-url", url)
    assert (ended.code, ended.out) == (code, "")
    first, hint = ended.err.splitlines()
    assert first.startswith("aragora-q: error: ")
    assert message in first
    assert hint.startswith("  hint: ")
    assert ":pw@" not in ended.err


def test_a_full_backlog_is_75(run_cli, monkeypatch):
    """Beyond max_backlog an enqueue is refused, and may be repeated later."""
    monkeypatch.setenv("ARAGORA_QUEUE_MAX_BACKLOG", "1")
    assert run_cli(*ENQUEUE).code == 0
    ended = run_cli("enqueue", "y", "--agents", "demo,demo")
    assert ended.code == 75
    assert "has reached its limit of 1 waiting jobs; 1 of 1 were not enqueued" in ended.err


def test_an_unknown_job_is_3(run_cli):
    """The same for a job past its retention; the message names queue and remedy."""
    for name in ("status", "wait", "cancel", "requeue"):
        ended = run_cli(name, "missing")
        assert (ended.code, ended.out) == (3, "")
        assert "job missing " in ended.err
        assert "expired (ended more than the retention time ago)" in ended.err
        assert name == "requeue" or "job missing not found in queue debates" in ended.err
        assert name == "requeue" or "  hint: check --queue" in ended.err


def test_an_empty_id_is_2(run_cli):
    """`wait "$id"` after a failed enqueue: the message says that the id is empty."""
    for name in ("status", "wait", "cancel", "requeue"):
        ended = run_cli(name, "")
        assert (ended.code, ended.out) == (2, "")
        assert "a job id is empty: the command that printed it may have failed" in ended.err


def test_bad_configuration_is_78(run_cli, monkeypatch):
    """An unknown setting is named, with the nearest one that exists."""
    monkeypatch.setenv("ARAGORA_QUEUE_CONCURENCY", "3")
    ended = run_cli("status", "x")
    assert ended.code == 78
    assert "did you mean 'ARAGORA_QUEUE_CONCURRENCY'" in ended.err


def test_unknown_commands_and_options_are_2(run_cli):
    """A usage error is a line that names option, value and rule, and one that names the help."""
    for args, message, path in (
        (("enqeue",), "'enqeue'. Did you mean 'enqueue'", ""),
        (("--verison",), "--verison (Possible options: --version)", ""),
        (("status",), "Missing argument 'ID", " status"),
        (("status", "--nope", "x"), "--nope", " status"),
        (("list", "--status", "lost"), "'lost' is not one of 'pending'", " list"),
        (("list", "-n", "many"), "--limit / -n: 'many' must be a whole number", " list"),
        (("tail", "--after", "x"), "--after: 'x' is not an event id", " tail"),
    ):
        ended = run_cli(*args)
        assert (ended.code, ended.out) == (2, "")
        first, hint = ended.err.splitlines()
        assert first.startswith("aragora-q: error: ")
        assert message in first
        assert hint == f"  hint: aragora-q{path} --help"


def test_a_timeout_is_124(run_cli):
    """`wait` ends, and names the jobs that have not ended."""
    run_cli(*ENQUEUE)
    started = time.monotonic()
    ended = run_cli("wait", "job", "--timeout", "0.2")
    assert time.monotonic() - started < 30
    assert (ended.code, ended.err) == (
        124,
        "aragora-q: error: timeout: not ended after 0.2 s: job\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_waiting_command_ends_by_the_signal(start_command, cli_command, number):
    """130 and 143 in a shell: the process ends by the signal, without output."""
    cli_command(*ENQUEUE)
    process = start_command("tail", "--after", "0")
    process.stdout.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (-number, b"", b"")


def test_a_stopped_worker_is_143(start_command):
    """A worker that drained after SIGTERM ends by that signal."""
    process = start_command("worker", "--metrics-port", "0")
    while b"worker started" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


def test_a_closed_pipe_is_quiet(cli_command, start_command):
    """`list | true`: no error message when the reader has closed the pipe."""
    cli_command("enqueue", "-", stdin="".join(
        json.dumps({"payload": {"n": n, "x": "x" * 1000}}) + "\n" for n in range(200)
    ))  # fmt: skip
    process = start_command("list", "-n", "200", "--json", stdout=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""


@pytest.mark.slow
def test_output_that_cannot_be_written_is_an_error(start_command, tmp_path):
    """`> FILE` on a full disk: one line says so, and the exit code is not 0."""

    def no_file_may_grow():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    for args in (("status", "--help"), ("stats",), ("config", "show")):
        with (tmp_path / "out").open("w") as out:
            process = start_command(*args, stdout=out, preexec_fn=no_file_may_grow)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert err.startswith(
            b"aragora-q: error: cannot write to standard output: File too large\n  hint: "
        )
        assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("args", "closed", "code"),
    [
        (("stats",), 1, 0),
        (("--version",), 1, 0),
        (("status", "missing"), 2, 3),
        (("enqueue", "-"), 0, 2),
    ],
)
def test_closed_standard_streams_change_nothing(start_command, args, closed, code):
    """`<&-`, `>&-` or `2>&-`, as some supervisors start programs: no traceback, and the same exit code.

    Except for a command that is to read a stdin that is closed.
    """
    inherit = {"stdin": None, "stdout": None} if closed < 2 else {"stdin": None, "stderr": None}
    process = start_command(*args, **inherit, preexec_fn=lambda: os.close(closed))
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert b"Traceback" not in (out or b"") + (err or b"")


def test_debug_shows_where_an_error_came_from(run_cli, down):
    """A traceback is shown only with --debug."""
    ended = run_cli("--debug", "status", "x", "--redis-url", down)
    assert ended.code == 69
    assert "Traceback" in ended.err
    assert ended.err.count("aragora-q: error: ") == 1
