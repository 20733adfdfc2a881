"""Sources of settings: which one wins, how origins are shown, what is refused, what stays secret."""

import os
import pwd
from pathlib import Path

import pytest

from aragora_q.config import sources as config_sources
from aragora_q.config.settings import QueueConfig, get_queue_config, set_queue_config
from aragora_q.config.sources import override_file, read_sources
from aragora_q.errors import ConfigError

SECRET = "hush-hush"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Writes the file of a source (`files.system("concurrency = 4")`), and reads all sources."""

    class SourceFiles:
        directory = tmp_path / "etc"
        extra = None

        def _write(self, path, text):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return path

        def system(self, text):
            return self._write(self.directory / "aragora-q.toml", text)

        def conf_d(self, name, text):
            return self._write(self.directory / "conf.d" / name, text)

        def user(self, text):
            return self._write(tmp_path / ".config" / "aragora-q" / "aragora-q.toml", text)

        def here(self, text):
            return self._write(tmp_path / "aragora-q.toml", text)

        def given(self, text):
            self.extra = self._write(tmp_path / "given.toml", text)
            return self.extra

        def config(self, **arguments):
            with override_file(self.extra):
                return QueueConfig(**arguments)

        def origin(self, name):
            with override_file(self.extra):
                return read_sources(QueueConfig.model_fields).settings[name].origin

        def error(self, **arguments):
            with pytest.raises(ConfigError) as caught:
                self.config(**arguments)
            assert caught.value.exit_code == 78
            return str(caught.value)

    monkeypatch.setattr(config_sources, "SYSTEM_DIRECTORY", SourceFiles.directory)
    return SourceFiles()


def test_defaults_are_those_of_the_documented_table(files):
    """Without files and environment every setting has its documented default."""
    config = files.config()
    assert config.redis_url == "redis://localhost:6379"
    assert config.key_prefix == "aragora:queue:"
    assert (config.retry_max_attempts, config.claim_idle_ms, config.max_job_ttl_days) == (
        3,
        60_000,
        7,
    )


def test_every_source_wins_over_the_earlier_ones(files, monkeypatch):
    """System file, conf.d in order of name, user's file, ./aragora-q.toml, --config, environment, argument."""
    steps = [
        (lambda n: files.system(f"concurrency = {n}"), "etc/aragora-q.toml:1"),
        (lambda n: files.conf_d("10-a.toml", f"concurrency = {n}"), "conf.d/10-a.toml:1"),
        (lambda n: files.conf_d("20-b.toml", f"\nconcurrency = {n}"), "conf.d/20-b.toml:2"),
        (lambda n: files.user(f"concurrency = {n}"), ".config/aragora-q/aragora-q.toml:1"),
        (lambda n: files.here(f"# mine\n\nconcurrency = {n}"), "aragora-q.toml:3"),
        (lambda n: files.given(f"concurrency = {n}"), "given.toml:1"),
        (lambda n: monkeypatch.setenv("ARAGORA_QUEUE_CONCURRENCY", str(n)),
         "environment ARAGORA_QUEUE_CONCURRENCY"),
    ]  # fmt: skip
    for number, (write, origin) in enumerate(steps, 10):
        write(number)
        assert files.config().concurrency == number
        assert files.origin("concurrency").endswith(origin)
    assert files.config(concurrency=99).concurrency == 99


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("REDIS_URL", "redis://h:1", "redis_url", "redis://h:1"),
        ("ARAGORA_QUEUE_PREFIX", "x:", "key_prefix", "x:"),
        ("ARAGORA_QUEUE_RETRY_MAX", "9", "retry_max_attempts", 9),
        ("ARAGORA_QUEUE_CLAIM_IDLE_MS", "5000", "claim_idle_ms", 5000),
        ("ARAGORA_QUEUE_MAX_JOB_TTL_DAYS", "30", "max_job_ttl_days", 30),
        ("ARAGORA_QUEUE_NAME", "other", "queue", "other"),
        ("ARAGORA_QUEUE_ALLOW_EVICTION", "true", "allow_eviction", True),
        ("ARAGORA_QUEUE_METRICS_PORT", "0", "metrics_port", 0),
        ("ARAGORA_QUEUE_DEFAULT_AGENTS", "a:b=c, d", "default_agents", ("a:b=c", "d")),
    ],
)
def test_variables_set_what_they_are_documented_to_set(
    files, monkeypatch, variable, text, name, value
):
    """Each documented variable sets its setting; set but empty, it leaves the default."""
    monkeypatch.setenv(variable, text)
    assert getattr(files.config(), name) == value
    monkeypatch.setenv(variable, "")
    assert getattr(files.config(), name) == QueueConfig.model_fields[name].default


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("ARAGORA_QUEUE_MAX_TTL_DAYS", "ARAGORA_QUEUE_MAX_JOB_TTL_DAYS"),
        ("ARAGORA_QUEUE_CONCURENCY", "ARAGORA_QUEUE_CONCURRENCY"),
        ("ARAGORA_QUEUE_RETRY_MAX_ATTEMPTS", "ARAGORA_QUEUE_RETRY_MAX"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(
    files, monkeypatch, variable, nearest
):
    """A misspelled variable is an error; spellings of other projects are not settings."""
    monkeypatch.setenv(variable, "3")
    assert files.error() == f"environment {variable}: unknown variable; did you mean {nearest!r}?"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("ARAGORA_QUEUE_REDIS_SERVICE_HOST", "10.0.0.1"),
        ("ARAGORA_QUEUE_SERVICE_PORT_HTTP", "80"),
        ("ARAGORA_QUEUE_PORT", "tcp://10.0.0.1:80"),
        ("ARAGORA_QUEUE_WEB_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("ARAGORA_QUEUE_METRICS_PORT", "tcp://10.0.0.1:9464"),
        ("ARAGORA_OTHER", "x"),
    ],
)
def test_variables_that_kubernetes_injects_are_ignored(files, monkeypatch, variable, text):
    """Kubernetes sets such variables for services named aragora-queue-…."""
    monkeypatch.setenv(variable, text)
    assert files.config().metrics_port is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concurency = 3", "given.toml:1: unknown setting 'concurency'; did you mean 'concurrency'?"),
        ("concurrency = 0", "concurrency = 0 ({}:1): must be greater than or equal to 1"),
        ("\nretry_base_delay = 'soon'", "retry_base_delay = 'soon' ({}:2): must be a number"),
        ("retry_max_delay = inf", "retry_max_delay = inf ({}:1): must be a finite number"),
        ("durability = 'disk'", "durability = 'disk' ({}:1): must be 'none', 'replica' or 'fsync'"),
        ("queue = 'No Good'", "queue = 'No Good' ({}:1): must be 1 to 64 of a-z"),
        ("metrics_host = '[::1]'", "metrics_host = '[::1]' ({}:1): must be an address without brackets"),
        ("key_prefix = 'a{b}:'", "key_prefix = 'a{{b}}:' ({}:1): string should match pattern"),
        ("agents = 3", "agents = 3 ({}:1): must be a table"),
        ("[agents.x]\nbase_url = 'http://h'", "agents.x.model ({}:1): field required"),
        ("[agents]\na = 'b'\n[agents.x]\nmodel = 'm'\ntimeout_seconds = -1",
         "agents.x.timeout_seconds = -1 ({}:3): must be greater than 0"),
        ("redis_tls_key_file = 'k'",
         "redis_tls_key_file is set without redis_tls_cert_file (redis_tls_key_file: {}:1"),
        (f"default_agents = {['x'] * 17}", "default_agents ({}:1): must be at most 16 agents"),
        ("default_agents = 3", "default_agents = 3 ({}:1): must be a list"),
        ("default_agents = ['a', 3]", "default_agents.1 = 3 ({}:1): must be text"),
        ("default_agents = ['a', ' ']", "default_agents ({}:1): must be names of 1 to 200 characters"),
        (f"default_agents = '{'a,' * 17}'", "must be at most 16 agents"),
        ("a = [", "is not valid TOML"),
        ("concurrency = 3\nconcurrency = 4", "is not valid TOML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_value_rule_and_line(files, text, message):
    """One line with setting, value, rule, file and line."""
    path = files.given(text)
    assert message.format(path) in files.error()


def test_a_file_in_another_encoding_is_refused(files):
    """Like any malformed file."""
    files.given("").write_bytes(b"queue = '\xff'")
    assert "is not valid TOML" in files.error()


def test_all_errors_are_reported_at_once(files, monkeypatch):
    """Unknown names of all sources come in one message, one line each; so do all wrong values."""
    files.system("nonsense = 1")
    files.here("absurd = 2")
    monkeypatch.setenv("ARAGORA_QUEUE_ODD", "3")
    assert len(files.error().splitlines()) == 3
    for path in (files.system("concurrency = 0"), files.here("max_crashes = 0")):
        assert path.exists()
    monkeypatch.delenv("ARAGORA_QUEUE_ODD")
    assert len(files.error().splitlines()) == 2


def test_a_rule_across_settings_names_the_origin_of_both(files, monkeypatch):
    """The first delay may not exceed the maximum: the message says where both were set."""
    files.system("retry_max_delay = 10")
    monkeypatch.setenv("ARAGORA_QUEUE_RETRY_BASE_DELAY", "20")
    message = files.error()
    assert "retry_base_delay (20.0) must not exceed retry_max_delay (10.0)" in message
    assert "environment ARAGORA_QUEUE_RETRY_BASE_DELAY" in message
    assert "etc/aragora-q.toml:1" in message


def test_a_file_that_was_asked_for_must_be_there(files, tmp_path):
    """A missing file is an error with --config, and ignored for other sources."""
    files.extra = tmp_path / "missing.toml"
    with pytest.raises(ConfigError, match=r"missing.toml: No such file or directory") as caught:
        files.config()
    assert caught.value.hint == "check the path, and that this user may read the file"


def test_a_file_of_another_user_is_ignored(files, monkeypatch):
    """./aragora-q.toml is read only if root or the current user owns it."""
    path = files.here("concurrency = 7")
    assert files.config().concurrency == 7
    if os.geteuid() == 0:
        os.chown(path, 4243, 4243)
    monkeypatch.setattr(config_sources.os, "geteuid", lambda: 4242)
    assert files.config().concurrency == 3


def test_an_unreadable_file_is_an_error(files, monkeypatch):
    """Settings in an unreadable /etc/aragora-q are not silently left out."""
    path = files.system("concurrency = 7")
    refuse = PermissionError(13, "Permission denied")
    for name in ("is_file", "open"):
        original = getattr(type(path), name)

        def closed(self, *args, original=original, **options):
            if self == path:
                raise refuse
            return original(self, *args, **options)

        monkeypatch.setattr(type(path), name, closed)
    assert files.error() == f"cannot read {path}: Permission denied"


def test_unreadable_files_in_the_home_of_another_user_are_ignored(files, monkeypatch):
    """`runuser -u aragora-q` keeps HOME=/root and the directory, both unreadable: no error."""
    paths = [files.user("concurrency = 7"), Path("aragora-q.toml")]
    original = Path.is_file

    def closed(self):
        if self in paths:
            raise PermissionError(13, "Permission denied")
        return original(self)

    monkeypatch.setattr(type(paths[0]), "is_file", closed)
    assert files.config().concurrency == 3
    assert config_sources.read_sources(QueueConfig.model_fields).ignored == paths


def test_a_user_without_a_home(files, monkeypatch):
    """A user id with neither HOME nor a passwd entry, as in containers: no error."""
    monkeypatch.delenv("HOME")

    def unknown(_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert files.config().concurrency == 3


def test_agents_of_all_sources_are_merged(files, monkeypatch):
    """Each source may define agents, also by variable; the later source wins for each name."""
    files.system("[agents]\nclaude = 'a:1'\n[agents.local]\nmodel = 'b:2'\nbase_url = 'http://h'")
    files.here("[agents]\nclaude = 'c:3'")
    monkeypatch.setenv("ARAGORA_AGENT_GPT_FIVE", "d:4")
    agents = files.config().agents
    assert {name: agent.model for name, agent in agents.items()} == {
        "claude": "c:3", "local": "b:2", "gpt-five": "d:4",
    }  # fmt: skip
    assert files.origin("agents.local").endswith("etc/aragora-q.toml:3")
    assert files.origin("agents.claude").endswith("aragora-q.toml:2")


class TestSecrets:
    """A password comes from a credential, a file or a variable, and is never shown."""

    def test_from_a_file_without_its_line_end(self, files, monkeypatch, tmp_path):
        """REDIS_PASSWORD_FILE names a file; its final line break is not part of the password."""
        (tmp_path / "pw").write_text(f"{SECRET}\n")
        monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "pw"))
        assert files.config().redis_password.get_secret_value() == SECRET

    def test_from_a_credential_of_systemd(self, files, monkeypatch, tmp_path):
        """LoadCredential=redis-password:… is found in CREDENTIALS_DIRECTORY; a missing one is not an error."""
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        assert files.config().redis_password is None
        (tmp_path / "redis-password").write_text(SECRET)
        assert files.config().redis_password.get_secret_value() == SECRET
        assert files.origin("redis_password").startswith("credential ")

    def test_a_missing_password_file_is_an_error(self, files, monkeypatch, tmp_path):
        """A password file that is configured must exist."""
        monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "none"))
        assert "environment REDIS_PASSWORD_FILE" in files.error()

    @pytest.mark.parametrize(
        "url",
        [
            f"redis://me:{SECRET}@host:port",
            f"redis://me:{SECRET}@host/nothing",
            f"redis://me:1/{SECRET}@host",
            f"redis://me:x/{SECRET}@host",
            f"redis://me:x?{SECRET}=1@host",
            f"redis://me:x#{SECRET}@host",
            f"redis://:{SECRET}",
            f"redis+sentinel://me:1/{SECRET}@host",
            f"redsi://me:{SECRET}@host",
            f"redis://me:{SECRET}@host?timeout=3",
        ],
    )
    def test_a_wrong_url_is_refused_without_its_password(self, files, monkeypatch, url):
        """No part of the password is in the message, whatever is wrong with the URL."""
        monkeypatch.setenv("REDIS_URL", url)
        message = files.error()
        assert message.startswith("redis_url (environment REDIS_URL): ")
        assert SECRET not in message

    def test_the_value_of_an_unknown_key_is_not_repeated(self, files):
        """`api_key = "sk-…"` is a likely mistake: the message names the key, not its value."""
        files.here(f"[agents.x]\nmodel = 'm'\napi_key = '{SECRET}'")
        message = files.error()
        assert (
            "agents.x.api_key (aragora-q.toml:1): unknown setting; did you mean 'api_key_env'?"
            in message
        )
        assert SECRET not in message

    def test_a_password_in_the_url_of_an_agent_is_refused_and_not_repeated(self, files):
        """`config show` prints the URLs of agents, so none may contain a password."""
        files.here(f"[agents.x]\nmodel = 'm'\nbase_url = 'https://me:{SECRET}@host/v1'")
        message = files.error()
        assert "agents.x.base_url (aragora-q.toml:1): must not contain user or password" in message
        assert SECRET not in message

    def test_a_configuration_is_printed_without_them(self, files, monkeypatch):
        """repr and str of a configuration contain neither the password nor the URL's."""
        monkeypatch.setenv("REDIS_PASSWORD", SECRET)
        monkeypatch.setenv("REDIS_URL", f"redis://me:{SECRET}@host")
        config = files.config()
        assert SECRET not in f"{config!r} {config}"


def test_the_process_wide_configuration_can_be_set_and_forgotten(monkeypatch):
    """`set_queue_config(None)` returns to the environment."""
    set_queue_config(QueueConfig(queue="mine"))
    assert get_queue_config().queue == "mine"
    set_queue_config(None)
    monkeypatch.setenv("ARAGORA_QUEUE_NAME", "theirs")
    assert get_queue_config().queue == "theirs"


def test_a_configuration_does_not_change(files):
    """A configuration is immutable, so that it can be shared."""
    with pytest.raises(Exception, match="frozen"):
        files.config().concurrency = 4


@pytest.mark.parametrize("name", ["concurrency", "drain_timeout_seconds", "metrics_port", "queue"])
def test_true_is_not_a_number(name):
    """`concurrency = true` is a mistake, not 1."""
    with pytest.raises(ConfigError, match=f"{name} = True.*must not be true or false"):
        QueueConfig(**{name: True})
    assert QueueConfig(allow_eviction=True).allow_eviction
