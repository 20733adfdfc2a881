"""`aragora-q acl ROLE`: the Redis user that a role needs, and no more."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from aragora_q.cli import options, output
from aragora_q.cli.options import ConfigFile, QueueName, RedisUrl


def acl(
    *,
    role: Annotated[
        str,
        typer.Argument(metavar="ROLE", show_default=False, hidden=True),
    ],
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="The user's name; default: aragora-q-ROLE."),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file", metavar="FILE", help="Its password; only the hash is printed."
        ),
    ] = None,
    redis_url: RedisUrl = None,
    queue: QueueName = None,
    config: ConfigFile = None,
) -> None:
    """Print the ACL SETUSER line for a user that can do what a role does, on this queue alone.

    ROLE is one of these. producer: enqueue, status, list, wait, tail. worker: worker. reaper: reap.
    purge: purge. stats: stats, exporter, status, list, wait, tail. operator: cancel, requeue,
    pause, resume, reap, purge, doctor, and all that reads. Nothing is sent to the server.

    Example:
      aragora-q acl worker --password-file worker.password | redis-cli
      aragora-q acl stats | sed 's/^ACL SETUSER/user/' >> users.acl

    Exit codes:
      0 ok   2 no such role   78 wrong configuration, or no password file

    """
    from aragora_q.config.redis_url import RedisUrl
    from aragora_q.errors import ConfigError
    from aragora_q.redis import acl as access
    from aragora_q.redis.keys import QueueKeys

    if role not in access.ROLES:
        raise typer.BadParameter(
            f"{role!r} is none of {', '.join(access.ROLES)}", param_hint="ROLE"
        )
    settings = options.load_config(config, redis_url=redis_url, queue=queue)
    is_cluster = RedisUrl.parse(settings.redis_url).kind == "cluster"
    keys = QueueKeys(settings.key_prefix, settings.queue, cluster=is_cluster)
    password = ""
    if password_file:
        try:
            secret = password_file.read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise ConfigError(f"cannot read {password_file}: {error.strerror}") from None
        password = f" #{hashlib.sha256(secret).hexdigest()}"
    rules = access.rules(role, keys, fsync=settings.durability == "fsync")
    output.line(f"ACL SETUSER {user or f'aragora-q-{role}'} reset on{password} {rules}")
    if not password_file:
        output.note("the user has no password yet and cannot log in: see --password-file")
