"""HTTP to a receiver whose answers are bounded in size and time: they say nothing but their status."""

from __future__ import annotations

import time
from typing import Any

import requests

MAX_ANSWER_BYTES = 65_536


class BoundedSession(requests.Session):
    """Reads at most MAX_ANSWER_BYTES of an answer, within the time limit of the request.

    A redirect is an error: the exporters would take it for success.
    """

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
        if response.is_redirect:
            raise requests.HTTPError(f"HTTP {response.status_code}", response=response)
        return response


def _skip(response: requests.Response, deadline: float | None) -> None:
    """Read the answer, so that the connection can be used again."""
    left = MAX_ANSWER_BYTES
    while left > 0 and (chunk := response.raw.read1(left)):
        left -= len(chunk)
        if deadline is not None and time.monotonic() > deadline:
            raise requests.ReadTimeout("the answer did not end in time", response=response)
