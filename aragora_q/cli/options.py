"""Options that several commands share, the decorators that add them, and parsers of values.

Used by all commands, and by the group, which accepts RedisUrl, QueueName and ConfigFile before the
command. Imports of asyncio, the configuration and Redis happen when a command runs, so that `--help`
stays fast.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from aragora_q import moments, process
from aragora_q.errors import ConfigError, InvalidPayload

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.streams.queue import RedisStreamsQueue

T = TypeVar("T")
P = ParamSpec("P")
Command = Callable[..., int | None]

RedisUrl = Annotated[
    str | None,
    typer.Option("--redis-url", metavar="URL", help="Redis server; overrides REDIS_URL."),
]
QueueName = Annotated[
    str | None,
    typer.Option("--queue", metavar="NAME", help="Queue name; overrides ARAGORA_QUEUE_NAME."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Additional configuration file; overrides all others."
    ),
]
DEMO_SERVER, DEMO_QUEUE = "embedded://", "demo"
"""Where the command `demo` keeps its debates."""

CODES = "69 Redis unreachable   75 try again   77 access denied\n  78 invalid configuration"
"""Exit codes of every command that uses Redis, for the epilog of its help."""

AsJson = Annotated[bool, typer.Option("--json", "--jsonl", help="Print JSON, one object per line.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only job ids (if any) and errors.")
]
OnlyErrors = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count the jobs, change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def check_ids(ids: list[str] | None) -> list[str] | None:
    """Raise typer.BadParameter for an empty job id, such as the output of a command that failed."""
    if "" in (ids or ()):
        raise typer.BadParameter("a job id is empty: the command that printed it may have failed")
    return ids


JobIds = Annotated[
    list[str],
    typer.Argument(metavar="ID", show_default=False, callback=check_ids, help="Job ids."),
]
Agents = Annotated[
    list[str] | None,
    typer.Option(
        "--agents", "-a", metavar="A,B,…", help="Agents, 1 to 16, comma-separated: claude,gpt."
    ),
]
Notify = Annotated[
    list[str] | None,
    typer.Option(
        "--notify",
        metavar="A,B,…",
        help="Webhooks to report the end to, at most 4.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0,
        help="Stop waiting after this time (exit code 124).",
    ),
]


@dataclass(frozen=True)
class LoadConfig:
    """Loads the configuration that the options of a command select."""

    file: Path | None
    redis_url: str | None
    queue: str | None

    def __call__(self, **overrides: Any) -> QueueConfig:
        """Load it; see `load_config`."""
        return load_config(self.file, redis_url=self.redis_url, queue=self.queue, **overrides)

    def origin(self, setting: str) -> str:
        """Return the origin of a setting that a file or a variable sets."""
        from aragora_q.config.settings import QueueConfig
        from aragora_q.config.sources import override_file, read_sources

        with override_file(self.file):
            return read_sources(QueueConfig.model_fields).settings[setting].origin


def with_config(command: Command) -> Command:
    """Add the options --redis-url, --queue and --config to `command`.

    Its first parameter receives the `LoadConfig` of their values.
    """

    @wraps(command)
    def wrapper(
        redis_url: str | None, queue: str | None, config: Path | None, **arguments: Any
    ) -> int | None:
        _check_texts(arguments)
        return command(LoadConfig(config, redis_url, queue), **arguments)

    # Typer derives options from signature and annotations. The first parameter is not an option; the
    # name in its annotation is imported for type checkers only.
    first, *_ = inspect.signature(command).parameters.values()
    signature = inspect.signature(command, eval_str=True, locals={first.annotation: object})
    parameters = [
        *(parameter for parameter in signature.parameters.values() if parameter.name != first.name),
        _shared("redis_url", RedisUrl),
        _shared("queue", QueueName),
        _shared("config", ConfigFile),
    ]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # known to inspect
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _check_texts(arguments: Mapping[str, Any]) -> None:
    """Raise typer.BadParameter for a text that is not UTF-8. Names of files may be any bytes."""
    for value in arguments.values():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and any("\ud800" <= char <= "\udfff" for char in text):
                raise typer.BadParameter(f"{text!r:.100} is not UTF-8")


def traced(command: Callable[P, T]) -> Callable[P, T]:
    """Let a command that enqueues continue the trace that TRACEPARENT and TRACESTATE name.

    Its spans are sent if `OTEL_*` variables ask for it.
    """

    @wraps(command)
    def wrapper(*args: P.args, **arguments: P.kwargs) -> T:
        from aragora_q import tracing
        from aragora_q.observability import otel

        tracing.receive(os.environ.get("TRACEPARENT"), os.environ.get("TRACESTATE"))
        with otel.exporting():
            return command(*args, **arguments)

    return wrapper


def _shared(name: str, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)


def with_queue(command: Callable[..., Awaitable[int | None]]) -> Command:
    """Add the options of `with_config`; run `command` with the open queue as its first argument."""

    @wraps(command)
    def wrapper(load: LoadConfig, **arguments: Any) -> int | None:
        async def run_with_queue() -> int | None:
            async with open_queue(load()) as queue:
                return await command(queue, **arguments)

        return run(run_with_queue())

    return with_config(wrapper)


OPTIONS = {"exec_command": "--exec", "web_listen": "--listen"}
"""Options that are not named after their setting."""


def load_config(file: Path | None, **overrides: Any) -> QueueConfig:
    """Load the configuration; `overrides` that are not None win over all files and variables.

    Raises:
        ConfigError: a setting is invalid, or a file cannot be read.

    """
    with _without_plugins():
        from aragora_q.config.settings import QueueConfig
    from aragora_q.config.sources import override_file

    given = {name: value for name, value in overrides.items() if value is not None}
    names = {name: OPTIONS.get(name, f"--{name.replace('_', '-')}") for name in given}
    with override_file(file, names):
        return QueueConfig(**given)


@contextmanager
def _without_plugins() -> Iterator[None]:
    """Let pydantic build the settings without its plugins, which it looks for in all installed packages.

    It looks for them again when an executor declares models.
    """
    import os

    name = "PYDANTIC_DISABLE_PLUGINS"
    before = os.environ.get(name)
    os.environ[name] = "__all__"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def default_agents(load: LoadConfig, config: QueueConfig) -> list[str]:
    """Return the agents of debates that name none, checked if a debate would be asked of them.

    Raises:
        ConfigError: a name is unknown.
    """
    if config.default_agents and config.executor == "debate":
        check_default_agents(config, load.origin)
    return list(config.default_agents)


def check_default_agents(config: QueueConfig, origin: Callable[[str], str]) -> None:
    """Check that the names of setting `default_agents` resolve; `origin` returns where a setting is from.

    Raises:
        ConfigError: a name is unknown.
    """
    from aragora_q.executors.debate import check_agents

    try:
        check_agents(config.default_agents, config)
    except InvalidPayload as error:
        fault = f"default_agents ({origin('default_agents')}): {error}"
        raise ConfigError(fault, hint=error.hint) from None


@asynccontextmanager
async def open_queue(config: QueueConfig) -> AsyncIterator[RedisStreamsQueue]:
    """Connect to the server, check it, and yield the configured queue."""
    from aragora_q.streams.queue import create_redis_queue

    queue = await create_redis_queue(config)
    try:
        yield queue
    finally:
        await queue.close()


def run(work: Coroutine[Any, Any, T], loop_factory: Callable[[], Any] | None = None) -> T:
    """Run a coroutine to its end. A stop signal interrupts it even while it reads standard input."""
    import asyncio

    with (
        process.interruptible(),  # asyncio's own handler waits for the loop
        asyncio.Runner(loop_factory=loop_factory) as runner,
    ):
        return runner.run(work)


def split_names(values: list[str] | None) -> list[str]:
    """Return the names in the values of an option that takes comma-separated names and can be repeated."""
    return [name.strip() for value in values or [] for name in value.split(",")]


def parse_weight(text: str) -> tuple[str, float]:
    """Return name and number of `NAME=NUMBER`. Raises typer.BadParameter."""
    name, equals, number = text.rpartition("=")  # names may contain it
    with suppress(ValueError):
        if equals and name.strip():
            return name.strip(), float(number)
    raise typer.BadParameter(f"{text!r:.100} is not NAME=NUMBER")


def parse_tag(text: str) -> tuple[str, str]:
    """Return name and value of the tag `K=V`. Raises typer.BadParameter."""
    name, _, value = text.partition("=")
    if name and value:
        return name, value
    raise typer.BadParameter(f"{text!r:.100} is not K=V, such as env=prod")


def by_name(pairs: list[tuple[str, T]] | None, option: str) -> dict[str, T]:
    """Return the values of a repeated option by name. Raises typer.BadParameter if a name is given twice."""
    values: dict[str, T] = {}
    for name, value in pairs or ():
        if name in values:
            raise typer.BadParameter(f"{name!r:.100} is given twice", param_hint=option)
        values[name] = value
    return values


def parse_object(text: str) -> dict[str, Any]:
    """Return the JSON object that `text` is, or that the file named by `@FILE` contains.

    Raises:
        typer.BadParameter: it is not one, or the file cannot be read.
    """
    value = _decode(_read(Path(text[1:])) if text.startswith("@") else text)
    if not isinstance(value, dict):
        raise typer.BadParameter("must be a JSON object, or @FILE with one")
    return value


def parse_answer_form(text: str) -> str | dict[str, Any]:
    """Return the name of an answer form as it is, and a schema as JSON. Raises typer.BadParameter."""
    return parse_object(text) if text.lstrip().startswith(("{", "@")) else text


def parse_texts(text: str) -> list[Any]:
    """Return texts separated by commas, or the items of a JSON list. Raises typer.BadParameter."""
    return _decode(text) if text.lstrip().startswith("[") else split_names([text])


MAX_JSON_BYTES = 1024 * 1024
"""A longer file is not a schema: it may be a device without an end."""


def _read(file: Path) -> str:
    from aragora_q import codec

    try:
        with file.open("rb") as stream:
            text = codec.text(stream.read(MAX_JSON_BYTES + 1))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise typer.BadParameter(f"cannot read {file}: {reason}") from None
    if len(text) > MAX_JSON_BYTES:
        raise typer.BadParameter(f"cannot read {file}: longer than {MAX_JSON_BYTES:,} bytes")
    return text


def _decode(text: str) -> Any:
    from aragora_q import codec

    try:
        return codec.decode(text.encode())
    except ValueError as error:
        reason = str(error).replace("at line 1 ", "at ")
        raise typer.BadParameter(f"{text!r:.100} is not JSON: {reason}") from None


def _check_reason(reason: str) -> str:
    from aragora_q.base import MAX_REASON_CHARS

    if len(reason) > MAX_REASON_CHARS:
        raise typer.BadParameter(f"must have at most {MAX_REASON_CHARS} characters")
    return reason


Reason = Annotated[
    str,
    typer.Option(
        "--reason", metavar="TEXT", callback=_check_reason, help="Why, for other operators."
    ),
]


def operator() -> str:
    """Return who runs the command, as user@host."""
    import getpass
    import os
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without an entry in the password database
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


MAX_SECONDS = 30 * 86_400
"""Longest time limit of a command that works on the queue."""


def parse_duration(text: str) -> float:
    """Return the seconds in `90s`, `15m`, `36h` or `7d`. Raises typer.BadParameter."""
    try:
        return moments.parse_duration(text)
    except InvalidPayload as error:
        raise typer.BadParameter(str(error)) from None


def parse_address(text: str, param_hint: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` or `[IPV6]:PORT`. Raises typer.BadParameter."""
    from aragora_q.config import redis_url

    try:
        return redis_url.parse_address(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r:.100} {error}", param_hint=param_hint) from None
