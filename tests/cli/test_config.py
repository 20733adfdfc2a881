"""`aragora-q config`: every value and its origin; every error at once; no secrets."""

import tomllib

import pytest

from aragora_q.config import sources
from aragora_q.config.settings import QueueConfig

SECRET = "hush-hush"


@pytest.fixture
def secrets(monkeypatch):
    """A password in the URL and a separate one."""
    monkeypatch.setenv("REDIS_URL", f"redis://me:{SECRET}@localhost:1")
    monkeypatch.setenv("REDIS_PASSWORD", SECRET)


def test_the_output_is_a_valid_configuration_file(run_cli, monkeypatch, tmp_path):
    """The output, used as a configuration file, gives the same configuration."""
    (tmp_path / "aragora-q.toml").write_text(
        "concurrency = 7\ndefault_agents = ['x', 'y']\n"
        "[agents]\nx = 'p:m'\n[agents.y]\nmodel = 'p:n'\nbase_url = 'http://h'\n"
    )
    monkeypatch.setenv("ARAGORA_QUEUE_EXEC_COMMAND", 'say "ä"\t\x1b')
    shown = run_cli("config", "show").out
    values = tomllib.loads(shown)
    assert QueueConfig(**values) == QueueConfig()
    assert "\x1b" not in shown


def test_each_value_has_its_origin(run_cli, monkeypatch, tmp_path):
    """--origin: default, file and line, or variable."""
    (tmp_path / "aragora-q.toml").write_text("\nconcurrency = 7\n")
    monkeypatch.setenv("ARAGORA_QUEUE_RETRY_MAX", "5")
    rows = {line.split(" = ")[0]: line for line in run_cli("config", "show", "--origin").lines}
    assert rows["concurrency"].endswith("# aragora-q.toml:2")
    assert rows["retry_max_attempts"].endswith("# environment ARAGORA_QUEUE_RETRY_MAX")
    assert rows["claim_idle_ms"].endswith("# default")
    shown = run_cli("config", "show", "--json").object
    assert shown["concurrency"] == {"value": 7, "origin": "aragora-q.toml:2", "default": 3}


@pytest.mark.parametrize("args", [("show",), ("show", "--origin"), ("show", "--json"), ("check",)])
def test_no_password_is_shown(run_cli, secrets, args):
    """Neither the setting's password nor the URL's is shown, in any output format."""
    ended = run_cli("config", *args)
    assert ended.code == 0
    assert SECRET not in ended.out + ended.err


def test_check_names_what_is_set_and_where(run_cli, tmp_path):
    """Valid settings: exit 0, and the settings that differ from their defaults."""
    (tmp_path / "aragora-q.toml").write_text("concurrency = 7\n")
    ended = run_cli("config", "check")
    assert ended.code == 0
    assert any(line.split() == ["concurrency", "aragora-q.toml:1"] for line in ended.lines)


def test_check_names_all_that_is_wrong(run_cli, tmp_path):
    """Invalid settings: exit 78, nothing on stdout, one line for each error."""
    path = tmp_path / "new.toml"
    path.write_text("concurrency = 0\nretry_base_delay = 'x'\n")
    ended = run_cli("config", "check", "--config", path)
    assert (ended.code, ended.out) == (78, "")
    assert f"concurrency = 0 ({path}:1)" in ended.err
    assert f"retry_base_delay = 'x' ({path}:2)" in ended.err
    assert run_cli("config", "check", "--config", tmp_path / "none.toml").code == 78


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agents.x = 'opnai:m'", "agent x: unknown model 'opnai:m'"),
        ("[agents.x]\nmodel = 'openai:m'\napi_key_env = 'NO_SUCH_KEY'", "NO_SUCH_KEY is not set"),
        ("executor = 'debates'", "executor is 'debates', must be debate, command or"),
        ("executor = 'no_such_module:factory'", "No module named 'no_such_module'"),
        ("executor = 'command'", "exec_command"),
    ],
)
def test_check_builds_the_executor(run_cli, tmp_path, text, message):
    """What would keep a worker from starting here is an error: agents, their keys, the executor."""
    if "api_key_env" in text:
        pytest.importorskip("pydantic_ai")
    (tmp_path / "aragora-q.toml").write_text(text)
    ended = run_cli("config", "check")
    assert (ended.code, message in ended.err) == (78, True), ended.err
    assert ended.out == "", "nothing says `valid` before an error"
    assert "the settings are valid, but a worker would not start here" in ended.err
    only = run_cli("config", "check", "--settings-only")
    assert (only.code, only.err) == (0, ""), "a host that only enqueues needs no keys and programs"


def test_check_resolves_the_default_agents(run_cli, tmp_path):
    """Also on a host that only enqueues: 78, with the origin of the setting."""
    path = tmp_path / "aragora-q.toml"
    path.write_text("\ndefault_agents = ['mine', 'cluade']\nagents.mine = 'demo'\n")
    for args in (("check",), ("check", "--settings-only")):
        ended = run_cli("config", *args)
        assert ended.code == 78
        assert "default_agents (aragora-q.toml:2): unknown agent 'cluade'" in ended.err
        assert "did you mean 'claude'?" in ended.err
    path.write_text("default_agents = ['mine', 'cluade']\nexecutor = 'command'\n")
    assert run_cli("config", "check", "--settings-only").code == 0, "names of another executor"


def test_check_reports_an_ignored_file(run_cli, tmp_path, monkeypatch):
    """./aragora-q.toml of another user is ignored, and `config check` reports it."""
    (tmp_path / "aragora-q.toml").write_text("concurrency = 7\n")
    monkeypatch.setattr(sources, "_is_trusted", lambda _: False)
    ended = run_cli("config", "check")
    assert (ended.code, "7" in ended.out) == (0, False)
    assert "ignored: aragora-q.toml belongs to another user" in ended.err


def test_entries_of_tables_are_shown(run_cli, tmp_path):
    """Each with its origin; the output is TOML, whatever the names."""
    path = tmp_path / "money.toml"
    path.write_text(
        "[budgets.day]\nlimit_usd = 5\nwindow = 'day'\n"
        "[budgets.'v1.5']\nlimit_usd = 2\nwindow = 'month'\nscope = 'tenant:acme'\n"
        "[providers.openai]\nmax_concurrent = 3\n"
    )
    shown = run_cli("config", "show", "--config", path)
    tables = tomllib.loads(shown.out)
    assert tables["budgets"] == {
        "day": {"limit_usd": 5.0, "window": "day"},
        "v1.5": {"limit_usd": 2.0, "window": "month", "scope": "tenant:acme"},
    }
    assert tables["providers"] == {"openai": {"max_concurrent": 3}}
    origins = run_cli("config", "show", "--config", path, "--json").object
    assert origins["budgets.v1.5"]["origin"] == f"{path}:4"
    assert (
        f"providers.openai            {path}:8"
        in run_cli("config", "check", "--settings-only", "--config", path).out
    )


@pytest.mark.parametrize(("on_full", "is_named"), [("hold", True), ("warn", False)])
def test_check_names_agents_whose_calls_a_budget_refuses(run_cli, tmp_path, on_full, is_named):
    """A price that is not known is found before the first job fails, unless budgets only warn."""
    config = tmp_path / "unpriced.toml"
    config.write_text(
        '[agents.house]\nmodel = "m1"\nbase_url = "http://127.0.0.1:9/v1"\n'
        '[agents.free]\nmodel = "demo:bold"\n'
        f'[budgets.day]\nlimit_usd = 3\nwindow = "day"\non_full = "{on_full}"\n'
    )
    checked = run_cli("config", "check", "--config", config)
    assert checked.code == 0
    assert ("no price is known for house: " in checked.err) is is_named


HOOKS = (
    "[webhooks.ops]\nurl = 'https://hooks.example.com/services/hush-hush'\nsecret_file = 'hook'\n"
)


def test_schedules_and_webhooks_are_shown(run_cli, tmp_path):
    """As TOML, whatever a job has in it; of an address, no path."""
    (tmp_path / "aragora-q.toml").write_text(
        "[schedules.'a.b']\ncron = '0 6 * * *'\n"
        "job = {payload = {'x y' = [\"it's\", 1, true, {z = \"\\u007f\"}], e = {}}, notify = ['ops']}\n"
        + HOOKS
    )
    shown = run_cli("config", "show")
    tables = tomllib.loads(shown.out)
    assert tables["schedules"] == {
        "a.b": {
            "cron": "0 6 * * *",
            "job": {
                "payload": {"x y": ["it's", 1, True, {"z": "\x7f"}], "e": {}},
                "notify": ["ops"],
            },
        }
    }
    assert tables["webhooks"]["ops"]["url"] == "https://hooks.example.com/…"
    assert "# webhooks.ops: path and query of url are omitted" in shown.lines
    for args in (("show", "--json"), ("show", "--origin"), ("check", "--settings-only")):
        ended = run_cli("config", *args)
        assert ended.code == 0
        assert SECRET not in ended.out + ended.err


def test_check_checks_jobs_of_schedules_as_enqueue_does(run_cli, tmp_path):
    """All that are refused, with file and line; a warning does not change the exit code."""
    path = tmp_path / "aragora-q.toml"
    path.write_text(
        "max_payload_bytes = 200\n"
        "[schedules.a]\ncron = '0 6 * * *'\njob = {question = 'x', agents = ['cluade', 'gpt']}\n"
        "[schedules.b]\ncron = '0 6 * * *'\njob = {question = 'x', agents = ['gpt', 'gpt'], max_tokens = 1}\n"
        f"[schedules.c]\ncron = '0 6 * * *'\njob = {{payload = {{text = '{'x' * 200}'}}}}\n"
        "[schedules.d]\ncron = '0 6 * * *'\njob = {question = 'x', agents = ['claude']}\n"
    )
    ended = run_cli("config", "check", "--settings-only")
    assert ended.code == 78
    assert "schedules.a.job (aragora-q.toml:2): unknown agent 'cluade'" in ended.err
    assert "did you mean 'claude'?" in ended.err
    assert "schedules.b.job (aragora-q.toml:5): max_tokens is 1" in ended.err
    assert "schedules.c.job (aragora-q.toml:8): payload has 211 bytes" in ended.err
    path.write_text(
        "[schedules.d]\ncron = '0 6 * * *'\njob = {question = 'x', agents = ['claude']}\n"
    )
    ended = run_cli("config", "check", "--settings-only")
    assert ended.code == 0
    assert "schedules.d.job (aragora-q.toml:1): one agent does not debate" in ended.err


def test_check_reads_secrets_and_certificates_of_webhooks(run_cli, tmp_path):
    """A worker starts without them, and messages wait: a line on stderr, not on a host without workers."""
    secret, path = tmp_path / "hook", tmp_path / "aragora-q.toml"
    path.write_text(HOOKS.replace("'hook'", f"'{secret}'"))
    ended = run_cli("config", "check")
    assert ended.code == 0
    assert (
        f"webhooks.ops (aragora-q.toml:1): its messages will wait: cannot read {secret}"
        in ended.err
    )
    assert "its messages" not in run_cli("config", "check", "--settings-only").err
    secret.write_text(f"whsec_{'QUJD' * 8}")
    assert "its messages" not in run_cli("config", "check").err
    path.write_text(path.read_text() + f"ca_file = '{secret}'\n")
    assert f"its messages will wait: cannot use ca_file {secret}" in run_cli("config", "check").err
