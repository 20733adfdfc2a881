"""Render templates: what every page knows, and how values become text.

Every value that a template prints passes `_shown`: characters that control a terminal, change the direction of
the page's text or hide text are written as escapes, and autoescape does the rest. Called by the pages.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote, urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from pydantic_core import to_json

from aragora_q import __version__, tracing
from aragora_q.base import MAX_REASON_CHARS, JobStatus
from aragora_q.config.redis_url import RedisUrl
from aragora_q.config.settings import QueueConfig
from aragora_q.experiments.rows import name_of
from aragora_q.formats import (
    JOINERS,
    ago,
    count,
    dollars_or_unknown,
    duration,
    p_value,
    points,
    safe_text,
    shortened,
)
from aragora_q.loose import text
from aragora_q.schedule_views import zoned
from aragora_q.web.access import actor_of, auth_of, console_of
from aragora_q.web.roles import Role

FLASH_COOKIE = "aragora_q_flash"
FLASH_SECONDS = 60
MAX_FLASH_CHARS = 500

MAX_CELL_CHARS = 300
"""Characters of a text in a table."""


def render(
    request: Request, template: str, *, now: float, status_code: int = 200, **data: Any
) -> HTMLResponse:
    """Return a page. `now` is the server's time, in Unix seconds: times are relative to it."""
    flash = unquote(request.cookies.get(FLASH_COOKIE, ""))
    page = ENVIRONMENT.get_template(template)
    response = HTMLResponse(
        page.render(_common(request), now=now, flash=flash, **data), status_code
    )
    response.headers["Cache-Control"] = "no-store"
    if flash:
        response.delete_cookie(FLASH_COOKIE, path="/")
    return response


def redirect(address: str, flash: str = "") -> RedirectResponse:
    """Return the answer to a POST: the browser gets `address`, and shows `flash` there once."""
    response = RedirectResponse(address, 303)
    if flash:
        response.set_cookie(
            FLASH_COOKIE,
            quote(flash[:MAX_FLASH_CHARS], errors="replace"),
            max_age=FLASH_SECONDS,
            path="/",
            httponly=True,
            samesite="strict",
        )
    return response


def comes_from_action(request: Request) -> bool:
    """Return True for the page that an action leads to: its sender looks for the effect."""
    return FLASH_COOKIE in request.cookies


def may(request: Request, role: Role) -> bool:
    """Return True if the sender of a request may do what needs `role`."""
    actor = actor_of(request)
    return (
        actor.role is not None and actor.role.includes(role) and role in console_of(request).roles
    )


def _why_read_only(request: Request) -> str:
    """Return why a page has no actions; blank if it has them."""
    if may(request, Role.OPERATOR):
        return ""
    if Role.OPERATOR not in console_of(request).roles:
        return "Actions are off: this console has no web_operator_redis_url."
    return "Actions need a login with a token of role operator."


def _common(request: Request) -> dict[str, Any]:
    console = console_of(request)
    return {
        "actor": actor_of(request),
        "may_enqueue": may(request, Role.PRODUCER),
        "may_act": may(request, Role.OPERATOR),
        "why_read_only": _why_read_only(request),
        "queue": console.config.queue,
        "where": _where(console.config),
        # A login at a proxy cannot be ended here.
        "may_log_out": bool(auth_of(request).cookie_of(request.headers)),
        "viewer_may_write": console.viewer_may_write,
        "path": request.url.path,
        "here": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        "version": __version__,
    }


def _shown(value: Any) -> Any:
    """Return what a template prints for a value. Markup is made of values that passed here already."""
    if isinstance(value, Markup):
        return value
    return safe_text(str(value), JOINERS)


@pass_context
def _time(context: Context, at: float | None) -> Markup:
    """Return a time, in Unix seconds, relative to the page's, with the absolute time at hand."""
    if at is None:
        return Markup('<span class="none">-</span>')
    utc = absolute(at)
    if utc is None:
        return Markup("?")
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        f"{utc.replace(' ', 'T')}Z", utc, ago(at, context["now"])
    )


def absolute(at: float) -> str | None:
    """Return a time, in Unix seconds, as text in UTC; None if it is beyond the calendar."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return None


def _pretty_json(value: Any) -> str:
    """Return a value that was read from JSON, as JSON in lines."""
    return to_json(value, indent=2).decode()


def _query(values: Mapping[str, Any]) -> str:
    """Return a query string of the values that are not blank; blank, or with its question mark."""
    given = {name: value for name, value in values.items() if value not in (None, "")}
    return f"?{urlencode(given, errors='replace')}" if given else ""


def command_line(config: QueueConfig, *words: str) -> str:
    """Return an `aragora-q` command line for the queue that the console serves."""
    return shlex.join(("aragora-q", *words, *_where(config)))


def server_options(config: QueueConfig) -> tuple[str, ...]:
    """Return the options that lead to an embedded server; of others, each client has its own credential."""
    is_embedded = RedisUrl.parse(config.redis_url).kind == "embedded"
    return ("--redis-url", config.redis_url) if is_embedded else ()


def _where(config: QueueConfig) -> tuple[str, ...]:
    """Return the options that lead to the queue."""
    is_default = config.queue == QueueConfig.model_fields["queue"].default
    return (*server_options(config), *(() if is_default else ("--queue", config.queue)))


@pass_context
def _cli(context: Context, *words: str) -> str:
    return shlex.join(("aragora-q", *words, *context["where"]))


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=PackageLoader("aragora_q.web.pages"),
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "time": _time,
        "trace": tracing.described,
        "money": dollars_or_unknown,
        "zoned": zoned,
        "duration": duration,
        "points": points,
        "p_value": p_value,
        "arm": name_of,
        "count": count,
        "shortened": lambda value: shortened(text(value), MAX_CELL_CHARS),
        "pretty_json": _pretty_json,
        "query": _query,
        "path_part": lambda text: quote(str(text), safe=""),
    }
    environment.globals |= {
        "cli": _cli,
        "statuses": list(JobStatus),
        "max_reason_chars": MAX_REASON_CHARS,
    }
    return environment


ENVIRONMENT = _environment()
