"""`aragora-q healthcheck`: is the worker or exporter of this machine well? For health checks of containers."""

from __future__ import annotations

import http.client
from typing import Annotated

import typer

from aragora_q.cli import output

ANSWER_SECONDS = 9.0


def healthcheck(
    address: Annotated[
        str,
        typer.Argument(metavar="HOST:PORT", show_default=False, hidden=True),
    ] = "127.0.0.1:9464",
) -> None:
    """Ask a running worker or exporter whether it is well.

    HOST:PORT is where it serves its metrics; default 127.0.0.1:9464, the first worker started by
    hand. A worker is well while it makes progress, even if it waits for Redis; an exporter while
    Redis answers it.

    Example:
      aragora-q healthcheck
      aragora-q healthcheck 127.0.0.1:9711    # aragora-q-worker@1, under systemd
      aragora-q healthcheck 127.0.0.1:9474    # the exporter

    Exit codes:
      0 well   1 stalled, without Redis (exporter), or nobody answers
      2 no such address

    """
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise typer.BadParameter(f"{address!r} is no HOST:PORT", param_hint="HOST:PORT")
    asked = http.client.HTTPConnection(
        host.strip("[]") or "127.0.0.1", int(port), timeout=ANSWER_SECONDS
    )
    try:
        asked.request("GET", "/healthz")
        reply = asked.getresponse()
        verdict = reply.read(100).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        output.error(
            f"nobody answers on {address}: {getattr(error, 'strerror', None) or error}",
            "is it running, and are its metrics served there?",
        )
        raise typer.Exit(1) from None
    finally:
        asked.close()
    output.line(verdict)
    if reply.status != http.HTTPStatus.OK:
        raise typer.Exit(1)
