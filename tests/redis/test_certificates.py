"""Certificates that an operator makes: those of the manual, and those that Python 3.13 refuses."""

import shutil
import subprocess
import sys

import pytest
from support.certificates import Certificates
from support.docs import script, shell
from support.processes import run_command
from support.servers import free_port

from aragora_q.config import QueueConfig
from aragora_q.config.redis_url import RedisUrl
from aragora_q.errors import ConfigError, RedisUnreachable
from aragora_q.redis.errors import translate
from aragora_q.redis.options import connection_options


@pytest.fixture
def served_with(own_server, tmp_path):
    """Makes certificates with a script, and starts a server with them; returns a client's settings."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: apt-get install openssl")

    def start(lines):
        subprocess.run(["bash", "-c", lines], check=True, capture_output=True, cwd=tmp_path)
        server = own_server(
            "--tls-auth-clients", "no", "--tls-key-file", f"{tmp_path}/redis.key",
            "--tls-cert-file", f"{tmp_path}/redis.crt", "--tls-ca-cert-file", f"{tmp_path}/ca.crt",
        )  # fmt: skip
        with server.client() as admin:
            admin.config_set("tls-port", port := free_port())
        return {
            "REDIS_URL": f"rediss://localhost:{port}",
            "REDIS_TLS_CA_FILE": f"{tmp_path}/ca.crt",
        }

    return start


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Certificates of one authority, and a key with a passphrase."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: apt-get install openssl")
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    locked = ["-aes256", "-passout", "pass:secret", "-out", made["locked.key"]]
    subprocess.run(["openssl", "pkey", "-in", made["client.key"], *locked], check=True)
    return made


def manual():
    """The lines of the manual, for a server on this machine."""
    (block,) = (each for each in shell("docs/operations.md", "") if "openssl" in each.text)
    return script([block]).replace("redis.example.com", "localhost")


def test_certificates_of_the_manual_are_accepted(served_with):
    """The openssl lines of the manual work, and every Python connects to a server that uses their files."""
    done = run_command("reap", **served_with(manual()))
    assert done.returncode == 0, done.stderr


def test_an_authority_without_key_usage_is_explained(served_with):
    """Python 3.13 and newer refuse it, as the manual's last line does; the error says what to do."""
    lines = manual().replace("-addext keyUsage=critical,keyCertSign,cRLSign", "")
    done = run_command("reap", **served_with(lines.replace("openssl verify", "! openssl verify")))
    if sys.version_info < (3, 13):
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 69
        assert "CA cert does not include key usage extension" in done.stderr
        assert "make its and the server's certificate again" in done.stderr


@pytest.mark.parametrize(
    ("ca_file", "cert_file", "key_file", "error"),
    [
        ("none.crt", None, None, "redis_tls_ca_file = 'none.crt': cannot be read: No such file"),
        (".", None, None, "redis_tls_ca_file = '.': cannot be read: Is a directory"),
        ("ca.key", None, None, "redis_tls_ca_file = 'ca.key': holds no certificate"),
        (
            "ca.crt",
            "client.crt",
            None,
            "redis_tls_cert_file = 'client.crt': no certificate and its key",
        ),
        (
            None,
            "client.crt",
            "none.key",
            "redis_tls_key_file = 'none.key': cannot be read: No such",
        ),
        (
            "ca.crt",
            "client.crt",
            "ca.key",
            "redis_tls_cert_file = 'client.crt' and redis_tls_key_file = 'ca.key': the key is not that of",
        ),
        ("ca.crt", "client.crt", "locked.key", "'locked.key': the key has a passphrase"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    certificates, monkeypatch, ca_file, cert_file, key_file, error
):
    """The error names the setting, the file and its fault, and nothing asks for a passphrase."""
    monkeypatch.chdir(certificates.directory)
    config = QueueConfig(
        redis_url="rediss://h",
        redis_tls_ca_file=ca_file,
        redis_tls_cert_file=cert_file,
        redis_tls_key_file=key_file,
    )
    with pytest.raises(ConfigError) as caught:
        connection_options(config, RedisUrl.parse(config.redis_url))
    assert error in str(caught.value)


@pytest.mark.parametrize(
    "reason",
    [
        "CA cert does not include key usage extension",
        "keyusage does not include certificate signing",
        "Missing Authority Key Identifier",
        "Missing Subject Key Identifier",
        "Basic Constraints of CA cert not marked critical",
        "invalid CA certificate",
    ],
)
def test_missing_extensions_have_their_hint(reason):
    """OpenSSL's words for an incomplete certificate do not lead to another authority."""
    text = f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {reason} (_ssl.c:1000)"
    error = translate(ConnectionError(text), "127.0.0.1:6379")
    assert isinstance(error, RedisUnreachable)
    assert "keyUsage" in error.hint
    other = translate(ConnectionError(text.replace(reason, "certificate has expired")), "a:1")
    assert "keyUsage" not in other.hint
