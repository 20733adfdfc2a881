"""`aragora-q exporter`: metrics are computed at scrape; `/healthz` reports the state of Redis."""

import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request

import pytest
from support import servers
from support.paid_calls import book, ok
from support.queue_harness import PREFIX
from support.wait import wait_until_sync


def _get(port, path):
    """Status and text of a response; None if nothing listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None


@pytest.fixture
def exporter(start_command):
    """Starts an exporter; returns its port and process."""

    def start(*args):
        port = servers.free_port()
        process = start_command("exporter", "--listen", f"127.0.0.1:{port}", *args)
        wait_until_sync(lambda: _get(port, "/healthz"), 30, "a response of the exporter")
        return port, process

    return start


@pytest.mark.slow
def test_metrics_are_computed_at_scrape(exporter, run_cli):
    """Jobs enqueued after the start are in the next scrape; promtool accepts it."""
    port, process = exporter()
    for number in (1, 2):
        assert run_cli("enqueue", f"{number}?", "--agents", "demo:bold,demo:careful").code == 0
        _, text = _get(port, "/metrics")
        assert f'aragora_q_queue_jobs{{queue="debates",state="waiting"}} {number}.0' in text
        assert (
            f'aragora_q_queue_transitions_total{{queue="debates",transition="enqueued"}} {number}.0'
            in text
        )
    assert _get(port, "/healthz") == (200, "ok\n")
    assert _get(port, "/other")[0] == 404
    if promtool := shutil.which("promtool"):
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM


def test_no_job_and_no_worker_is_a_label(exporter, run_cli, on_queue, redis_client):
    """The only labels are queue, state, lane, transition, result, version, and names of a configuration."""
    port, _ = exporter()
    redis_client.hset(f"{PREFIX}schedules", "next:nightly", 1)
    redis_client.hset(f"{PREFIX}webhooks", "failures:acme", 1)
    assert run_cli("enqueue", "What?", "--agents", "demo:bold,demo:careful").code == 0
    on_queue(lambda harness: book(harness.queue, ({}, {}, ok(0.5))))
    labels = set(re.findall(r'[{,](\w+)="', _get(port, "/metrics")[1]))
    assert labels == {
        "queue", "state", "lane", "transition", "version", "account", "provider", "why", "schedule",
        "webhook", "result",
    }  # fmt: skip


def test_it_survives_an_outage_and_reports_it(exporter, own_server):
    """While Redis is down: 503 and scrape_success 0; the process stays, and recovers."""
    server = own_server()
    port, process = exporter("--redis-url", server.url)
    success = 'aragora_q_queue_scrape_success{queue="debates"} '
    assert f"{success}1.0" in _get(port, "/metrics")[1]
    server.kill()
    status, text = _get(port, "/metrics")
    assert (status, f"{success}0.0" in text, "aragora_q_queue_jobs" in text) == (200, True, False)
    assert _get(port, "/healthz") == (503, "Redis does not answer\n")
    server.start()
    wait_until_sync(lambda: _get(port, "/healthz")[0] == 200, 30, "health after the outage")
    assert f"{success}1.0" in _get(port, "/metrics")[1]
    assert process.poll() is None


def test_it_starts_before_its_server_does(exporter):
    """The exporter may start before Redis."""
    port, _ = exporter("--redis-url", f"redis://127.0.0.1:{servers.free_port()}")
    assert _get(port, "/healthz")[0] == 503


def test_a_taken_port_is_refused(exporter, cli_command):
    """Exit 78, one line."""
    port, _ = exporter()
    ended = cli_command("exporter", "--listen", f"127.0.0.1:{port}")
    assert (ended.code, "cannot serve metrics" in ended.err) == (78, True)
    assert "--listen" in ended.err


@pytest.mark.parametrize(
    "address",
    ["nowhere", "host:0", "host:99999", ":x", "::1", "::1:80", "[::1]", "[::1:80", "[]:80", "h:٣", "a..b:1",
     "h:" + "9" * 5_000, "x" * 70 + ":1"],
)  # fmt: skip
def test_a_malformed_address_is_a_usage_error(run_cli, address):
    """HOST:PORT or [IPV6]:PORT, nothing else."""
    for args in (("exporter", "--listen"), ("healthcheck",)):
        ended = run_cli(*args, address)
        assert (ended.code, "must be HOST:PORT or [IPV6]:PORT" in ended.err) == (2, True)


def test_ipv6_addresses_are_served_and_checked(start_command, cli_command):
    """In brackets, as in URLs; also the line on stderr can be used as a URL."""
    port = servers.free_port()
    try:
        socket.create_server(("::1", port), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    process = start_command("exporter", "--listen", f"[::1]:{port}")
    assert f"http://[::1]:{port}/metrics" in process.stderr.readline().decode()
    ended = cli_command("healthcheck", f"[::1]:{port}")
    assert (ended.code, ended.out) == (0, "ok\n")
