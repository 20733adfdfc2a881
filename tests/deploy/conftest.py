"""A Debian in a container, made here from Debian's packages, and our package and image upon it.

Everything is made once per run; the bare Debian is kept as an image for the next one.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
DEBIAN = "aragora-q-test-debian:bookworm"
PACKAGES = "systemd-sysv,procps,python3,python3-venv,redis-server"
SLIM = [
    *("--aptopt", 'Acquire::Languages "none"'),
    "--dpkgopt=force-unsafe-io",
    *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale")),
]


def run(*command, timeout=300, **options):
    """Run to the end; a failure shows what was said."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def tree():
    return TREE


@pytest.fixture(scope="session")
def docker():
    if shutil.which("docker") is None:
        pytest.skip("no docker: apt-get install docker.io")
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers")


@pytest.fixture(scope="session")
def debian(docker):
    """Name of an image with Debian's systemd, Python and Redis."""
    if subprocess.run(
        ["docker", "image", "inspect", DEBIAN], capture_output=True, check=False
    ).returncode:
        if shutil.which("mmdebstrap") is None or os.geteuid() != 0:
            pytest.skip("making a Debian needs root and mmdebstrap: apt-get install mmdebstrap")
        with subprocess.Popen(
            ["mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", *SLIM, "bookworm", "-"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as made:
            run("docker", "import", "-", DEBIAN, stdin=made.stdout)
    return DEBIAN


@pytest.fixture(scope="session")
def wheels(tmp_path_factory):
    """The project and all it needs, for Debian's Python: nothing later asks the package index."""
    if not Path("/usr/bin/python3.11").exists():
        pytest.skip("no Debian Python 3.11 on this machine")
    directory = tmp_path_factory.mktemp("wheels")
    run(
        sys.executable, "-m", "pip", "--python", "/usr/bin/python3.11", "wheel", "--quiet",
        "--wheel-dir", directory, f"{TREE}[llm]", "hatchling>=1.27",
    )  # fmt: skip
    for own in directory.glob("aragora_q-*"):
        own.unlink()
    return directory


@pytest.fixture(scope="session")
def package(wheels, tmp_path_factory):
    """The .deb, built by its one command."""
    offline = {
        "PIP": f"{sys.executable} -m pip",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    directory = tmp_path_factory.mktemp("deb")
    [line] = run(
        TREE / "deploy/debian/build", directory, env={**os.environ, **offline}
    ).splitlines()
    return Path(line)


class Machine:
    """A running container."""

    def __init__(self, *arguments):
        self.id = run("docker", "run", "--detach", *arguments).strip()

    def __call__(self, command, **options):
        """What a shell command prints; it must succeed."""
        return run("docker", "exec", self.id, "sh", "-c", command, **options).strip()

    def try_(self, command):
        """Exit code and output of a shell command."""
        done = subprocess.run(
            ["docker", "exec", self.id, "sh", "-c", command],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def remove(self):
        run("docker", "rm", "--force", "--volumes", self.id)


@pytest.fixture(scope="session")
def booted(debian, package):
    """A Debian with systemd as process 1; one for the whole run, as starting it takes its time."""
    machine = Machine(
        # PrivateUsers, ProtectProc and credentials need more than a container has by default.
        "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE",
        "--security-opt", "seccomp=unconfined", "--stop-signal", "SIGRTMIN+3", "--network", "none",
        "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp",
        "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--cgroupns", "host",
        "--volume", f"{package.parent}:/packages:ro", debian, "/sbin/init",
    )  # fmt: skip
    try:
        machine("mount --make-rshared /")
        machine("until [ -S /run/systemd/private ]; do sleep 0.1; done", timeout=30)
        machine("systemctl is-system-running --wait || true", timeout=60)
        machine("systemctl disable --now redis-server; cp /etc/redis/redis.conf /root")
        yield machine
    finally:
        machine.remove()


@pytest.fixture(scope="module")
def machine(booted):
    """The Debian with our package installed; nothing is set, started or stored."""
    booted("dpkg --status aragora-q >/dev/null 2>&1 || dpkg --install /packages/*.deb")
    yield booted
    booted("systemctl stop 'aragora-q*'; find /etc/systemd/system -name 'aragora-q*' -delete")
    booted("pkill redis-server; while pgrep redis-server; do sleep 0.1; done")
    booted("rm -rf /tmp/* /etc/default/aragora-q /etc/credstore/aragora-q* /var/lib/aragora-q/*")
    booted(
        "cp /root/redis.conf /etc/redis/; rm -rf /run/systemd/system/aragora-q*; systemctl daemon-reload"
    )
