"""Signatures of messages, and the files of their secrets."""

import base64

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from support.receivers import new_secret

from aragora_q.errors import ConfigError
from aragora_q.webhooks import signing


def file_with(tmp_path, text):
    path = tmp_path / "secret"
    path.write_text(text)
    return str(path)


def test_the_specifications_library_verifies(tmp_path):
    """A receiver with the secret verifies the message; one with another secret refuses it."""
    secret = new_secret()
    body = '{"name": "Zoë"}'.encode()
    headers = signing.headers(signing.read_keys(file_with(tmp_path, secret)), "1-1", body)
    assert Webhook(secret).verify(body, headers) == {"name": "Zoë"}
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, {**headers, "webhook-id": "1-2"})


def test_receivers_with_the_new_and_with_the_old_secret_verify(tmp_path):
    """During a rotation, the message has a signature for either line."""
    new, old = new_secret(), new_secret()
    keys = signing.read_keys(file_with(tmp_path, f"{new}\n{old}\n"))
    headers = signing.headers(keys, "1-1", b"{}")
    assert Webhook(new).verify(b"{}", headers) == Webhook(old).verify(b"{}", headers) == {}


def test_a_name_is_that_of_a_credential(tmp_path, monkeypatch):
    """systemd's LoadCredential= makes the file; without it, the error says what is missing."""
    secret = new_secret()
    (tmp_path / "ops").write_text(secret)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert signing.read_keys("ops") == [base64.b64decode(secret.removeprefix("whsec_"))]
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(ConfigError, match="'ops' is the name of a systemd credential") as caught:
        signing.read_keys("ops")
    assert "LoadCredential=" in caught.value.hint


def test_base64_may_lack_its_padding(tmp_path):
    """The specification's library accepts such a secret, so this one does."""
    secret = f"whsec_{base64.b64encode(b'k' * 32).decode().rstrip('=')}"
    assert signing.read_keys(file_with(tmp_path, secret)) == [b"k" * 32]


PLANTED = "pl4nted" * 6


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must have one or two secrets, got 0"),
        ("\n".join([f"whsec_{PLANTED}"] * 3), "must have one or two secrets, got 3"),
        (PLANTED, "secret 1 must begin with whsec_"),
        (f"whsec_{PLANTED}!", "secret 1 must be whsec_ and base64"),
        (f"whsec_{'a' * 40}\nwhsec_{PLANTED[:8]}", "secret 2 must be 24 to 64 bytes in base64, got 6"),
        (f"whsec_{PLANTED * 3}", "secret 1 must be 24 to 64 bytes in base64, got 94"),
        ("whsec_", "secret 1 must be 24 to 64 bytes in base64, got 0"),
    ],
)  # fmt: skip
def test_a_malformed_secret_is_explained_and_not_shown(tmp_path, text, rule):
    """The error names file, line and rule; nothing of the secret."""
    with pytest.raises(ConfigError, match=rule) as caught:
        signing.read_keys(file_with(tmp_path, text))
    assert str(tmp_path / "secret") in str(caught.value)
    assert "openssl rand" in caught.value.hint
    assert "pl4nted" not in f"{caught.value!r} {caught.value.hint} {caught.value.__context__!r}"


def test_a_missing_secret_is_explained(tmp_path):
    """Also a directory, and a file that is not text."""
    for name, data in (("missing", None), ("binary", b"\xff\xfe"), ("long", b"x" * 100_000)):
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(ConfigError, match=f"{path}"):
            signing.read_keys(str(path))
    with pytest.raises(ConfigError, match=f"{tmp_path}"):
        signing.read_keys(str(tmp_path))
