"""Where settings come from: files and environment, layer over layer, each value with its origin.

Read by `config.QueueConfig`; the command line adds the file of `--config` with `using_file`. Later
layers win: /etc/aragora-q/aragora-q.toml and conf.d/*.toml, the user's file, ./aragora-q.toml,
`--config`, systemd credentials and `*_FILE` secrets, environment.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from aragora_q.errors import ConfigError

SYSTEM_DIRECTORY = Path("/etc/aragora-q")
FILE_NAME = "aragora-q.toml"
PREFIX = "ARAGORA_QUEUE_"
AGENT_PREFIX = "ARAGORA_AGENT_"
KUBERNETES = re.compile(r"_SERVICE_|_PORT$|_PORT_")
"""Variables that Kubernetes makes up from the names of services."""

ENVIRONMENT_NAMES = {
    "redis_url": "REDIS_URL",
    "redis_password": "REDIS_PASSWORD",
    "redis_sentinel_password": "REDIS_SENTINEL_PASSWORD",
    "redis_tls_ca_file": "REDIS_TLS_CA_FILE",
    "redis_tls_cert_file": "REDIS_TLS_CERT_FILE",
    "redis_tls_key_file": "REDIS_TLS_KEY_FILE",
    "key_prefix": "ARAGORA_QUEUE_PREFIX",
    "queue": "ARAGORA_QUEUE_NAME",
    "retry_max_attempts": "ARAGORA_QUEUE_RETRY_MAX",
}
"""Settings whose variable is not `ARAGORA_QUEUE_` and the name in capitals."""

SECRETS = frozenset({"redis_password", "redis_sentinel_password"})
"""Also read from the file that `<VARIABLE>_FILE` names, and from systemd's credentials."""


@dataclass(frozen=True)
class Setting:
    """A value of a layer, and where it stands."""

    value: Any
    origin: str


_extra_file: ContextVar[Path | None] = ContextVar("extra_file", default=None)


@contextmanager
def using_file(path: Path | None) -> Iterator[None]:
    """Configurations made within also read `path`, over all other files."""
    token = _extra_file.set(path)
    try:
        yield
    finally:
        _extra_file.reset(token)


def read_layers(fields: Mapping[str, FieldInfo]) -> dict[str, Setting]:
    """All settings that files and environment set, the winning layer's value each.

    Raises ConfigError for unknown names, unreadable or malformed files: all faults in one message.
    """
    faults: list[str] = []
    settings: dict[str, Setting] = {}
    for path in _files():
        for name, setting in _file_layer(path, fields, faults).items():
            if name == "agents" and name in settings and isinstance(setting.value, dict):
                setting = Setting({**settings[name].value, **setting.value}, setting.origin)  # noqa: PLW2901
            settings[name] = setting
    settings |= _secret_files(faults)
    for name, setting in _environment_layer(fields, faults).items():
        if name == "agents" and name in settings:
            setting = Setting({**settings[name].value, **setting.value}, setting.origin)  # noqa: PLW2901
        settings[name] = setting
    if faults:
        raise ConfigError(
            "\n".join(faults), hint="aragora-q.toml and the documentation list all settings"
        )
    return settings


class LayersSource(PydanticBaseSettingsSource):
    """pydantic-settings' view of the layers."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the base class' signature
        """Not used: the layers are read as a whole."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Values by setting."""
        layers = read_layers(self.settings_cls.model_fields)
        return {name: setting.value for name, setting in layers.items()}


def explain(
    error: ValidationError, arguments: Mapping[str, Any], fields: Mapping[str, FieldInfo]
) -> ConfigError:
    """One line for every fault: setting, value unless it may hold a secret, rule, origin."""
    layers = read_layers(fields)
    lines = []
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        location = [str(part) for part in fault["loc"]]
        name = location[0] if location else ""
        rule = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            lines.append(f"unknown setting {name!r}{_nearest(name, fields)}")
            continue
        if name in arguments:
            origin, value = f"argument {name}", arguments[name]
        elif name in layers:
            origin, value = layers[name].origin, layers[name].value
        else:
            lines.append(rule)
            continue
        shown = "" if name.startswith("redis_") else f" = {value!r:.100}"
        lines.append(f"{'.'.join(location)}{shown} ({origin}): {rule[0].lower()}{rule[1:]}")
    return ConfigError("\n".join(lines))


def environment_name(setting: str) -> str:
    """The variable that sets `setting`."""
    return ENVIRONMENT_NAMES.get(setting, f"ARAGORA_QUEUE_{setting.upper()}")


def _files() -> list[Path]:
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    paths = [
        SYSTEM_DIRECTORY / FILE_NAME,
        *sorted((SYSTEM_DIRECTORY / "conf.d").glob("*.toml")),
        config_home / "aragora-q" / FILE_NAME,
        Path(FILE_NAME),
    ]
    found = [path for path in paths if path.is_file()]
    if found and found[-1] == Path(FILE_NAME) and not _is_trusted(found[-1]):
        found.pop()
    extra = _extra_file.get()
    return [*found, extra] if extra is not None else found


def _is_trusted(path: Path) -> bool:
    """A file that happens to lie in the current directory counts only if we or root put it there."""
    return path.stat().st_uid in (os.geteuid(), 0)


def _file_layer(
    path: Path, fields: Mapping[str, FieldInfo], faults: list[str]
) -> dict[str, Setting]:
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        faults.append(f"{path}: {error.strerror}")
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        faults.append(f"{path} is not TOML: {error}")
        return {}
    layer = {}
    for name, value in values.items():
        origin = f"{path}:{_line_of(name, text)}"
        if name not in fields:
            faults.append(f"{origin}: unknown setting {name!r}{_nearest(name, fields)}")
        else:
            layer[name] = Setting(value, origin)
    return layer


def _line_of(name: str, text: str) -> int:
    pattern = re.compile(rf'^\s*(\[+\s*)?"?{re.escape(name)}"?\s*[=.\]]')
    numbers = (n for n, line in enumerate(text.splitlines(), 1) if pattern.match(line))
    return next(numbers, 1)


def _environment_layer(fields: Mapping[str, FieldInfo], faults: list[str]) -> dict[str, Setting]:
    by_variable = {environment_name(name): name for name in fields}
    layer = {}
    agents = {}
    for variable, text in sorted(os.environ.items()):
        if variable in by_variable:
            if text or by_variable[variable] in SECRETS:
                layer[by_variable[variable]] = Setting(text, f"environment {variable}")
        elif variable.startswith(AGENT_PREFIX):
            agents[variable.removeprefix(AGENT_PREFIX).lower().replace("_", "-")] = text
        elif _is_unknown(variable):
            faults.append(f"environment {variable}: unknown{_nearest(variable, by_variable)}")
    if agents:
        layer["agents"] = Setting(agents, f"environment {AGENT_PREFIX}*")
    return layer


def _is_unknown(variable: str) -> bool:
    return variable.startswith(PREFIX) and not KUBERNETES.search(
        variable.removeprefix(PREFIX.rstrip("_"))
    )


def _secret_files(faults: list[str]) -> dict[str, Setting]:
    layer = {}
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    for name in sorted(SECRETS):
        variable = f"{environment_name(name)}_FILE"
        candidates = []
        if credentials:
            candidates.append((Path(credentials) / name.replace("_", "-"), "credential", False))
        if os.environ.get(variable):
            candidates.append((Path(os.environ[variable]), f"environment {variable}", True))
        for path, origin, must_exist in candidates:
            try:
                layer[name] = Setting(
                    path.read_text(encoding="utf-8").rstrip("\r\n"), f"{origin} {path}"
                )
            except OSError as error:
                if must_exist:
                    faults.append(f"{origin} {path}: {error.strerror}")
    return layer


def secret_in_file(name: str) -> str | None:
    """The secret as its file or credential holds it at this moment; None if there is none, or no more."""
    setting = _secret_files([]).get(name)
    return None if setting is None else str(setting.value)


def _nearest(name: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
