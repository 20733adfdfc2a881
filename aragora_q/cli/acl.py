"""`aragora-q acl ROLE`: print the Redis ACL rule with the least permissions a role needs."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated

import typer

from aragora_q.cli import output
from aragora_q.cli.options import LoadConfig, with_config

EPILOG = """\b
Roles:
  producer   enqueue, sweep, status, list, wait, tail, show, table, compare,
             eval, producer of web
  worker     worker
  reaper     reap
  purge      purge
  stats      stats, spend, exporter, status, list, wait, tail, show, table,
             compare, eval of what is there, viewer of web
  operator   cancel, hold, unhold, requeue, pause, resume, reap, purge,
             doctor, operator of web, and all commands that only read

\b
Examples:
  aragora-q acl worker --password-file worker.password | redis-cli
  aragora-q acl stats | sed 's/^ACL SETUSER/user/' >> users.acl

\b
Exit codes:
  0 ok   2 unknown role   78 invalid configuration or unreadable file
"""


@with_config
def acl(
    load: LoadConfig,
    *,
    role: Annotated[
        str,
        typer.Argument(metavar="ROLE", show_default=False, help="Role of the user, see below."),
    ],
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="User name. [default: aragora-q-ROLE]"),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            metavar="FILE",
            help="File with the user's password; only its SHA-256 is printed.",
        ),
    ] = None,
) -> None:
    """Print an ACL SETUSER command for a user with the permissions of a role on this queue.

    Nothing is sent to the server.
    """
    from aragora_q.config.redis_url import RedisUrl
    from aragora_q.config.sources import read_secret
    from aragora_q.errors import ConfigError
    from aragora_q.redis import acl as redis_acl
    from aragora_q.redis.keys import QueueKeys

    if user is not None and not (user.isprintable() and re.fullmatch(r"[^\s\"'\\]+", user)):
        raise typer.BadParameter(
            f"{user!r:.100} must have no blanks, quotes or control characters", param_hint="--user"
        )
    if role not in redis_acl.ROLES:
        raise typer.BadParameter(
            f"unknown role {role!r:.100}: use {', '.join(redis_acl.ROLES)}", param_hint="ROLE"
        )
    settings = load()
    is_cluster = RedisUrl.parse(settings.redis_url).kind == "cluster"
    keys = QueueKeys(settings.key_prefix, settings.queue, cluster=is_cluster)
    password = ""
    if password_file:
        secret = read_secret(password_file, "--password-file")
        if secret is None:
            raise ConfigError(
                f"cannot read {password_file} (--password-file): No such file or directory"
            )
        password = f" #{hashlib.sha256(secret.encode()).hexdigest()}"
    rules = redis_acl.rules(role, keys, fsync=settings.durability == "fsync")
    output.line(f"ACL SETUSER {user or f'aragora-q-{role}'} reset on{password} {rules}")
    if not password_file:
        output.info("the user has no password and cannot log in: use --password-file")
