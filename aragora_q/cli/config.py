"""`aragora-q config`: show each setting and its origin; check the configuration."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from aragora_q.cli import SETTINGS, options, output
from aragora_q.cli.options import ConfigFile

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.config.sources import SettingsSources

DEFAULT = "default"
HIDDEN = "hidden"
ORIGIN_COLUMN = 46
"""Column of the origin in the output of `show --origin`; longer lines have it above."""

config = typer.Typer(
    help="Show and check the configuration.\n\n"
    "Sources, later ones override earlier ones: defaults, /etc/aragora-q/aragora-q.toml, "
    "/etc/aragora-q/conf.d/*.toml, ~/.config/aragora-q/aragora-q.toml, ./aragora-q.toml, "
    "--config FILE, credentials and *_FILE secrets, environment, options of a command.",
    no_args_is_help=True,
    add_completion=False,
    **SETTINGS,
)


@config.command(
    epilog="\b\nExamples:\n  aragora-q config show --origin\n"
    "  aragora-q config show > all.toml\n\n\b\nExit codes:\n  0 ok   78 invalid configuration",
)
def show(
    *,
    origin: Annotated[
        bool, typer.Option("--origin", help="Also print the origin of each value.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object: value, origin, default per setting."),
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Show all settings with their effective values, as TOML. Passwords are omitted."""
    settings, sources = _load(config)
    if as_json:
        output.json_line(_as_json(settings, sources))
    else:
        output.lines(_as_toml(settings, sources, with_origin=origin))


@config.command(
    epilog="\b\nExamples:\n  aragora-q config check --config new.toml\n\n\b\n"
    "Exit codes:\n  0 valid; a worker would start here   78 invalid configuration",
)
def check(
    *,
    settings_only: Annotated[
        bool,
        typer.Option("--settings-only", help="Build no executor: for a host without workers."),
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Check all settings from all sources, and build the executor with its agents, as a worker does.

    Every invalid setting is listed. To also check the server, run `doctor`.
    """
    from aragora_q.errors import ConfigError
    from aragora_q.executors import load_executor

    settings, sources = _load(config)
    for path in sources.ignored:
        output.info(f"ignored: {path} belongs to another user")
    if settings.default_agents and settings.executor == "debate":
        options.check_default_agents(settings, lambda name: sources.settings[name].origin)
    _check_schedules(settings, sources)
    if not settings_only:
        try:
            asyncio.run(load_executor(settings))
        except ConfigError as error:
            without = "on a host without workers, use --settings-only"
            raise ConfigError(
                f"the settings are valid, but a worker would not start here: {error}",
                hint=f"{error.hint}; {without}" if error.hint else without,
            ) from error
    names = sorted(sources.settings)
    output.line(f"valid: {output.count(len(names), 'setting')} set, all others at their defaults")
    for name in names:
        output.line(f"  {name:<28}{sources.settings[name].origin}")
    if settings_only:
        return
    _check_webhooks(settings, sources)
    if settings.executor == "debate" and any(
        each.on_full != "warn" for each in settings.budgets.values()
    ):
        from aragora_q.executors.debate.agents import unpriced_agents

        if unpriced := unpriced_agents(settings):
            output.info(
                f"no price is known for {', '.join(unpriced)}: a budget that applies to their calls refuses "
                "them; add them to [prices]"
            )


def _check_schedules(settings: QueueConfig, sources: SettingsSources) -> None:
    """Check the job of each schedule as `enqueue` does. Raises ConfigError, which has all faults."""
    from aragora_q import codec
    from aragora_q.errors import ConfigError, InvalidPayload
    from aragora_q.intake.checks import check_budget, check_seats

    faults = []
    for name in settings.schedules:
        job = settings.scheduled_job(name, "1")
        where = f"schedules.{name}.job ({_origin(f'schedules.{name}', sources)})"
        try:
            if warning := check_seats(job.payload, settings):
                output.info(f"{where}: {warning}")
            check_budget(job, settings)
        except InvalidPayload as error:
            faults.append(f"{where}: {'; '.join(filter(None, (str(error), error.hint)))}")
        if (size := len(codec.encode(job.payload))) > settings.max_payload_bytes:
            limit = f"max_payload_bytes is {settings.max_payload_bytes:,}"
            faults.append(f"{where}: payload has {size:,} bytes, {limit}")
    if faults:
        raise ConfigError("\n".join(faults))


def _check_webhooks(settings: QueueConfig, sources: SettingsSources) -> None:
    """Say whose secret or certificate cannot be used here. A worker starts nevertheless, and messages wait."""
    from aragora_q.errors import ConfigError

    if not settings.webhooks:
        return
    from aragora_q.webhooks import sending, signing

    for name, target in settings.webhooks.items():
        try:
            signing.read_keys(target.secret_file)
            sending.tls_context(target.ca_file)
        except ConfigError as error:
            where = f"webhooks.{name} ({_origin(f'webhooks.{name}', sources)})"
            output.info(f"{where}: its messages will wait: {error}")


def _load(file: Path | None) -> tuple[QueueConfig, SettingsSources]:
    from aragora_q.config.sources import override_file, read_sources

    settings = options.load_config(file)
    with override_file(file):
        return settings, read_sources(type(settings).model_fields)


def _as_json(settings: QueueConfig, sources: SettingsSources) -> dict[str, Any]:
    """By setting: `value`, `origin`, `default`. The value of a secret that is set is `"hidden"`.

    Each agent has a separate entry, `agents.NAME`; so has each entry of the other tables.
    """
    return {
        entry.name: {
            "value": entry.value,
            "origin": _origin(entry.name, sources),
            "default": entry.default,
        }
        for entry in _entries(settings)
    }


def _as_toml(
    settings: QueueConfig, sources: SettingsSources, *, with_origin: bool
) -> Iterator[str]:
    for name, value, _ in _entries(settings):
        is_comment = value is None or value == HIDDEN
        if name == "redis_url" and value != settings.redis_url:
            yield "# redis_url: user and password are omitted"
        if name.startswith("webhooks.") and value["url"].endswith("…"):
            yield f"# {name}: path and query of url are omitted"
        text = "# " if is_comment else ""
        key = ".".join(map(_toml_name, name.split(".", 1)))  # of a table: TABLE.NAME
        text += f"{key} = {'' if value is None else toml_value(value)}".rstrip()
        origin = f"# {_origin(name, sources)}"
        if not with_origin:
            yield text
        elif len(text) <= ORIGIN_COLUMN:
            yield f"{text:<{ORIGIN_COLUMN}}  {origin}"
        else:
            yield origin
            yield text


class _Entry(NamedTuple):
    name: str
    value: Any
    default: Any


def _entries(settings: QueueConfig) -> Iterator[_Entry]:
    """Yield all settings with secrets hidden, and last each entry of the tables."""
    from pydantic import SecretStr

    from aragora_q.config.redis_url import RedisUrl
    from aragora_q.config.sources import TABLES

    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name in TABLES:
            continue
        if isinstance(value, SecretStr):
            value = HIDDEN
        if name == "redis_url":
            value = RedisUrl.parse(value).redacted
        yield _Entry(name, value, field.get_default(call_default_factory=True))
    for table in TABLES:
        for name, entry in getattr(settings, table).items():
            values = entry.model_dump(exclude_unset=True)
            if table == "webhooks":
                values["url"] = entry.shown_url
            yield _Entry(f"{table}.{name}", values, None)


def _origin(name: str, sources: SettingsSources) -> str:
    setting = sources.settings.get(name)
    return setting.origin if setting else DEFAULT


def _toml_name(name: str) -> str:
    """Return the TOML of one name."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml_text(name)


def _toml_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_value(value: Any) -> str:
    """Return the TOML of a setting's value."""
    if isinstance(value, dict):
        pairs = (f"{_toml_name(name)} = {toml_value(item)}" for name, item in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str):
        return _toml_text(value)
    if isinstance(value, bool):
        return json.dumps(value)
    return f"{value:_}" if isinstance(value, int) else str(value)
