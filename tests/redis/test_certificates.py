"""Certificates that an operator makes: those of the manual, and those that Python 3.13 refuses."""

import shutil
import subprocess
import sys

import pytest
from support.docs import script, shell
from support.processes import run_command
from support.servers import free_port

from aragora_q.errors import RedisUnreachable
from aragora_q.redis.errors import translate


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
