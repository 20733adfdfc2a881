"""Sign messages as the specification Standard Webhooks says: https://www.standardwebhooks.com.

Called for each delivery, so that a changed secret applies without a restart. No error contains a secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import time
from collections.abc import Sequence
from pathlib import Path

from aragora_q.config.sources import read_secret
from aragora_q.errors import ConfigError

PREFIX = "whsec_"
KEY_BYTES = (24, 64)
"""Least and greatest length of a key."""

MAX_SECRETS = 2
"""The secret, and the one before it."""

HINT = (
    f'one secret a line: printf "{PREFIX}%s\\n" "$(openssl rand -base64 32)"; '
    "to change it, put the new one in the first line and the old one in the second"
)


def read_keys(secret_file: str) -> list[bytes]:
    """Return the keys in a file with one or two secrets, the current one first.

    `secret_file` is a path; without a slash, the name of a systemd credential.

    Raises:
        ConfigError: the file cannot be read, or is malformed. Names path, line and rule.
    """
    path, origin = _place(secret_file)
    text = read_secret(path, origin)
    if text is None:
        raise ConfigError(f"cannot read {path} ({origin}): No such file or directory", hint=HINT)
    lines = text.split()
    if not 1 <= len(lines) <= MAX_SECRETS:
        raise ConfigError(
            f"{path} ({origin}) must have one or two secrets, got {len(lines)}", hint=HINT
        )
    return [_key(line, f"{path} ({origin}): secret {n}") for n, line in enumerate(lines, 1)]


def headers(keys: Sequence[bytes], message_id: str, body: bytes) -> dict[str, str]:
    """Return the headers that prove to the receiver who sent `body`: one signature for each key.

    The time in them is that of this host: receivers refuse one that is minutes off.
    """
    at = str(int(time.time()))
    signed = b".".join((message_id.encode(), at.encode(), body))
    signatures = (hmac.digest(key, signed, hashlib.sha256) for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": at,
        "webhook-signature": " ".join(
            f"v1,{base64.b64encode(each).decode()}" for each in signatures
        ),
    }


def _place(secret_file: str) -> tuple[Path, str]:
    if "/" in secret_file:
        return Path(secret_file), "secret_file"
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ConfigError(
            f"secret_file {secret_file!r} is the name of a systemd credential, but this process has none",
            hint="add LoadCredential= to the unit, or set secret_file to a path with a slash",
        )
    return Path(directory) / secret_file, "credential"


def _key(line: str, where: str) -> bytes:
    if not line.startswith(PREFIX):
        raise ConfigError(f"{where} must begin with {PREFIX}", hint=HINT)
    encoded = line.removeprefix(PREFIX).rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        raise ConfigError(f"{where} must be {PREFIX} and base64", hint=HINT) from None
    least, greatest = KEY_BYTES
    if not least <= len(key) <= greatest:
        raise ConfigError(
            f"{where} must be {least} to {greatest} bytes in base64, got {len(key)}", hint=HINT
        )
    return key
