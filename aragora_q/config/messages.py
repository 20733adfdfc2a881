"""Validation errors in an operator's words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from aragora_q.config.sources import (
    SettingsSources,
    _nearest,
    read_sources,
)
from aragora_q.errors import ConfigError


def explain(
    error: ValidationError, arguments: Mapping[str, Any], fields: Mapping[str, FieldInfo]
) -> ConfigError:
    """One line for every fault: setting, value unless it may hold a secret, rule, origin."""
    layers = read_sources(fields)
    lines = []
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        location = [str(part) for part in fault["loc"]]
        if not location:
            lines.append(_cross_field_error(_rule(fault["msg"]), arguments, layers, fields))
        elif fault["type"] == "extra_forbidden":
            lines.append(_unknown(location, arguments, layers, fields))
        else:
            lines.append(_invalid_file(location, _rule(fault["msg"]), arguments, layers))
    return ConfigError("\n".join(lines))


def _rule(message: str) -> str:
    rule = message.removeprefix("Value error, ")
    return rule[0].lower() + rule[1:]


def _cross_field_error(
    rule: str,
    arguments: Mapping[str, Any],
    layers: SettingsSources,
    fields: Mapping[str, FieldInfo],
) -> str:
    """A rule that spans settings, with the origin of each that it names."""
    origins = []
    for name in re.findall(r"\w+", rule):
        if name in arguments:
            origins.append(f"{name}: argument")
        elif name in fields:
            found = layers.find([name])
            origins.append(f"{name}: {found.origin if found else 'default'}")
    return f"{rule} ({', '.join(origins)})"


def _unknown(
    location: list[str],
    arguments: Mapping[str, Any],
    layers: SettingsSources,
    fields: Mapping[str, FieldInfo],
) -> str:
    """Whatever stands under a name that is none of ours may be a secret: it is not repeated."""
    *_, name = location
    if len(location) == 1:
        return f"unknown setting {name!r}{_nearest(name, fields)}"
    found = None if location[0] in arguments else layers.find(location)
    known = get_args(fields["agents"].annotation)[1].model_fields
    origin = found.origin if found else f"argument {location[0]}"
    return f"{'.'.join(location)} ({origin}): unknown{_nearest(name, known)}"


def _invalid_file(
    location: list[str], rule: str, arguments: Mapping[str, Any], layers: SettingsSources
) -> str:
    """Setting, value, origin, rule. A URL may hold a password: its value is not repeated."""
    name = location[0]
    if name in arguments:
        value, origin = arguments[name] if len(location) == 1 else None, f"argument {name}"
    elif found := layers.find(location):
        value, origin = found.value, found.origin
    else:
        return rule
    is_url = name.startswith("redis_") or location[-1].endswith("_url")
    is_shown = not is_url and isinstance(value, str | int | float)
    shown = f" = {value!r:.100}" if is_shown else ""
    return f"{'.'.join(location)}{shown} ({origin}): {rule}"
