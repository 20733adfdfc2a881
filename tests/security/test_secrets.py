"""A secret in the settings appears nowhere: logs, errors, tracebacks, process lists, metrics, Redis."""

import json
import socket
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from support import servers
from support.paths import ROOT
from support.processes import run_command
from support.wait import wait_until_sync

SECRET = "pl4nted/s3cret:of@this#test"
SPELLINGS = (SECRET, quote(SECRET, safe=""), quote(SECRET))


def assert_hidden(text):
    """No spelling of the secret is in the text, nor a part long enough to be useful."""
    for spelling in (*SPELLINGS, SECRET[:12], SECRET[-12:]):
        assert spelling not in text, text[:2000]


@pytest.fixture(scope="module")
def guarded():
    """A server whose password is the secret."""
    try:
        server = servers.Server(servers.any_server())
    except servers.Unavailable as reason:
        pytest.skip(str(reason))
    server.start()
    with redis.Redis(port=server.port) as redis_client:
        redis_client.config_set("requirepass", SECRET)
    yield server
    server.stop()


def output_of(*args, **variables):
    """Exit code and all output of a command."""
    done = run_command(*args, **variables)
    return done.returncode, done.stdout + done.stderr


def url(server, secret=SECRET):
    return f"redis://:{quote(secret, safe='')}@127.0.0.1:{server.port}"


COMMANDS = (["stats"], ["stats", "--json"], ["reap"], ["config", "show"], ["config", "check"],
            ["config", "show", "--json"], ["status", "missing"], ["doctor"], ["acl", "worker"])  # fmt: skip


def test_successful_commands_hide_secrets(guarded, tmp_path):
    """Password in the URL, in a variable, in a file, in a configuration file: no command shows it."""
    file = tmp_path / "password"
    file.write_text(SECRET)
    plain = f"redis://127.0.0.1:{guarded.port}"
    for variables in (
        {"REDIS_URL": url(guarded)},
        {"REDIS_URL": plain, "REDIS_PASSWORD": SECRET},
        {"REDIS_URL": plain, "REDIS_PASSWORD_FILE": str(file)},
    ):
        code, text = output_of("reap", **variables)
        assert code == 0, text
        assert_hidden(text)
    for command in COMMANDS:
        assert_hidden(output_of(*command, REDIS_URL=url(guarded))[1])
    toml = tmp_path / "settings.toml"
    toml.write_text(f'redis_url = "{url(guarded)}"\nredis_password = "{SECRET}"\n')
    for command in (["config", "show"], ["config", "check"], ["reap"]):
        assert_hidden(output_of(*command, "--config", str(toml))[1])


def test_errors_hide_secrets(guarded):
    """Denied, unreachable, malformed, unsupported, with --debug and its traceback: never the secret."""
    wrong = f"{SECRET}-but-wrong"
    dead = servers.free_port()
    faults = [
        {"REDIS_URL": url(guarded, wrong)},
        {"REDIS_URL": f"redis://127.0.0.1:{guarded.port}", "REDIS_PASSWORD": wrong},
        {"REDIS_URL": f"redis://:{SPELLINGS[1]}@127.0.0.1:{dead}"},
        {"REDIS_URL": f"redis://:{SPELLINGS[1]}@127.0.0.1:port"},
        {"REDIS_URL": f"redis://:{SECRET}@127.0.0.1"},
        {"REDIS_URL": f"htp://:{SPELLINGS[1]}@127.0.0.1"},
        {"REDIS_URL": f"redis+sentinel://:{SPELLINGS[1]}@127.0.0.1:{dead}/q",
         "REDIS_SENTINEL_PASSWORD": SECRET},
        {"REDIS_URL": f"redis+cluster://:{SPELLINGS[1]}@127.0.0.1:{dead}"},
        {"REDIS_URL": url(guarded), "ARAGORA_QUEUE_RETRY_MAX": "none"},
    ]  # fmt: skip
    for variables in faults:
        code, text = output_of("--debug", "reap", **variables)
        assert code != 0, variables
        assert_hidden(text)


def test_a_worker_hides_secrets(guarded, worker_process):
    """Its log at debug level, its argv, its metrics, its record and its client's name in Redis."""
    port = servers.free_port()
    environment = {
        "REDIS_PASSWORD": SECRET,
        "ARAGORA_QUEUE_LOG_LEVEL": "debug",
        "ARAGORA_AGENT_GPT": "openai:gpt",
        "OPENAI_API_KEY": SECRET,
    }
    address = f"redis://127.0.0.1:{guarded.port}"
    worker = worker_process(address, "w1", "--metrics-port", port, environment=environment)
    worker.wait_until_started()
    command_line = Path(f"/proc/{worker.process.pid}/cmdline").read_text()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        metrics = reply.read().decode()
    with redis.Redis(port=guarded.port, password=SECRET, decode_responses=True) as redis_client:
        redis_client.client_kill_filter(_type="normal", skipme=True)
        record = json.dumps(redis_client.hgetall("aragora:queue:debates:worker:w1"))
        clients = json.dumps(redis_client.client_list())
        redis_client.config_set("requirepass", "another")
    try:
        wait_until_sync(
            lambda: "Redis unavailable, retrying" in worker.text(), 60, "an outage in the log"
        )
    finally:
        with redis.Redis(port=guarded.port, password="another") as redis_client:
            redis_client.config_set("requirepass", SECRET)
    for text in (command_line, metrics, record, clients):
        assert_hidden(text)
    worker.stop()
    assert_hidden(worker.text())


def test_metrics_listen_on_loopback_only(redis_url, worker_process):
    """By default only this machine can read them."""
    port = servers.free_port()
    worker = worker_process(redis_url, "w1", "--metrics-port", port)
    worker.wait_until_started()
    listening = {
        fields[1].rpartition(":")[0]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if (fields := line.split())[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
    }
    assert listening == {f"{int.from_bytes(socket.inet_aton('127.0.0.1'), 'little'):08X}"}


def test_repr_hides_secrets():
    """Settings that are printed by accident keep their secrets."""
    from aragora_q.config.redis_url import RedisUrl
    from aragora_q.config.settings import QueueConfig
    from aragora_q.streams.queue import RedisStreamsQueue

    address = f"redis://me:{SPELLINGS[1]}@127.0.0.1"
    config = QueueConfig(redis_url=address, redis_sentinel_password=SECRET)
    queue = RedisStreamsQueue(config)
    for value in (config, RedisUrl.parse(address), queue, queue.connection, vars(queue.connection)):
        assert_hidden(f"{value!r} {value}")


def test_nothing_is_evaluated():
    """No pickle, eval or shell: input is data only."""
    root = ROOT / "aragora_q"
    for file in root.rglob("*.py"):
        text = file.read_text()
        for code in ("import pickle", "import marshal", "import shelve", " eval(", " exec(",
                     "shell=True", "os.system", "verify=False", "CERT_NONE"):  # fmt: skip
            assert code not in text, f"{file} has {code!r}"
