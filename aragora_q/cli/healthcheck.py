"""`aragora-q healthcheck`: check a worker or exporter on this machine; for container health checks."""

from __future__ import annotations

import http.client
from typing import Annotated

import typer

from aragora_q.cli import output
from aragora_q.cli.options import parse_address

TIMEOUT_SECONDS = 9.0

EPILOG = """\b
Examples:
  aragora-q healthcheck
  aragora-q healthcheck 127.0.0.1:9711    # aragora-q-worker@1, under systemd
  aragora-q healthcheck 127.0.0.1:9474    # the exporter

\b
Exit codes:
  0 healthy   1 unhealthy or no response   2 invalid address
"""


def healthcheck(
    address: Annotated[
        str,
        typer.Argument(metavar="HOST:PORT", help="Address of the metrics endpoint."),
    ] = "127.0.0.1:9464",
) -> None:
    """Check the health of a running worker or exporter.

    A worker is healthy while it makes progress, even if it waits for Redis. An exporter is healthy
    while Redis answers it. The default address is that of the first worker started by hand.
    """
    host, port = parse_address(address, "HOST:PORT")
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        body = response.read(100).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        output.error(
            f"no response from {address}: {getattr(error, 'strerror', None) or error}",
            "check that it is running and serves its metrics at this address",
        )
        raise typer.Exit(1) from None
    finally:
        connection.close()
    output.line(body)
    if response.status != http.HTTPStatus.OK:
        raise typer.Exit(1)
