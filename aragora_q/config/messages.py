"""Turn pydantic's validation errors into messages for operators.

Used by `settings.QueueConfig`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from aragora_q.config.sources import (
    SECRETS,
    SettingsSources,
    argument_origin,
    read_sources,
    suggestion_for,
)
from aragora_q.errors import ConfigError, validation_rule

_MAY_BE_SECRET = re.compile(r"^redis_|^exec_|(^|_)url$|_key$|key_env$|^secret")
"""Settings besides SECRETS whose values may hold a password or a key, also by mistake."""


def faults_at(faults: Mapping[tuple[str, ...], str]) -> PydanticCustomError:
    """Return an error for a validator that sees all settings: rules by the locations that break them."""
    return PydanticCustomError("faults_at", "invalid", {"faults": faults})


def explain(
    error: ValidationError, arguments: Mapping[str, Any], fields: Mapping[str, FieldInfo]
) -> ConfigError:
    """Return an error with one line per fault: setting, value unless it may be secret, rule, origin."""
    explainer = _Explainer(arguments, fields, read_sources(fields))
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        if fault["type"] == "faults_at":
            found = fault["ctx"]["faults"].items()
            lines += [explainer.line(location, "value_error", rule) for location, rule in found]
        else:
            location = [str(part) for part in fault["loc"]]
            lines.append(explainer.line(location, fault["type"], fault["msg"]))
    return ConfigError("\n".join(lines))


@dataclass(frozen=True)
class _Explainer:
    arguments: Mapping[str, Any]
    fields: Mapping[str, FieldInfo]
    sources: SettingsSources

    def line(self, location: Sequence[str], kind: str, message: str) -> str:
        """Return the message of one fault. An empty `location` is a rule that spans several settings."""
        rule = validation_rule(message)
        if not location:
            return self._cross_field_error(rule)
        if kind == "extra_forbidden":
            return self._unknown_name(location)
        return self._invalid_value(location, rule)

    def _cross_field_error(self, rule: str) -> str:
        """Return the rule with the origin of each setting that it names."""
        origins = []
        for name in re.findall(r"\w+", rule):
            if name in self.arguments:
                origins.append(f"{name}: {argument_origin(name)}")
            elif name in self.fields:
                resolved = self.sources.find([name])
                origins.append(f"{name}: {resolved.origin if resolved else 'default'}")
        return f"{rule} ({', '.join(origins)})"

    def _unknown_name(self, location: Sequence[str]) -> str:
        """Return the unknown name and its origin, without the value, which may be a secret."""
        *_, name = location
        if len(location) == 1:
            return f"unknown setting {name!r}{suggestion_for(name, self.fields)}"
        resolved = None if location[0] in self.arguments else self.sources.find(location)
        known = self.fields[location[0]].metadata[0].entry.model_fields
        origin = resolved.origin if resolved else argument_origin(location[0])
        return f"{'.'.join(location)} ({origin}): unknown setting{suggestion_for(name, known)}"

    def _invalid_value(self, location: Sequence[str], rule: str) -> str:
        """Return setting, value, origin and rule, without a value that may hold a secret."""
        name = location[0]
        if location[-1] == "[key]":  # of a table: the rule is about the name of an entry
            location = location[:-1]
        if name in self.arguments:
            value = self.arguments[name] if len(location) == 1 else None
            origin = argument_origin(name)
        elif resolved := self.sources.find(location):
            value, origin = resolved.value, resolved.origin
        else:  # a rule of a whole table, whose entries may come from several sources
            return f"{name}: {rule}"
        is_secret = location[-1] in SECRETS or _MAY_BE_SECRET.search(location[-1])
        is_shown = isinstance(value, str | int | float) and not is_secret
        shown = _shown(value) if is_shown else ""
        text = f" = {shown}" if shown and f"{shown} " not in rule else ""
        return f"{'.'.join(location)}{text} ({origin}): {rule}"


def _shown(value: object) -> str:
    try:
        return f"{value!r:.100}"
    except ValueError:  # Python does not print an integer of more than 4,300 digits
        return "a huge number"
