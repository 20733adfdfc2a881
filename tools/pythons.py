"""Run the tests that depend on the version of Python on every other Python that this machine has.

`make test-pythons` calls it; `make test` covers the Python of .venv. Pythons are found in PATH and in
pyenv. They are tested at the same time, each in an environment in build/.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).parent.parent
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
PACKAGES = "pytest pytest-asyncio pytest-timeout hypothesis griffelib markdown-it-py psutil PyYAML"
"""What the tests below import; requirements/dev.txt has the versions."""

PIP = (
    "-m pip install --quiet --disable-pip-version-check -c requirements/dev.txt -e .[embedded,otel]"
)
PYTEST = "-m pytest -q -p no:cacheprovider -m 'not slow'"
RUNS = (
    "--backend any tests/unit tests/queue",
    "--backend tls tests/test_queue.py tests/redis/test_certificates.py",
)
"""Arguments of pytest: what depends most on Python's version, and TLS."""


def find(version: str) -> str | None:
    """Return the path of a Python of that version that can create environments, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    for path in filter(None, candidates):
        if _run(str(path), "-c", "import ensurepip").returncode == 0:
            return str(path)
    return None


def commands(path: str, version: str) -> Iterator[list[str]]:
    """Yield what to run to test the Python at `path`, in order."""
    environment = TOP / "build" / f"python{version}"
    python = str(environment / "bin" / "python")
    yield [path, "-m", "venv", str(environment)]
    yield [python, *PIP.split(), *PACKAGES.split()]
    for run in RUNS:
        yield [python, *shlex.split(f"{PYTEST} {run}")]


def test(path: str, version: str) -> tuple[bool, str]:
    """Return True if all tests pass on the Python at `path`, and what they print; stop at a failure."""
    output = ""
    for command in commands(path, version):
        done = _run(*command)
        output += done.stdout
        if done.returncode:
            return False, output
    return True, output


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def report(version: str, path: str | None, result: tuple[bool, str]) -> str:
    """Return the line of one version; all output if its tests failed."""
    if path is None:
        return f"Python {version}: not found"
    passed, output = result
    if not passed:
        return f"{output}\nPython {version} ({path}): FAILED"
    ends = [line for line in output.splitlines() if " passed" in line]
    return f"Python {version} ({path}): {', '.join(ends)}"


def main() -> int:
    """Test every Python that is found, and print one line for each version; return the exit code."""
    started_at = time.monotonic()
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = {version: find(version) for version in SUPPORTED if version != own}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tests = {v: pool.submit(test, path, v) for v, path in found.items() if path}
    results = {v: tests[v].result() if path else (True, "") for v, path in found.items()}
    for version, path in found.items():
        sys.stdout.write(report(version, path, results[version]) + "\n")
    seconds = time.monotonic() - started_at
    sys.stdout.write(f"Python {own}: tested by make test. The others took {seconds:.0f} s.\n")
    return 0 if all(passed for passed, _ in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
