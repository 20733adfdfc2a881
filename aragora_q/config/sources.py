"""Read settings from files and environment; remember the origin of each value.

Used by `settings.QueueConfig`; the command line adds the file of `--config` with `override_file`.
Later sources override earlier ones: /etc/aragora-q/aragora-q.toml, /etc/aragora-q/conf.d/*.toml, the
user's file, ./aragora-q.toml, `--config`, systemd credentials and `*_FILE` secrets, environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from aragora_q import codec
from aragora_q.errors import ConfigError, nearest

SYSTEM_DIRECTORY = Path("/etc/aragora-q")
FILE_NAME = "aragora-q.toml"
PREFIX = "ARAGORA_QUEUE_"
AGENT_PREFIX = "ARAGORA_AGENT_"
KUBERNETES = re.compile(r"_SERVICE_|_PORT$|_PORT_")
"""Variables that Kubernetes creates for services."""

KUBERNETES_ADDRESSES = ("tcp://", "udp://", "sctp://")
"""Prefixes of values that Kubernetes sets for names that are also settings, such as METRICS_PORT."""

TABLES = ("agents", "prices", "budgets", "providers", "schedules", "webhooks")
"""Settings that are tables of named values; each value may come from another source. They have no variable, but
ARAGORA_AGENT_<NAME>."""

ENVIRONMENT_NAMES = {
    "redis_url": "REDIS_URL",
    "redis_password": "REDIS_PASSWORD",
    "redis_sentinel_username": "REDIS_SENTINEL_USERNAME",
    "redis_sentinel_password": "REDIS_SENTINEL_PASSWORD",
    "redis_tls_ca_file": "REDIS_TLS_CA_FILE",
    "redis_tls_cert_file": "REDIS_TLS_CERT_FILE",
    "redis_tls_key_file": "REDIS_TLS_KEY_FILE",
    "key_prefix": "ARAGORA_QUEUE_PREFIX",
    "queue": "ARAGORA_QUEUE_NAME",
    "retry_max_attempts": "ARAGORA_QUEUE_RETRY_MAX",
}
"""Settings whose variable is not `ARAGORA_QUEUE_` followed by the name in capitals."""

PASSWORDS = frozenset({"redis_password", "redis_sentinel_password"})
SECRETS = PASSWORDS | {"web_producer_redis_url", "web_operator_redis_url", "receipt_key"}
"""Settings that are also read from the file named by `<VARIABLE>_FILE`, and from systemd credentials."""

MAX_SECRET_BYTES = 64 * 1024
MAX_FILE_BYTES = 1024 * 1024
"""A longer file is neither password nor configuration: it may be a device without an end."""

UNREADABLE = "cannot read"
UNREADABLE_HINT = "check the path, and that this user may read the file"
NAMES_HINT = "for all settings, see aragora-q.toml or man 5 aragora-q.toml"


class ResolvedValue(NamedTuple):
    """The value of a setting and its origin: `FILE:LINE`, or the name of a variable or credential."""

    value: Any
    origin: str


_extra_file: ContextVar[Path | None] = ContextVar("extra_file", default=None)
_options: ContextVar[Mapping[str, str]] = ContextVar("options", default={})  # noqa: B039 - never changed


@contextmanager
def override_file(path: Path | None, options: Mapping[str, str] | None = None) -> Iterator[None]:
    """Within the context, configurations also read `path`, which overrides all other files.

    `options` has the option of the command line from which an argument comes, by setting.
    """
    tokens = _extra_file.set(path), _options.set(options or {})
    try:
        yield
    finally:
        _extra_file.reset(tokens[0])
        _options.reset(tokens[1])


def argument_origin(name: str) -> str:
    """Return the origin of an argument: the option that the user typed, if there is one."""
    option = _options.get().get(name)
    return f"option {option}" if option else f"argument {name}"


class SettingsSources(NamedTuple):
    """The settings in files and environment, and the files that were read.

    Each agent is one value under `agents.<name>`, so different sources can define different agents; so are the
    entries of the other TABLES.
    """

    settings: dict[str, ResolvedValue]
    files: list[Path]
    ignored: list[Path]
    """Files that were not read because they belong to another user."""

    def values(self) -> dict[str, Any]:
        """Return the values as arguments of `QueueConfig`."""
        values: dict[str, Any] = {}
        for name, setting in self.settings.items():
            table, _, entry = name.partition(".")
            if table in TABLES and entry:
                values.setdefault(table, {})[entry] = setting.value
            else:
                values[name] = setting.value
        return values

    def find(self, location: Sequence[str]) -> ResolvedValue | None:
        """Return the value at a location such as `agents`, `claude`, `model`; None if it is not set."""
        depth = 2 if location[0] in TABLES else 1
        setting = self.settings.get(".".join(location[:depth]))
        if setting is None:
            return None
        value = setting.value
        for part in location[depth:]:
            value = _part(value, part)
        return ResolvedValue(value, setting.origin)


def _part(value: Any, name: str) -> Any:
    """Return the part of a table or a list; None if there is none."""
    if isinstance(value, list) and name.isdecimal():
        return value[int(name)] if int(name) < len(value) else None
    return value.get(name) if isinstance(value, dict) else None


def read_sources(fields: Mapping[str, FieldInfo]) -> SettingsSources:
    """Read all files and the environment.

    Raises:
        ConfigError: unknown names, unreadable or malformed files; lists all of them.

    """
    faults: list[str] = []
    settings: dict[str, ResolvedValue] = {}
    files, ignored = _find_files(faults)
    for path in files:
        settings |= _read_file(path, fields, faults)
    settings |= _read_secret_files(faults)
    settings |= _read_environment(fields, faults)
    if faults:
        is_unreadable = all(fault.startswith(UNREADABLE) for fault in faults)
        raise ConfigError("\n".join(faults), hint=UNREADABLE_HINT if is_unreadable else NAMES_HINT)
    return SettingsSources(settings, files, ignored)


class LayeredSource(PydanticBaseSettingsSource):
    """Hands all sources to pydantic-settings as one source."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - inherited signature
        """Unused: all values are read at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the values by setting."""
        return read_sources(self.settings_cls.model_fields).values()


def environment_name(setting: str) -> str:
    """Return the environment variable of a setting."""
    return ENVIRONMENT_NAMES.get(setting, f"ARAGORA_QUEUE_{setting.upper()}")


def _file_variable(name: str) -> str:
    return f"{environment_name(name)}_FILE"


SECRET_FILES = frozenset(map(_file_variable, SECRETS))
"""Variables that name files with secrets."""


class _Files(NamedTuple):
    to_read: list[Path]
    ignored: list[Path]


def _find_files(faults: list[str]) -> _Files:
    """Return existing files in order of precedence, lowest first, and those that are not trusted."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises for a user without a home
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    paths = [SYSTEM_DIRECTORY / FILE_NAME, *_conf_d(faults)]
    to_read = [path for path in paths if _exists(path)]
    ignored: list[Path] = []
    local = Path(FILE_NAME)
    for path in (config_home / "aragora-q" / FILE_NAME, local):
        try:
            if path.is_file():
                (to_read if path is not local or _is_trusted(local) else ignored).append(path)
        except PermissionError:  # directory of the user who called `runuser` or `sudo -E`
            ignored.append(path)
        except OSError:
            to_read.append(path)  # reading it reports the error
    extra = _extra_file.get()
    return _Files([*to_read, extra] if extra is not None else to_read, ignored)


def _conf_d(faults: list[str]) -> list[Path]:
    directory = SYSTEM_DIRECTORY / "conf.d"
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".toml")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        faults.append(f"cannot read {directory}: {error.strerror}")
        return []


def _exists(path: Path) -> bool:
    """Return True if the file exists or cannot be checked: then reading it reports the error."""
    try:
        return path.is_file()
    except OSError:
        return True


def _is_trusted(path: Path) -> bool:
    """Return True if this user or root owns the file. Anyone may have written to the current directory."""
    return path.stat().st_uid in (os.geteuid(), 0)


def _read_file(
    path: Path, fields: Mapping[str, FieldInfo], faults: list[str]
) -> dict[str, ResolvedValue]:
    import tomllib  # noqa: PLC0415 - most commands find no file

    try:
        text = codec.text(_read_bytes(path, MAX_FILE_BYTES))
        values = tomllib.loads(text)
    except OSError as error:
        faults.append(f"{UNREADABLE} {path}: {error.strerror}")
        return {}
    except (ValueError, RecursionError) as error:  # also for huge numbers and deep nesting
        faults.append(f"{path} is not valid TOML: {error}")
        return {}
    resolved = {}
    for name, value in values.items():
        if name in TABLES and name in fields and isinstance(value, dict):
            for entry, settings in value.items():
                location = f"{name}.{entry}"
                resolved[location] = ResolvedValue(settings, f"{path}:{_line_of(location, text)}")
            continue
        origin = f"{path}:{_line_of(name, text)}"
        if name not in fields:
            faults.append(f"{origin}: unknown setting {name!r}{suggestion_for(name, fields)}")
        else:
            resolved[name] = ResolvedValue(value, origin)
    return resolved


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return the contents of a file. Raises OSError, or ValueError if they are too long."""
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"longer than {max_bytes:,} bytes")
    return data


def _line_of(location: str, text: str) -> int:
    """Return the number of the line that sets `location` or begins its table; 1 if it is not found."""
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+([^\]]+)\]", line):
            table = re.sub(r"[\s\"']", "", header[1]) + "."
            name = table
        elif key := re.match(r"\s*([^=#]+?)\s*=", line):
            name = table + re.sub(r"[\s\"']", "", key[1]) + "."
        else:
            continue
        if name.startswith(location + "."):
            return number
    return 1


def _read_environment(
    fields: Mapping[str, FieldInfo], faults: list[str]
) -> dict[str, ResolvedValue]:
    by_variable = {environment_name(name): name for name in fields if name not in TABLES}
    resolved = {}
    for variable, text in sorted(os.environ.items()):
        name, origin = by_variable.get(variable), f"environment {variable}"
        if variable.startswith(AGENT_PREFIX):
            agent = variable.removeprefix(AGENT_PREFIX).lower().replace("_", "-")
            resolved[f"agents.{agent}"] = ResolvedValue(text, origin)
        elif name is None:
            if _is_unknown(variable):
                faults.append(f"{origin}: unknown variable{suggestion_for(variable, by_variable)}")
        elif (text or name in PASSWORDS) and not text.startswith(KUBERNETES_ADDRESSES):
            resolved[name] = ResolvedValue(text, origin)
    return resolved


def _is_unknown(variable: str) -> bool:
    if not variable.startswith(PREFIX) or variable in SECRET_FILES:
        return False
    return not KUBERNETES.search(variable.removeprefix(PREFIX.rstrip("_")))


class _SecretFile(NamedTuple):
    path: Path
    origin: str
    is_optional: bool


def _secret_files(name: str) -> Iterator[_SecretFile]:
    """Yield the files that may contain a secret, in order of precedence, lowest first."""
    if directory := os.environ.get("CREDENTIALS_DIRECTORY"):  # not every credential has to be set
        yield _SecretFile(Path(directory) / name.replace("_", "-"), "credential", is_optional=True)
    variable = _file_variable(name)
    if file := os.environ.get(variable):
        yield _SecretFile(Path(file), f"environment {variable}", is_optional=False)


def _read_secret_files(faults: list[str]) -> dict[str, ResolvedValue]:
    resolved = {}
    for name in sorted(SECRETS):
        for file in _secret_files(name):
            try:
                secret = read_secret(file.path, file.origin)
            except ConfigError as error:
                faults.append(str(error))
                continue
            if secret is not None:
                resolved[name] = ResolvedValue(secret, f"{file.origin} {file.path}")
            elif not file.is_optional:
                faults.append(
                    f"{UNREADABLE} {file.path} ({file.origin}): No such file or directory"
                )
    return resolved


def read_secret(path: Path, origin: str) -> str | None:
    """Return the text of a file with a secret, without its line end; None if it does not exist.

    Raises:
        ConfigError: the file is not a text of usual size, or cannot be read. Names path and origin.
    """
    try:
        return codec.text(_read_bytes(path, MAX_SECRET_BYTES)).rstrip("\r\n")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{UNREADABLE} {path} ({origin}): {reason}") from None


def secret_in_file(name: str) -> str | None:
    """Read a secret from its file or credential again; None if it has none, or it was removed.

    Raises:
        ConfigError: the file exists, but cannot be used.
    """
    secrets = [read_secret(file.path, file.origin) for file in _secret_files(name)]
    return next((secret for secret in reversed(secrets) if secret is not None), None)


def suggestion_for(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'NAME'?` with the nearest known name; empty if none is close."""
    match = nearest(name, known)
    return f"; did you mean {match!r}?" if match else ""
