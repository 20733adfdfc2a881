"""Settings that cannot be read, from every source: one line that names the origin, never a traceback."""

import os
from pathlib import Path

import pytest
from support import processes

from aragora_q.cli.options import load_config
from aragora_q.config import sources as config_sources
from aragora_q.config.redis_url import RedisUrl
from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import override_file
from aragora_q.errors import AccessDenied, ConfigError
from aragora_q.redis.options import connection_options

NOT_UTF8 = b"s\xe9same"


def refusal():
    """The message of the ConfigError that reading the settings raises."""
    with pytest.raises(ConfigError) as caught:
        QueueConfig()
    return str(caught.value)


@pytest.mark.parametrize("name", ["REDIS_PASSWORD_FILE", "REDIS_SENTINEL_PASSWORD_FILE"])
def test_a_password_file_that_is_not_utf8_is_refused(monkeypatch, tmp_path, name):
    """The message names file and variable, and contains no byte of the password."""
    (tmp_path / "password").write_bytes(NOT_UTF8)
    monkeypatch.setenv(name, str(tmp_path / "password"))
    message = refusal()
    assert f"cannot read {tmp_path / 'password'} (environment {name}): not UTF-8" in message
    assert "xe9" not in message


def test_a_credential_that_is_not_utf8_is_refused(monkeypatch, tmp_path):
    """The same for a credential of systemd."""
    (tmp_path / "redis-password").write_bytes(NOT_UTF8)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert f"cannot read {tmp_path / 'redis-password'} (credential): not UTF-8" in refusal()


def test_a_credential_that_cannot_be_read_is_refused(monkeypatch, tmp_path):
    """Only a missing credential is ignored: one that is there must be used."""
    (tmp_path / "redis-password").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert "(credential): Is a directory" in refusal()


def test_a_password_file_without_end_is_refused(monkeypatch):
    """A file that cannot be a secret, such as a device, is not read to its end."""
    monkeypatch.setenv("REDIS_PASSWORD_FILE", "/dev/urandom")
    assert "longer than" in refusal()


def test_a_configuration_file_without_end_is_refused():
    """The same for `--config`."""
    with override_file(Path("/dev/zero")), pytest.raises(ConfigError, match="longer than"):
        QueueConfig()


def test_a_byte_order_mark_is_not_a_part_of_the_text(monkeypatch, tmp_path):
    """Editors write one; as a part of a password or a name it could not be seen."""
    (tmp_path / "password").write_text("secret\n", encoding="utf-8-sig")
    (tmp_path / "some.toml").write_text("concurrency = 7\n", encoding="utf-8-sig")
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "password"))
    with override_file(tmp_path / "some.toml"):
        config = QueueConfig()
    assert (config.redis_password.get_secret_value(), config.concurrency) == ("secret", 7)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named(monkeypatch, tmp_path, encoding):
    """Files that an editor saved as UTF-16: the message says so."""
    (tmp_path / "odd").write_text("concurrency = 7\n", encoding=encoding)
    rule = f"not UTF-8 but {encoding.upper()[:6]}"
    with override_file(tmp_path / "odd"):
        assert refusal() == f"{tmp_path / 'odd'} is not valid TOML: {rule}"
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(tmp_path / "odd"))
    assert refusal() == f"cannot read {tmp_path / 'odd'} (environment REDIS_PASSWORD_FILE): {rule}"


def test_a_key_instead_of_the_name_of_its_variable(tmp_path):
    """An API key that was written into api_key_env is refused, and not repeated."""
    (tmp_path / "odd.toml").write_text('[agents.a]\nmodel = "m"\napi_key_env = "sk-hush"\n')
    with override_file(tmp_path / "odd.toml"):
        message = refusal()
    assert "agents.a.api_key_env" in message
    assert "must be the name of a variable, not the key itself" in message
    assert "hush" not in message


def test_an_option_is_the_origin_of_its_value():
    """The message names what the operator typed, not the parameter."""
    for setting, option, value in (
        ("metrics_port", "--metrics-port", 10**6),
        ("exec_command", "--exec", "\0"),
    ):
        with pytest.raises(ConfigError, match=rf"\(option {option}\)"):
            load_config(None, **{setting: value})


@pytest.mark.parametrize(
    "text",
    [
        b"queue = '\xff'",
        b"\xff\xfeq\x00",
        b"concurrency = " + b"[" * 100_000,
        b"concurrency = " + b"9" * 5_000,
        b"concurrency = 0x" + b"f" * 5_000,
        b"retry_base_delay = " + b"9" * 400 + b".0",
        b"max_job_ttl_days = 2026-02-30",
        b"agents = 1",
        b'agents = {"\\n" = {model = 1}}',
        b'redis_tls_ca_file = "a\\u0000b"',
        b'exec_command = "a\\u0000b"',
        b'[agents.x]\nmodel = "a\\u0000b"',
        b"redis_url = 'redis://[::1'",
        b"redis_url = 'redis://a..b'",
        b"redis_url = 'redis://" + b"a" * 64 + b"'",
        b"redis_url = 'redis://h/" + b"9" * 5_000 + b"'",
        b"redis_url = 'redis://h/99999999999'",
        b"redis_url = 'redis://:%ff@h'",
        b"redis_url = 'unix:///a%00b'",
        b'redis_url = "redis://:a\\nb@h"',
    ],
    ids=lambda text: repr(text[:40]),
)
def test_a_file_with_odd_contents_is_refused(tmp_path, text):
    """Whatever a file contains: a ConfigError with its name, no other exception."""
    path = tmp_path / "odd.toml"
    path.write_bytes(text)
    with override_file(path), pytest.raises(ConfigError) as caught:
        QueueConfig()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("kind", ["directory", "too long", "loop"])
def test_a_file_that_is_no_file_is_refused(tmp_path, kind):
    """The same for what cannot be opened as a file."""
    path = tmp_path / ("x" * 300 if kind == "too long" else "odd.toml")
    if kind == "directory":
        path.mkdir()
    if kind == "loop":
        path.symlink_to(path)
    with override_file(path), pytest.raises(ConfigError, match="cannot read"):
        QueueConfig()


def test_a_configuration_directory_whose_name_is_too_long(monkeypatch):
    """The user's directory cannot exist, so its file is an error, not a traceback."""
    monkeypatch.setenv("XDG_CONFIG_HOME", "/" + "x" * 300)
    assert "File name too long" in refusal()


def test_a_conf_d_that_cannot_be_listed_is_refused(monkeypatch, tmp_path):
    """Settings of an administrator are not left out silently."""
    monkeypatch.setattr(config_sources, "SYSTEM_DIRECTORY", tmp_path)
    conf_d = tmp_path / "conf.d"
    conf_d.mkdir()
    listed = os.scandir

    def closed(path="."):
        if os.fspath(path) == str(conf_d):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", closed)
    monkeypatch.setattr(os, "listdir", closed)
    assert refusal() == f"cannot read {conf_d}: Permission denied"


def test_huge_arguments_are_refused():
    """A number that Python cannot print is refused like any other that is out of range."""
    with pytest.raises(ConfigError, match="concurrency"):
        QueueConfig(concurrency=10**5_000)


@pytest.mark.parametrize(
    "name",
    [
        "REDIS_URL", "REDIS_PASSWORD", "REDIS_PASSWORD_FILE", "REDIS_TLS_CA_FILE", "ARAGORA_QUEUE_NAME",
        "ARAGORA_QUEUE_CONCURRENCY", "ARAGORA_QUEUE_EXEC_COMMAND", "ARAGORA_AGENT_X", "ARAGORA_AGENT_\udcff",
        "ARAGORA_QUEUE_\udcff",
    ],
)  # fmt: skip
def test_the_worker_refuses_an_environment_that_is_not_utf8(name):
    """One line on stderr (and a hint), exit code 78."""
    done = processes.run_command("worker", "--burst", **{name: "s\udce9same"})
    lines = [line for line in done.stderr.splitlines() if not line.startswith("  hint: ")]
    assert (done.returncode, len(lines)) == (78, 1), done.stderr
    assert lines[0].startswith("aragora-q: error: ")


class TestWhileRunning:
    """The password is read again for every connection; a file that has become unusable denies access."""

    @pytest.fixture
    def password_file(self, monkeypatch, tmp_path):
        path = tmp_path / "password"
        path.write_text("first\n")
        monkeypatch.setenv("REDIS_PASSWORD_FILE", str(path))
        return path

    @pytest.fixture
    def credentials(self, password_file):
        config = QueueConfig()
        return connection_options(config, RedisUrl.parse(config.redis_url))["credential_provider"]

    def test_a_new_password_is_used(self, credentials, password_file):
        """A rotated password needs no restart."""
        password_file.write_text("second\n")
        assert credentials.get_credentials() == ("second",)

    @pytest.mark.parametrize("damage", ["bytes", "directory", "device"])
    def test_an_unusable_file_denies_access(self, credentials, password_file, damage):
        """AccessDenied is retried like an outage; it names the file."""
        password_file.unlink()
        if damage == "bytes":
            password_file.write_bytes(NOT_UTF8)
        elif damage == "directory":
            password_file.mkdir()
        else:
            password_file.symlink_to("/dev/zero")
        with pytest.raises(AccessDenied, match=str(password_file)):
            credentials.get_credentials()

    def test_a_missing_file_leaves_the_known_password(self, credentials, password_file):
        """A file may be missing for a moment while it is replaced."""
        password_file.unlink()
        assert credentials.get_credentials() == ("first",)

    def test_a_rotated_password_is_used_by_later_options(self, credentials, password_file):
        """A lease keeper that starts after a rotation uses the new password, too."""
        config = QueueConfig()
        connection_options(config, RedisUrl.parse(config.redis_url))
        password_file.write_text("second\n")
        later = connection_options(config, RedisUrl.parse(config.redis_url))
        assert later["credential_provider"].get_credentials() == ("second",)
        assert credentials.get_credentials() == ("second",)

    def test_options_can_be_made_from_an_unusable_file(self, password_file):
        """The lease keeper makes its connections later than the worker, from the same configuration."""
        config = QueueConfig()
        password_file.write_bytes(NOT_UTF8)
        options = connection_options(config, RedisUrl.parse(config.redis_url))
        with pytest.raises(AccessDenied):
            options["credential_provider"].get_credentials()
        password_file.write_text("second")
        assert options["credential_provider"].get_credentials() == ("second",)
