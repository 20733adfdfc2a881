"""HTTP to a receiver whose answers are bounded in size and time: they say nothing but their status."""

from __future__ import annotations

import logging
import time
from http import HTTPStatus
from typing import Any

import requests

from aragora_q.observability.otel.variables import Signal

MAX_ANSWER_BYTES = 65_536


class BoundedSession(requests.Session):
    """Reads at most MAX_ANSWER_BYTES of an answer, within the time limit of the request.

    A redirect is an error: the exporters would take it for success. The status of other errors is logged,
    because the exporters do not always log it.
    """

    def __init__(self, signal: Signal) -> None:
        super().__init__()
        self._logger = logging.getLogger(f"opentelemetry.{signal}")

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        """As `Session.request`, without the body of the answer. Raises RequestException."""
        seconds = options.get("timeout")
        deadline = None if seconds is None else time.monotonic() + seconds
        response = super().request(*arguments, **{**options, "stream": True})
        try:
            _skip(response, deadline)
            response._content = b""  # noqa: SLF001 - else reading it raises: it has been read
        finally:
            response.close()
        status_code = response.status_code
        if HTTPStatus.MULTIPLE_CHOICES <= status_code < HTTPStatus.BAD_REQUEST:
            raise requests.HTTPError(f"HTTP {status_code}", response=response)
        if status_code >= HTTPStatus.BAD_REQUEST:
            self._logger.error("HTTP %d", status_code)
        return response


def _skip(response: requests.Response, deadline: float | None) -> None:
    """Read the answer, so that the connection can be used again."""
    left = MAX_ANSWER_BYTES
    while left > 0 and (chunk := response.raw.read1(left)):
        left -= len(chunk)
        if deadline is not None and time.monotonic() > deadline:
            raise requests.ReadTimeout("the answer did not end in time", response=response)
