"""Dependencies of routes: who sent a request, and the queue as one of the roles uses it.

A route declares the role that it needs, such as `async def cancel(access: Operator)`, and gets the connections
of that role only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from aragora_q.errors import AccessDenied
from aragora_q.redis.connection import Connection
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.web.auth import Auth
from aragora_q.web.console import Console
from aragora_q.web.roles import Actor, Role

MAX_LOGGED_IDS = 20
"""Ids in a log line; their number is there in any case."""

MAX_LOGGED_CHARS = 500
"""Length of an id in a log line."""

LOG_IN = "log in first"
TOKEN_HINT = "send a token; to make one: aragora-q token NAME"  # noqa: S105 - a hint


class NotLoggedIn(AccessDenied):
    """The request has no valid token or cookie."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who sent a request, and the queue and the gates with the credential of the role that its route needs."""

    actor: Actor
    console: Console
    queue: RedisStreamsQueue
    gates: Connection
    logged: dict[str, object]
    """Fields of the request's log line."""

    def log_action(self, action: str, ids: Sequence[str] = (), reason: str = "") -> None:
        """Name in the log line of the request what it does: the action, the first ids, their number, why.

        In place of ids may stand the words of a filter, as one.
        """
        first = " ".join(each[:MAX_LOGGED_CHARS] for each in ids[:MAX_LOGGED_IDS])
        self.logged.update(action=action, ids=first, count=len(ids), reason=reason)

    def log_changed(self, number: int) -> None:
        """Name in the log line of the request how many jobs its action changed."""
        self.logged["changed"] = number


def console_of(request: Request) -> Console:
    """Return the console that the application serves."""
    console: Console = request.app.state.console
    return console


def auth_of(request: Request) -> Auth:
    """Return what knows the console's logins."""
    auth: Auth = request.app.state.auth
    return auth


def actor_of(request: Request) -> Actor:
    """Return who sent a request, as the middleware found out."""
    actor: Actor = request.scope["state"]["actor"]
    return actor


def access_as(role: Role) -> Callable[[Request], Awaitable[Access]]:
    """Return a dependency that gives access as `role`.

    Raises:
        NotLoggedIn: the request has no valid token or cookie.
        AccessDenied: the actor has a lower role, or this process has no credential for the role.
    """

    async def access(request: Request) -> Access:  # without `async`, it would run in a thread
        console, actor = console_of(request), actor_of(request)
        if actor.role is None:
            raise NotLoggedIn(LOG_IN, hint=TOKEN_HINT)
        if role not in console.roles:
            raise AccessDenied(
                f"this console has no credential for role {role}",
                hint=f"set web_{role}_redis_url; if Redis has no users, to the same URL as redis_url",
            )
        if not actor.role.includes(role):
            raise AccessDenied(
                f"this needs role {role}, you have {actor.role}",
                hint=f"log in, or send a token, as {role}",
            )
        connections = console.roles[role]
        logged = request.scope["state"].setdefault("action", {})
        return Access(actor, console, connections.queue, connections.gates, logged)

    return access


Viewer = Annotated[Access, Depends(access_as(Role.VIEWER))]
Producer = Annotated[Access, Depends(access_as(Role.PRODUCER))]
Operator = Annotated[Access, Depends(access_as(Role.OPERATOR))]
