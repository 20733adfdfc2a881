"""Options that commands share, and what they mean: a configuration, an open queue.

Used by all commands that touch Redis. Whatever is heavy is imported when it is needed.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.streams.queue import RedisStreamsQueue

T = TypeVar("T")

RedisUrl = Annotated[
    str | None, typer.Option("--redis-url", metavar="URL", help="The server, instead of REDIS_URL.")
]
QueueName = Annotated[
    str | None, typer.Option("--queue", metavar="NAME", help="The queue, instead of `debates`.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="One more configuration file, over the others."),
]
AsJson = Annotated[
    bool, typer.Option("--json", "--jsonl", help="One JSON object per line, for programs.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Job ids only, no messages.")]
Silent = Annotated[bool, typer.Option("--quiet", "-q", help="No output unless something is wrong.")]


def _check_ids(ids: list[str]) -> list[str]:
    if "" in ids:
        raise typer.BadParameter("it is empty: did the command that was to give it fail?")
    return ids


JobIds = Annotated[
    list[str],
    typer.Argument(metavar="ID", show_default=False, hidden=True, callback=_check_ids),
]
Agents = Annotated[
    list[str] | None,
    typer.Option(
        "--agents", "-a", metavar="A,B,…", help="Who debates: 2 to 16 names, as claude,gpt."
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="SECONDS", min=0, help="Give up waiting after so long: exit 124."
    ),
]


def load_config(file: Path | None, **overrides: Any) -> QueueConfig:
    """The configuration; what was given on the command line (not None) wins. Raises ConfigError."""
    from aragora_q.config.settings import QueueConfig
    from aragora_q.config.sources import override_file

    with override_file(file):
        return QueueConfig(
            **{name: value for name, value in overrides.items() if value is not None}
        )


@asynccontextmanager
async def opened(config: QueueConfig) -> AsyncIterator[RedisStreamsQueue]:
    """The configured queue, on a server that answered."""
    from aragora_q.streams.queue import create_redis_queue

    queue = await create_redis_queue(config)
    try:
        yield queue
    finally:
        await queue.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work to its end. Ctrl-C ends it even while it waits for its standard input."""
    before = signal.signal(signal.SIGINT, _interrupt)  # asyncio's own handler waits for the loop
    try:
        return asyncio.run(work)
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


async def pause(config: QueueConfig, *, paused: bool) -> bool:
    """Pause the queue, or resume it; False if it was so already."""
    async with opened(config) as queue:
        return await queue.pause(paused=paused)


def names(texts: list[str] | None) -> list[str]:
    """Names of an option that takes them with commas between, and may be given again."""
    return [name.strip() for text in texts or [] for name in text.split(",")]


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration(text: str) -> float:
    """Seconds of `90s`, `15m`, `36h` or `7d`. Raises typer.BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not found:
        raise typer.BadParameter(f"{text!r} is no duration: write 90s, 15m, 36h or 7d")
    return float(found[1]) * _UNITS[found[2]]
