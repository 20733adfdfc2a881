"""The `aragora-q` command as a process, for tests that start it themselves."""

import os
import subprocess
import sys
from pathlib import Path

from support.paths import TESTS


def cli(*args):
    """The command line that runs aragora-q with `args`."""
    return [sys.executable, "-m", "aragora_q", *map(str, args)]


def env(**variables):
    """This test's environment with `variables` added; modules of tests/ can be imported in it."""
    path = (str(TESTS), variables.get("PYTHONPATH"), os.environ.get("PYTHONPATH"))
    return {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def run_command(*args, url=None, **variables):
    """Run `aragora-q ARGS` to its end (at most 60 s); return the completed process, output as text."""
    address = {"REDIS_URL": url} if url else {}
    return subprocess.run(
        cli(*args), env=env(**address, **variables), check=False, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip


def is_running(pid):
    """Whether a process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def embedded_processes(directory):
    """Pids of the embedded servers and their supervisors below a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(directory) in command and b"valkey" in command:
                found.append(int(entry.name))
    return found
