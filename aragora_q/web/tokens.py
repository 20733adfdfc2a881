"""The file of tokens: a line for each, with its name, its role and its digest; never the token itself.

Written by `aragora-q token`, read by `auth.py`. Must work without the packages of the extra `web`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from aragora_q import codec
from aragora_q.errors import ConfigError
from aragora_q.observability.logs import get_logger
from aragora_q.web.roles import Role

logger = get_logger(__name__)

MAX_BYTES = 1024 * 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,47}")
NAME_RULE = "must be 1 to 48 letters, digits and ._@-, and begin with a letter or digit"
LINE = "NAME ROLE sha256:HEX"


class Grant(NamedTuple):
    """One line of the file of tokens."""

    name: str
    role: Role
    digest: bytes
    """SHA-256 of the token."""


def new_token() -> str:
    """Return a token, random and not stored anywhere."""
    return f"aq_{secrets.token_urlsafe(32)}"


def token_digest(token: str) -> bytes:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def token_line(name: str, role: Role, token: str) -> str:
    """Return the line of a token for the file."""
    return f"{name} {role} sha256:{token_digest(token).hex()}"


def parse_tokens(text: str) -> tuple[list[Grant], list[str]]:
    """Return the tokens of a file, and what is wrong with its other lines. No fault repeats a digest."""
    grants, faults = [], []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        fault = _token_fault(words)
        if fault:
            faults.append(f"line {number}: {fault}")
        else:
            name, role, digest = words
            grants.append(Grant(name, Role(role), bytes.fromhex(digest.removeprefix("sha256:"))))
    return grants, faults


def _token_fault(words: Sequence[str]) -> str:
    if len(words) != len(LINE.split()):
        return f"must be {LINE}"
    name, role, digest = words
    if not NAME.fullmatch(name):
        return f"NAME {NAME_RULE}"
    if role not in list(Role):
        return f"ROLE {role!r:.40} must be one of {', '.join(Role)}"
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        return "must end in sha256: and 64 hexadecimal digits, not in the token itself"
    return ""


class TokenFile:
    """The tokens of a file, read again when it changes: a token that is removed stops working at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._grants: list[Grant] = []
        self._version: tuple[int, ...] | None = None

    def check(self) -> None:
        """Read the file for the first time.

        Raises:
            ConfigError: it cannot be read, others may write it or read it, or a line is wrong.
        """
        if faults := self._read():
            raise ConfigError(
                "\n".join(f"web_tokens_file {self.path}: {fault}" for fault in faults),
                hint="to make a token: aragora-q token NAME --role ROLE",
            )

    def grants(self) -> Sequence[Grant]:
        """Return the tokens that are valid now. Wrong lines are logged and left out, once per change."""
        if self._found() != self._version:
            for fault in self._read():
                logger.error("tokens not used", extra={"file": str(self.path), "fault": fault})
        return self._grants

    def _read(self) -> list[str]:
        """Read the file; return what is wrong with it."""
        self._grants, self._version = [], self._found()
        try:
            with open(self.path, "rb", opener=_open_at_once) as file:
                status = os.fstat(file.fileno())
                self._version = _version(status)
                if not stat.S_ISREG(status.st_mode):
                    return ["not a regular file"]
                if fault := _file_fault(file.fileno(), status):
                    return [fault]
                data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                return [f"longer than {MAX_BYTES:,} bytes"]
            self._grants, faults = parse_tokens(codec.text(data))
        except (OSError, ValueError) as error:
            return [f"cannot be read: {getattr(error, 'strerror', None) or error}"]
        return faults

    def _found(self) -> tuple[int, ...]:
        """Return the version of the file that is there now; an empty one if it cannot be seen."""
        try:
            return _version(self.path.stat())
        except OSError:
            return ()


def _open_at_once(path: str, flags: int) -> int:
    """Open a file without waiting for a writer, if it is a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _version(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip


def _file_fault(descriptor: int, status: os.stat_result) -> str:
    """Return why a file of tokens is not safe: others may have written it, or may read it.

    Secrets that systemd, Docker or Kubernetes mount belong to root, or are on a read-only mount, with
    permissions that the program cannot choose.
    """
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o002:
        return f"mode {mode:04o}: other users may write it; chmod 600"
    if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
        return ""
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}, not to this user or root"
    if mode & 0o020:
        return f"mode {mode:04o}: its group may write it; chmod 600"
    if mode & 0o044 and status.st_uid != 0:
        return f"mode {mode:04o}: other users may read it; chmod 600"
    return ""


def find_grant(grants: Iterable[Grant], digest: bytes) -> Grant | None:
    """Return the line of a token. Takes the same time wherever it is, and if it is not there."""
    found = None
    for grant in grants:
        if hmac.compare_digest(grant.digest, digest):
            found = grant
    return found
