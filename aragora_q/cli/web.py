"""`aragora-q web`: serve the console until stopped."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.cli import output
from aragora_q.cli.options import DEMO_QUEUE, DEMO_SERVER, LoadConfig, operator, run, with_config

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.web.auth import Auth
    from aragora_q.web.console import Console

EXTRA = ("fastapi", "itsdangerous", "jinja2", "multipart", "python_multipart", "uvicorn")
"""Modules of the extra `web`."""

PROBE_SECONDS = 1.0

EPILOG = """\b
Examples:
  aragora-q web
  aragora-q web --redis-url embedded:// --queue demo
  aragora-q web --listen 0.0.0.0:8080    # with tokens: see aragora-q token

\b
Exit codes:
  69 the embedded server does not start   77 Redis denies access
  78 invalid configuration, the address is in use, or the extra web is missing
  130 stopped by Ctrl-C   143 stopped by SIGTERM
"""


@with_config
def web(
    load: LoadConfig,
    *,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen", metavar="HOST:PORT", help="Address to serve. [default: 127.0.0.1:8080]"
        ),
    ] = None,
) -> None:
    """Serve the console: pages, HTTP API, metrics and health.

    On loopback, reading needs no login; everything else needs a token, or, at a terminal, the link
    that is printed. On another address, only /metrics and /healthz are served until there are tokens.
    Redis may be away: the pages say so, and go on when it is back.

    Where no Redis is configured and none runs here, the data of `aragora-q demo` is shown.
    """
    from aragora_q.errors import ConfigError
    from aragora_q.observability import otel
    from aragora_q.observability.logs import setup_logging

    settings = load(web_listen=listen)
    setup_logging(settings.log_level, settings.log_format)
    with otel.exporting():
        try:
            import uvloop

            import aragora_q.web.server  # noqa: F401 - to find out whether its packages are there
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in EXTRA:
                raise
            raise ConfigError(
                f"the console needs the package {error.name}", hint='pip install "aragora-q[web]"'
            ) from None
        run(_serve(_of_demo(settings) or settings), uvloop.new_event_loop)


def _of_demo(settings: QueueConfig) -> QueueConfig | None:
    """Return settings for the demo's data, if no other server is meant: none is set, and none is there."""
    import socket

    from aragora_q.config.redis_url import REDIS_PORT
    from aragora_q.redis.embedded import has_data

    if {"redis_url", "queue"} & settings.model_fields_set or not has_data():
        return None
    try:
        socket.create_connection(("localhost", REDIS_PORT), PROBE_SECONDS).close()
    except ConnectionRefusedError:
        output.info(
            f"no Redis is configured, and none runs at localhost:{REDIS_PORT}: showing the data of "
            f"aragora-q demo (--redis-url {DEMO_SERVER} --queue {DEMO_QUEUE})"
        )
        return settings.model_copy(update={"redis_url": DEMO_SERVER, "queue": DEMO_QUEUE})
    except OSError:
        pass
    return None


async def _serve(settings: QueueConfig) -> None:
    """Serve until a signal arrives."""
    from aragora_q.config.redis_url import parse_address
    from aragora_q.observability import otel
    from aragora_q.observability.queue_metrics import from_threads
    from aragora_q.observability.web_metrics import WebMetrics
    from aragora_q.web import probes, server
    from aragora_q.web.console import open_console

    host, port = parse_address(settings.web_listen)
    with server.listen(host, port) as sock:
        async with open_console(settings) as console:
            metrics = WebMetrics(settings.queue)
            registry = probes.registry(from_threads(partial(probes.snapshot, console)), metrics)
            otel.add_registry(registry)
            auth = server.create_auth(settings, console, sock, metrics)
            _greet(console, auth, host, port)
            try:
                await server.serve(console, sock, auth, metrics, host)
            finally:
                await asyncio.to_thread(otel.finish)  # it reads the queue once more


def _greet(console: Console, auth: Auth, host: str, port: int) -> None:
    """Say what is served, to whom, and how to log in."""
    from aragora_q.config.redis_url import format_address
    from aragora_q.web.console import URL_SETTINGS
    from aragora_q.web.roles import Role

    address = f"http://{format_address((host, port))}"
    output.info(f"serving queue {console.config.queue} on {address}/")
    if missing := [role for role in Role if role not in console.roles]:
        output.info(
            f"to allow logins as {' or '.join(missing)}, set "
            f"{' and '.join(URL_SETTINGS[role] for role in missing)}; if Redis has no users, to the same URL "
            "as redis_url"
        )
    if auth.is_loopback and auth.highest is not Role.VIEWER and sys.stderr.isatty():
        auth.desk_name = operator()
        link = f"{address}/login?code={auth.link.make()}"
        output.info(f"to log in as {auth.highest}, open this link, which works once: {link}")
    elif not auth.tokens and not auth.proxies and not auth.is_loopback:
        output.info(
            "without tokens, only /metrics and /healthz: make one with "
            "aragora-q token NAME --role ROLE --file FILE, and set web_tokens_file"
        )
