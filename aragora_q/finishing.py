"""Steps that run to their end, although their caller is cancelled: those that release jobs and stop workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


async def finish(
    step: Callable[[], Coroutine[Any, Any, None]],
    on_cancel: Callable[[], None] = lambda: None,
) -> None:
    """Run `step` in a task to its end, even if the caller is cancelled meanwhile; raise CancelledError then.

    `asyncio.run` cancels all tasks when its program ends, also that of the step. The step is then run once
    more, so it must be one that can be repeated. `on_cancel` is called for each cancellation.
    """
    is_cancelled = False
    for is_last in (False, True):
        task = asyncio.create_task(step())
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                is_cancelled = True
                on_cancel()
        if is_last or not task.cancelled():
            break
        is_cancelled = True
        on_cancel()
    task.result()
    if is_cancelled:
        raise asyncio.CancelledError
