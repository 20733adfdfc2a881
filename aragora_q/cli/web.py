"""`aragora-q web`: serve the console until stopped."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from aragora_q.cli import output
from aragora_q.cli.options import LoadConfig, parse_address, run, with_config

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig

EPILOG = """\b
Examples:
  aragora-q web
  aragora-q web --redis-url embedded:// --queue demo

\b
Exit codes:
  78 invalid configuration, or the address is in use
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
    """Serve the console: pages, HTTP API, metrics and health."""
    settings = load(web_listen=listen)
    host, port = parse_address(settings.web_listen, "--listen")
    run(_serve(settings, host, port))


async def _serve(settings: QueueConfig, host: str, port: int) -> None:
    """Serve until a signal arrives."""
    from aragora_q.config.redis_url import format_address
    from aragora_q.observability.logs import setup_logging
    from aragora_q.observability.web_metrics import WebMetrics
    from aragora_q.web import server
    from aragora_q.web.console import open_console

    setup_logging(settings.log_level, settings.log_format)
    with server.listen(host, port) as sock:
        async with open_console(settings) as console:
            metrics = WebMetrics(settings.queue)
            auth = server.create_auth(settings, console, sock, metrics)
            address = f"http://{format_address((host, port))}"
            output.info(f"serving {address}/")
            if sys.stderr.isatty() and auth.is_loopback:
                output.info(f"log in once: {address}/login?code={auth.link.make()}")
            await server.serve(console, sock, auth, metrics, host)
