"""Whatever is given to a command: one line with a documented exit code; no traceback, no secret.

FUZZ_EXAMPLES=5000 searches longer, with other examples each time.
"""

import os
import socket
import threading

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import processes

SECRET = "pl4nted"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
CODES = {0, 2, 3, 65, 69, 75, 76, 77, 78, 124}
"""1 is for failed jobs and unexpected errors: no input of a user is one."""


def fuzz(examples):
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def assert_clear(ended, codes=CODES):
    """The command ended with one of `codes`, without a traceback and without the secret."""
    shown = ended.out + ended.err
    assert ended.code in codes, (ended.code, ended.err[-2000:])
    assert "Traceback" not in shown
    assert SECRET not in shown, shown[:2000]
    assert bool(ended.err) or ended.code in (0, 3)
    for line in ended.err.splitlines():
        assert len(line) < 30_000, line[:3000]  # 4,000 characters, escaped


ODD_TEXTS = [
    "", " ", "-", "--", "0", "-1", "+5", "1_000", "0x10", "1e3", "1e308", "1e-400", "inf", "-inf",
    "nan", "9" * 30, "9" * 5_000, "٣", "²", "true", "null", "[]", "{}", "\ufeff1", "\udce9", "é", "😀",
    "\x1b[2J", "\r\n", "\u202e", "a" * 70, "x" * 100_000, "a b", "'", '"', "\\", "%", "%00", "{0}",
    "$(id)", "../..", "/dev/null", "/dev/zero", "/", "1:2", "::1", "[::1]:1", "x.json",
    "9999999999d", "1.5h", "18446744073709551616-0", "a=1", "demo=1", "demo=1_0", "demo=nan", "=", "a=b=2",
    ",", "a,b",
    '["a", "b"]', '["a", 1]', '["\\ud800", "b"]', "[" * 300, '{"type": "number"}',
    '{"type": "object", "$ref": "#"}',
    '{"type": "number", "minimum": 1e999}', '{"a":' * 300, '{"type": "string", "pattern": "(a+)+$"}', "@",
    "@/", "@.",
    "@/dev/zero", "@/dev/null", "@x\n", '{"\u202e": 1}', "a\udce9,b", "boolean", "strict", "never",
]  # fmt: skip
odd_texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=12)
arguments = odd_texts.filter(lambda text: "\0" not in text)
agents = ("--agents", "demo,demo")

COMMANDS = {
    ("enqueue", "Tea?", *agents): (
        "--agents", "--rounds", "--consensus", "--job-timeout", "--id", "--priority", "--delay",
        "--max-attempts", "--durability", "--queue", "--judge", "--weight", "--answer-form", "--options",
        "--debate", "--escalate", "--max-answer-words", "--max-tokens", "--max-cost", "--resume", "--metadata",
        "--group", "--tenant", "--tag",
    ),
    ("--queue=side", "enqueue", "Tea?", *agents): (
        "--answer-form", "--options", "--weight", "--metadata",
    ),
    ("enqueue", *agents): ("",),
    ("status",): ("", "--queue"),
    ("wait", "--timeout", "0"): ("",),
    ("wait", "x"): ("--timeout",),
    ("list",): ("--status", "--limit", "--queue"),
    ("cancel",): ("",),
    ("hold", "x"): ("", "--reason"),
    ("unhold",): ("",),
    ("requeue",): ("",),
    ("reap",): ("--max-time", "--queue"),
    ("purge",): ("--older-than", "--status"),
    ("stats",): ("--queue", "--config"),
    ("spend",): (
        "", "--by", "--since", "--until", "--tenant", "--group", "--agent", "--provider", "--model",
        "--queue",
    ),
    ("acl",): ("",),
    ("acl", "worker"): ("--user", "--password-file"),
    ("config", "check"): ("--config",),
    (): ("", "--", "--queue", "--config"),
    ("doctor",): ("--max-time", "--queue"),
    ("models", "pull"): ("",),
    ("budget", "show"): ("",),
    ("budget", "set"): ("",),
    ("budget", "set", "b"): ("",),
    ("budget", "set", "b", "5/day"): ("--scope", "--on-full", "--reason"),
    ("budget", "reset"): ("",),
    ("group",): ("",),
    ("group", "list"): ("--limit", "--queue"),
    ("group", "show"): ("",),
    ("group", "seal"): ("",),
    ("group", "seal", "g"): ("--then",),
    ("group", "cancel", "--yes"): ("",),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@fuzz(10)
@given(data=st.data())
def test_arguments(run_cli, tmp_path, command, data):
    """Every argument and every value of an option, of the commands that end."""
    option = data.draw(st.sampled_from(COMMANDS[command]))
    value = data.draw(arguments.filter(lambda text: text not in ("demo", "bench", "tail")))
    ended = run_cli(*command, f"{option}={value}" if option else value)
    has_findings = command == ("doctor",) and ended.code == 1
    assert_clear(ended, CODES | {1} if has_findings else CODES)


@pytest.mark.parametrize(
    "args",
    [
        ("stats",), ("status", "--quiet"), ("list", "--limit"), ("enqueue", "x", "--rounds"), ("spend", "--by"),
        ("purge", "--older-than"), ("acl",), ("worker",), ("worker", "--metrics-port"), (),
        ("exporter", "--listen"), ("tail", "--after"), ("models", "pull"), ("worker", "--worker-id"),
        ("enqueue", "x", "--redis-pasword"), ("healthcheck",),
    ],
)  # fmt: skip
@pytest.mark.parametrize("login", [SECRET, f"me:{SECRET}", f":a b/{SECRET}", f"\n:{SECRET}"])
def test_a_url_in_the_wrong_place(run_cli, args, login):
    """A URL with a password, given as another argument, is not repeated by the usage error."""
    ended = run_cli(*args, f"redis://{login}@127.0.0.1:1/0")
    assert_clear(ended)
    assert ended.code == 2


VARIABLES = [
    "REDIS_URL", "REDIS_PASSWORD", "REDIS_PASSWORD_FILE", "REDIS_SENTINEL_PASSWORD", "CREDENTIALS_DIRECTORY",
    "REDIS_TLS_CA_FILE", "REDIS_TLS_KEY_FILE", "ARAGORA_QUEUE_PREFIX", "ARAGORA_QUEUE_NAME",
    "ARAGORA_QUEUE_CONCURRENCY", "ARAGORA_QUEUE_RETRY_BASE_DELAY", "ARAGORA_QUEUE_RETRY_MAX",
    "ARAGORA_QUEUE_CLAIM_IDLE_MS", "ARAGORA_QUEUE_MAX_JOB_TTL_DAYS", "ARAGORA_QUEUE_METRICS_PORT",
    "ARAGORA_QUEUE_METRICS_HOST", "ARAGORA_QUEUE_EXEC_COMMAND", "ARAGORA_QUEUE_EXECUTOR",
    "ARAGORA_QUEUE_ALLOW_EVICTION", "ARAGORA_QUEUE_DRAIN_TIMEOUT_SECONDS", "ARAGORA_QUEUE_AGENTS",
    "ARAGORA_QUEUE_DEFAULT_AGENTS", "ARAGORA_QUEUE_LOG_LEVEL", "ARAGORA_AGENT_X", "ARAGORA_AGENT_",
    "XDG_CONFIG_HOME", "HOME",
    "COLUMNS", "NO_COLOR", "TERM",
]  # fmt: skip
CONFIG_COMMANDS = [
    ("config", "check"),
    ("config", "show", "--origin"),
    ("config", "show", "--json"),
]


@fuzz(80)
@given(name=st.sampled_from(VARIABLES), value=odd_texts, command=st.sampled_from(CONFIG_COMMANDS))
def test_variables(run_cli, monkeypatch, name, value, command):
    """Every kind of variable, with any text; a password is in none of the messages."""
    value = value.replace("\0", "")
    if "PASSWORD" in name and not name.endswith("FILE"):
        value += SECRET
    with monkeypatch.context() as patch:
        patch.setenv(name, value)
        assert_clear(run_cli(*command), {0, 78})


hosts = st.sampled_from(["", "h", "h:1", "[::1]:2", "[", "]", "h:x", "h:99999", "a..b", "a,b", "x" * 70,
                         "é", "h:٣", "\uff0fh",
                         "h\u2100", "h\uff20i", "h:9" + "9" * 5_000])  # fmt: skip
odd_parts = st.sampled_from(["", ":", "@", "/", "#", "?", "%", "%zz", "%ff", "[", "]", "\\", " ", "\n", "\t",
                             "\udce9", "é", "::", "//",
                             "\uff20", "\uff1a", "\uff0f", "\u2100"])  # fmt: skip


@st.composite
def urls(draw):
    """URLs whose password is, or contains, the secret, next to characters that parsers treat specially."""
    scheme = draw(st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "embedded",
                                   "http", "", "REDIS", "redis\n"]))  # fmt: skip
    login = (draw(odd_parts), SECRET, draw(odd_parts))
    login = draw(st.sampled_from(["", ":", "me:"])) + "".join(login)
    if scheme in ("unix", "embedded"):
        login = login.replace("/", "")  # it would begin the path, which messages may show
    tail = draw(st.sampled_from(["", "/", "/0", "/x", "/" + "9" * 400, "/s/1", "?db=x", f"#{SECRET}",
                                 f"?password={SECRET}", f"?db=1&x={SECRET}"]))  # fmt: skip
    return f"{scheme}{draw(st.sampled_from(['://', ':']))}{login}@{draw(hosts)}{tail}"


@fuzz(100)
@given(url=urls() | odd_texts, command=st.sampled_from([*CONFIG_COMMANDS, ("acl", "worker")]))
@example(url=f"redis://:{SECRET}\uff20x@h", command=("config", "check"))
@example(url=f"redis://:{SECRET}[x@h", command=("config", "check"))
def test_urls(run_cli, monkeypatch, url, command):
    """Any redis_url, from a variable; no message and no output contains its password."""
    with monkeypatch.context() as patch:
        patch.setenv("REDIS_URL", url.replace("\0", ""))
        assert_clear(run_cli(*command), {0, 78})


odd_bytes = st.binary(max_size=20) | st.sampled_from([
    b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\0", b"\r\n", b"\xe9", b"\x1b[2J", b"a" * 70_000,
    "é".encode("utf-16"), "é".encode("utf-16-le"), "\u202e".encode(), b"\n\n\n",
])  # fmt: skip


@fuzz(30)
@given(
    before=odd_bytes,
    after=odd_bytes,
    name=st.sampled_from(["redis-password", "redis-sentinel-password"]),
)
def test_password_files(run_cli, monkeypatch, tmp_path, before, after, name):
    """Any bytes around a password, in a file, a credential and for an ACL rule."""
    file = tmp_path / name
    file.write_bytes(before + SECRET.encode() + after)
    with monkeypatch.context() as patch:
        patch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        patch.setenv(f"{name.upper().replace('-', '_')}_FILE", str(file))
        assert_clear(run_cli("config", "show", "--origin"), {0, 78})
        assert_clear(run_cli("acl", "worker", "--password-file", file), {0, 78})


toml_values = st.sampled_from([
    "1", "-1", "0x10", "1e400", "inf", "nan", "true", '""', '"x"', "[]", "{}", "[1]", "{a = 1}", "1979-05-27",
    "12:00:00", "'\u202e'", '"\\u0000"', '"\\uD800"', "9" * 5_000, "[" * 500, "", "=", '"""x', "'", "{", "[[",
])  # fmt: skip
toml_names = st.sampled_from([
    "concurrency", "redis_url", "redis_password", "queue", "agents", "agents.x", "agents.x.model",
    "metrics_port", "agents.x.api_key", "agents.x.api_key_env", "agents.x.base_url", "max_job_ttl_days",
    "retry_max_delay",
    "log_level", "default_agents", "unknown", "[agents]\nx", "[agents.x]\nmax_tokens", '"a b"', "'\u202e'",
    '"\\n"', "é",
    "exec_command", "", ".", "[", "#", "executor", "redis_tls_ca_file", "allow_eviction",
])  # fmt: skip
secret_lines = st.sampled_from([
    f'redis_password = "{SECRET}"', f'redis_url = "redis://:{SECRET}@h"',
    f'redis_url = "redis://:{SECRET}@h:x"',
    f'redis_password = ["{SECRET}"]', f'redis_url = {{a = "{SECRET}"}}', f'[agents.y]\napi_key = "{SECRET}"',
    f'[agents.y]\nmodel = "m"\napi_key_env = "sk-{SECRET}"', f'agents.y = {{api_key = "{SECRET}"}}',
    f'[agents.y]\nmodel = "m"\nbase_url = "http://me:{SECRET}@h"', f'exec_command = "x {SECRET}\\u0000"',
    f'redis_password = "{SECRET}', f"redis_password = {SECRET}", f"redis_url = redis://:{SECRET}@h",
])  # fmt: skip


@fuzz(80)
@given(
    lines=st.lists(st.tuples(toml_names, toml_values), max_size=3),
    secret=st.just("") | secret_lines,
    noise=st.just(b"") | odd_bytes,
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1"]),
    command=st.sampled_from(CONFIG_COMMANDS),
)
def test_configuration_files(run_cli, tmp_path, lines, secret, noise, encoding, command):
    """Any names and values, any encoding, any bytes; a secret in the file is in no message."""
    text = "\n".join([*(f"{name} = {value}" for name, value in lines), secret])
    file = tmp_path / "fuzz.toml"
    file.write_bytes(noise + text.encode(encoding, "replace") + noise)
    assert_clear(run_cli(*command, "--config", file), {0, 78})


json_parts = st.sampled_from([
    "{}", "[]", "[", "null", "1e999", "NaN", "9" * 5_000, "-0", '"\\ud800"', '"\\u0000"', '{"a":' * 300,
    '{"payload":{}}', '{"payload":{},"id":1}', '{"payload":{},"id":null}', '{"payload":{},"priority":1e999}',
    '{"payload":{},"delay_seconds":NaN}', '{"payload":{},"delay_seconds":1e308}', '{"payload":{},"x":1}',
    '{"payload":{},"max_attempts":true}', '{"payload":{"a":1},"payload":2}', '{"id":"a"}', '{"id":["a"]}',
    '{"question":1,"agents":2}', '{"question":"x","agents":["demo","demo"],"weights":{"demo":1e999}}',
    '{"question":"x","agents":["demo","demo"],"answer_form":{"type":"object","$ref":"#"}}',
    '{"question":"x","agents":["demo","demo"],"answer_form":["text"],"options":{"a":1}}',
    '{"question":"x","agents":["demo","demo"],"escalate":{"a":1},"judge":["demo"]}',
    '{"payload":{"question":"x","agents":["demo",{}],"escalate":3,"judge":{}}}',
    '{"question":"x","agents":["demo",{}]}', '{"question":"x","agents":["demo","demo"],"rounds":1e2}', "a",
    "\u202e",
])  # fmt: skip


@fuzz(60)
@given(
    parts=st.lists(json_parts | st.text(max_size=5), max_size=4),
    joint=st.sampled_from(["\n", "\r\n", ",", " ", "\r", "\u2028"]),
    noise=st.just(b"") | odd_bytes,
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]),
    command=st.sampled_from(
        [("enqueue", "-"), ("enqueue", "-", "--id-from-content"), ("requeue", "-")]
    ),
)
def test_standard_input(run_cli, parts, joint, noise, encoding, command):
    """Any bytes instead of JSON lines, a JSON document or ids."""
    data = noise + joint.join(parts).encode(encoding, "replace") + noise
    assert_clear(run_cli(*command, stdin=data), {0, 3, 65})


replies = st.sampled_from([
    b"-ERR odd\r\n", b"-DENIED protected\r\n", b"-NOAUTH x\r\n", b"-NOPERM x\r\n", b"-READONLY x\r\n", b"-\r\n",
    b"-UNKNOWN \xff\xfe\r\n", b"-ERR \x1b[2J\r\n", b"-ERR " + b"x" * 5_000 + b"\r\n", b"-MISCONF x\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\0\x02\x02\x46", b"SSH-2.0-x\r\n", b"!\r\n", b"\0\r\n",
    b"$99999999999\r\n", b"*9999999999\r\n", b":9999999999999999999999\r\n", b"$x\r\n", b"*2\r\n:1\r\n$1\r\n",
])  # fmt: skip
infos = st.sampled_from([
    b"", b"redis_version:7.4-rc1\r\n", b"redis_version:unstable\r\n", b"redis_version:\r\n",
    b"redis_version\r\n",
    b"redis_version:7.4.0\r\nmaxmemory:x\r\nused_memory:many\r\n", b"redis_version:\xff\r\n", b"# Server",
    b"redis_version:7.4.0\r\naof_enabled:yes\r\nmaxmemory:-1\r\nmaxmemory_policy:\r\n", b"redis_version:7\r\n",
    b"redis_version:99999999999999999999.1\r\n", b"valkey_version:x\r\nredis_version:7.2.4\r\n",
    b"a:b:c\r\n:\r\n",
])  # fmt: skip


class OddServer:
    """Answers INFO with one reply, and everything else with another."""

    def __init__(self):
        self.info, self.reply = b"+OK\r\n", b"+OK\r\n"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://:{SECRET}@127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(10)
                while data := self._receive(connection):
                    if data == b"end":
                        return
                    for command in data.upper().split(b"\r\n*"):
                        if b"\r\nAUTH" in command or b"CLIENT" in command or b"SELECT" in command:
                            connection.sendall(b"+OK\r\n")
                            continue
                        reply = self.info if b"\r\nINFO" in command else self.reply
                        connection.sendall(reply)
                        if not reply.startswith(b"+OK"):
                            break
                    else:
                        continue
                    break

    def _receive(self, connection):
        try:
            return connection.recv(65_536)
        except OSError:
            return b""

    def close(self):
        with socket.create_connection(self._listener.getsockname()) as last:
            last.sendall(b"end")
        self._thread.join()
        self._listener.close()


@pytest.fixture
def odd_server():
    server = OddServer()
    yield server
    server.close()


@fuzz(40)
@given(
    info=infos.map(lambda text: b"$%d\r\n%s\r\n" % (len(text), text)) | replies,
    reply=replies,
    command=st.sampled_from(
        [("stats",), ("status", "x"), ("list",), ("reap",), ("spend",), ("enqueue", "x", *agents)]
    ),
)
def test_replies(run_cli, odd_server, info, reply, command):
    """A server that answers nonsense: an error of the documented kinds, which names no password."""
    odd_server.info, odd_server.reply = info, reply
    ended = run_cli(*command, "--redis-url", odd_server.url)
    assert_clear(ended, CODES | {1} if "refused a command" in ended.err else CODES)


@pytest.mark.parametrize(
    ("args", "variables"),
    [
        (("worker", "--burst", "--metrics-port", "9" * 30), {}),
        (("worker", "--burst", "--concurrency", "nan"), {}),
        (("worker", "--burst", "--worker-id", "\udce9"), {}),
        (("worker", "--burst"), {"REDIS_URL": f"redis://:{SECRET}#x@h"}),
        (("worker", "--burst"), {"REDIS_PASSWORD": f"{SECRET}\udce9"}),
        (("exporter", "--listen", "[::1"), {}),
        (("status", "caf\udce9"), {}),
        (("healthcheck", "a" * 70 + ":1"), {}),
    ],
)  # fmt: skip
def test_whole_processes(args, variables):
    """Also of the commands that run until they are stopped: no traceback, 2 or 78."""
    done = processes.run_command(*args, **variables)
    assert done.returncode in (2, 78), done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
