"""Installs each queue by itself under build/peers, because their requirements contradict each other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aragora_q import __version__

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).with_name("programs")
HOMES = ROOT / "build/peers"


class NotInstalledError(Exception):
    """A queue cannot be installed here; the text says why."""


@dataclass(frozen=True)
class Installed:
    """A queue's version, and the environment of its programs."""

    version: str
    environment: dict[str, str]


Install = Callable[[], Installed]


def project() -> Installed:
    """Use this project and its environment."""
    return Installed(__version__, _environment(Path(sys.executable).parent, ROOT))


def pip(*packages: str) -> Install:
    """Return a function that installs pinned packages, the queue first, into a separate environment."""
    name, _, version = packages[0].partition("==")
    home = HOMES / name.partition("[")[0]

    def install() -> Installed:
        if not _is_ready(home, packages):
            shutil.rmtree(home, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(home)])
            options = ["--quiet", "--disable-pip-version-check"]
            _run([str(home / "bin/python"), "-m", "pip", "install", *options, *packages])
            _mark_ready(home, packages)
        return Installed(version, _environment(home / "bin"))

    return install


def npm(*packages: str) -> Install:
    """Return a function that installs pinned packages for Node.js, the queue first."""
    name, _, version = packages[0].partition("@")
    home = HOMES / name

    def install() -> Installed:
        if not shutil.which("npm"):
            raise NotInstalledError("npm is not installed")
        if not _is_ready(home, packages):
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            options = ["--prefix", str(home), "--silent", "--no-audit", "--no-fund"]
            _run(["npm", "install", *options, *packages])
            _mark_ready(home, packages)
        environment = _environment(Path(sys.executable).parent)
        return Installed(version, {**environment, "NODE_MODULES": str(home / "node_modules")})

    return install


def debian(package: str) -> Install:
    """Return what looks for a package of Debian, which only the user may install."""

    def install() -> Installed:
        query = ["dpkg-query", "--show", "--showformat=${Version}", package]
        advice = f"needs Debian's package: apt-get install {package}"
        if not shutil.which(query[0]):
            raise NotInstalledError(advice)
        found = subprocess.run(query, check=False, capture_output=True, text=True)
        if found.returncode or not found.stdout:
            raise NotInstalledError(advice)
        return Installed(found.stdout, _environment(Path(sys.executable).parent))

    return install


def _environment(programs: Path, *modules: Path) -> dict[str, str]:
    """Return the environment of a queue's programs: nothing of the user's but the language."""
    return {
        "PATH": os.pathsep.join([str(programs), "/usr/local/bin", "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join(map(str, (PROGRAMS, *modules))),
        "HOME": "/nonexistent",
        "LANG": os.environ.get("LANG", "C.UTF-8"),
    }


def _is_ready(home: Path, packages: tuple[str, ...]) -> bool:
    stamp = home / "packages.json"
    return stamp.exists() and json.loads(stamp.read_text()) == list(packages)


def _mark_ready(home: Path, packages: tuple[str, ...]) -> None:
    (home / "packages.json").write_text(json.dumps(packages))


def _run(command: list[str]) -> None:
    """Run a command. Raises NotInstalledError if it fails."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise NotInstalledError((done.stderr or done.stdout).strip().splitlines()[-1][:200])
