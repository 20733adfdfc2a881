"""`aragora-q config`: what the settings are and where each comes from; whether they are right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aragora_q.cli import SETTINGS, options, output
from aragora_q.cli.options import ConfigFile

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.config.sources import SettingsSources

DEFAULT = "default"

config = typer.Typer(
    help="Show and check the configuration.\n\n"
    "Later layers win: defaults, /etc/aragora-q/aragora-q.toml and conf.d/*.toml, "
    "~/.config/aragora-q/aragora-q.toml, ./aragora-q.toml, --config FILE, credentials and "
    "*_FILE secrets, environment, options of a command.",
    no_args_is_help=True,
    add_completion=False,
    **SETTINGS,
)


@config.command(
    epilog="\b\nExample:\n  aragora-q config show --origin\n"
    "  aragora-q config show > all.toml\n\n\b\nExit codes:\n  0 ok   78 something is wrong",
)
def show(
    *,
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value comes from.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="One JSON object: value, origin and default of each setting."),
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Show every setting as it is now, as TOML. Passwords are left out."""
    settings, layers = _read(config)
    if as_json:
        output.json_line(_as_json(settings, layers))
    else:
        output.lines(_as_toml(settings, layers, with_origin=origin))


@config.command(
    epilog="\b\nExample:\n  aragora-q config check --config new.toml\n\n\b\n"
    "Exit codes:\n  0 all settings are right   78 something is wrong: every fault is named",
)
def check(*, config: ConfigFile = None) -> None:
    """Check every setting of every layer. No server is asked; `doctor` does that."""
    _, layers = _read(config)
    names = sorted(layers.settings)
    output.line(f"right: {output.count(len(names), 'setting')} set, all others have their defaults")
    for path in layers.ignored:
        output.note(f"ignored: {path} belongs to another user")
    for name in names:
        output.line(f"  {name:<28}{layers.settings[name].origin}")


def _read(file: Any) -> tuple[QueueConfig, SettingsSources]:
    from aragora_q.config.sources import override_file, read_sources

    settings = options.load_config(file)
    with override_file(file):
        return settings, read_sources(type(settings).model_fields)


def _as_json(settings: QueueConfig, layers: SettingsSources) -> dict[str, Any]:
    """By setting: `value`, `origin`, `default`; a secret's value is `"hidden"` where it is set. An
    agent is a setting of its own, `agents.NAME`.
    """
    return {
        name: {"value": value, "origin": _origin(name, layers), "default": default}
        for name, value, default in _rows(settings)
    }


def _as_toml(settings: QueueConfig, layers: SettingsSources, *, with_origin: bool) -> Iterator[str]:
    for name, value, _ in _rows(settings):
        is_hidden = value is None or value == HIDDEN
        if name == "redis_url" and value != settings.redis_url:
            yield "# redis_url: user and password are left out"
        shown = "# " if is_hidden else ""
        shown += f"{name} = {'' if value is None else toml_value(value)}".rstrip()
        comment = f"# {_origin(name, layers)}"
        if with_origin and len(shown) > COLUMN:
            yield comment
        yield f"{shown:<{COLUMN}}  {comment}" if with_origin and len(shown) <= COLUMN else shown


COLUMN = 46
HIDDEN = "hidden"


def _rows(settings: QueueConfig) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and default of each setting, secrets hidden; agents last, one by one."""
    from pydantic import SecretStr

    from aragora_q.config.redis_url import RedisUrl

    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if name == "agents":
            continue
        if isinstance(value, SecretStr):
            value = HIDDEN
        if name == "redis_url":
            value = RedisUrl.parse(value).shown
        yield name, value, field.default
    for agent, behind in settings.agents.items():
        yield f"agents.{agent}", behind.model_dump(exclude_unset=True), None


def _origin(name: str, layers: SettingsSources) -> str:
    setting = layers.settings.get(name)
    return setting.origin if setting else DEFAULT


def toml_value(value: Any) -> str:
    """A setting's value as it is written in aragora-q.toml."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {toml_value(each)}' for name, each in value.items())} }}"
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:_}" if isinstance(value, int) else str(value)
