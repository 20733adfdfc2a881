"""Where settings come from: files and environment, layer over layer, each value with its origin.

Read by `config.QueueConfig`; the command line adds the file of `--config` with `override_file`. Later
layers win: /etc/aragora-q/aragora-q.toml and conf.d/*.toml, the user's file, ./aragora-q.toml,
`--config`, systemd credentials and `*_FILE` secrets, environment.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from aragora_q.errors import ConfigError

SYSTEM_DIRECTORY = Path("/etc/aragora-q")
FILE_NAME = "aragora-q.toml"
PREFIX = "ARAGORA_QUEUE_"
AGENT_PREFIX = "ARAGORA_AGENT_"
KUBERNETES = re.compile(r"_SERVICE_|_PORT$|_PORT_")
"""Variables that Kubernetes makes up from the names of services."""

KUBERNETES_ADDRESSES = ("tcp://", "udp://", "sctp://")
"""How their values begin where a name of ours meets one of theirs, as METRICS_PORT does."""

AGENTS = "agents."

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
def override_file(path: Path | None) -> Iterator[None]:
    """Configurations made within also read `path`, over all other files."""
    token = _extra_file.set(path)
    try:
        yield
    finally:
        _extra_file.reset(token)


@dataclass(frozen=True)
class SettingsSources:
    """All that files and environment set, the winning layer's value each, and the files it took.

    An agent's settings are one value under `agents.<name>`: the layers add agents up.
    """

    settings: dict[str, Setting]
    files: list[Path]
    ignored: list[Path]
    """./aragora-q.toml, where it is another user's."""

    def values(self) -> dict[str, Any]:
        """As `QueueConfig` takes them."""
        values: dict[str, Any] = {}
        for name, setting in self.settings.items():
            if name.startswith(AGENTS):
                values.setdefault("agents", {})[name.removeprefix(AGENTS)] = setting.value
            else:
                values[name] = setting.value
        return values

    def find(self, location: Sequence[str]) -> Setting | None:
        """The value at a place such as `agents`, `claude`, `model`, with the origin of what holds it."""
        depth = 2 if location[0] == "agents" else 1
        setting = self.settings.get(".".join(location[:depth]))
        if setting is None:
            return None
        value = setting.value
        for part in location[depth:]:
            value = value.get(part) if isinstance(value, dict) else None
        return Setting(value, setting.origin)


def read_sources(fields: Mapping[str, FieldInfo]) -> SettingsSources:
    """Read everything anew. Raises ConfigError for unknown names, unreadable or malformed files: all
    faults in one message.
    """
    faults: list[str] = []
    settings: dict[str, Setting] = {}
    files, ignored = _files()
    for path in files:
        settings |= _file_layer(path, fields, faults)
    settings |= _secret_files(faults)
    settings |= _environment_layer(fields, faults)
    if faults:
        raise ConfigError(
            "\n".join(faults), hint="aragora-q.toml and the documentation list all settings"
        )
    return SettingsSources(settings, files, ignored)


class LayeredSource(PydanticBaseSettingsSource):
    """pydantic-settings' view of the layers."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the base class' signature
        """Not used: the layers are read as a whole."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Values by setting."""
        return read_sources(self.settings_cls.model_fields).values()


def environment_name(setting: str) -> str:
    """The variable that sets `setting`."""
    return ENVIRONMENT_NAMES.get(setting, f"ARAGORA_QUEUE_{setting.upper()}")


def _files() -> tuple[list[Path], list[Path]]:
    """The files to read, lowest layer first, and those that lie there but are not trusted."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - a user without a home is no error here
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    paths = [
        SYSTEM_DIRECTORY / FILE_NAME,
        *sorted((SYSTEM_DIRECTORY / "conf.d").glob("*.toml")),
    ]
    found = [path for path in paths if _exists(path)]
    ignored: list[Path] = []
    here = Path(FILE_NAME)
    for path in (config_home / "aragora-q" / FILE_NAME, here):
        try:
            if path.is_file():
                (found if path is not here or _is_trusted(here) else ignored).append(path)
        except PermissionError:  # the home or directory of whoever called `runuser` or `sudo -E`
            ignored.append(path)
    extra = _extra_file.get()
    return ([*found, extra] if extra is not None else found), ignored


def _exists(path: Path) -> bool:
    """Whether there is such a file, or something that keeps us from knowing: reading it will tell."""
    try:
        return path.is_file()
    except OSError:
        return True


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
        if name == "agents" and isinstance(value, dict):
            for agent, settings in value.items():
                place = AGENTS + agent
                layer[place] = Setting(settings, f"{path}:{_line_of(place, text)}")
            continue
        origin = f"{path}:{_line_of(name, text)}"
        if name not in fields:
            faults.append(f"{origin}: unknown setting {name!r}{_nearest(name, fields)}")
        else:
            layer[name] = Setting(value, origin)
    return layer


def _line_of(place: str, text: str) -> int:
    """The line of `text` that sets `place` or begins its table: as well as a line alone can tell."""
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\]]+)\]", line):
            table = re.sub(r"[\s\"']", "", header[1]) + "."
            name = table
        elif key := re.match(r"\s*([^=#]+?)\s*=", line):
            name = table + re.sub(r"[\s\"']", "", key[1]) + "."
        else:
            continue
        if name.startswith(place + "."):
            return number
    return 1


def _environment_layer(fields: Mapping[str, FieldInfo], faults: list[str]) -> dict[str, Setting]:
    by_variable = {environment_name(name): name for name in fields if name != "agents"}
    layer = {}
    for variable, text in sorted(os.environ.items()):
        name, origin = by_variable.get(variable), f"environment {variable}"
        if variable.startswith(AGENT_PREFIX):
            agent = variable.removeprefix(AGENT_PREFIX).lower().replace("_", "-")
            layer[AGENTS + agent] = Setting(text, origin)
        elif name is None:
            if _is_unknown(variable):
                faults.append(f"{origin}: unknown{_nearest(variable, by_variable)}")
        elif (text or name in SECRETS) and not text.startswith(KUBERNETES_ADDRESSES):
            layer[name] = Setting(text, origin)
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
