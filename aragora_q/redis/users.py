"""Users of an embedded server, one for each role, with the rights that `aragora-q acl` prints.

They exist only in the server's memory, with passwords that no other process knows. A server that has started
again has none: so each new connection of a role makes its user first. Used by the console.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from redis.credentials import CredentialProvider

from aragora_q.config import QueueConfig
from aragora_q.redis import acl
from aragora_q.redis.connection import Connection


class EmbeddedUsers:
    """Makes users on the embedded server of `config`, which runs at least until `close`."""

    def __init__(self, config: QueueConfig) -> None:
        self._admin = Connection(config)
        self._names: list[str] = []

    def connect(self, role: str) -> Connection:
        """Return a connection with the rights of `role`, one of `aragora-q acl`; its owner must close it."""
        user = _User(self._admin, role)
        self._names.append(user.name)
        return self._admin.as_user(user)

    async def close(self) -> None:
        """Delete the users, which closes their connections, and stop using the server.

        Raises:
            RedisUnreachable: the server does not answer; the users ended with it.
        """
        try:
            if self._names:
                await self._admin.execute("ACL", "DELUSER", *self._names)
        finally:
            await self._admin.close()


class _User(CredentialProvider):
    """A user that is made before each login."""

    def __init__(self, admin: Connection, role: str) -> None:
        self.name = f"aragora-q-{role}-{secrets.token_hex(8)}"
        self._admin = admin
        self._password = secrets.token_urlsafe(32)
        digest = hashlib.sha256(self._password.encode()).hexdigest()
        rules = acl.rules(role, admin.keys, fsync=admin.config.durability == "fsync")
        self._command: tuple[Any, ...] = (
            "ACL", "SETUSER", self.name, "reset", "on", f"#{digest}", *rules.split(),
        )  # fmt: skip

    def get_credentials(self) -> tuple[str, str]:
        """Return the arguments of AUTH."""
        return self.name, self._password

    async def get_credentials_async(self) -> tuple[str, str]:
        """Make the user, and return the arguments of AUTH."""
        await self._admin.execute(*self._command)
        return self.get_credentials()
