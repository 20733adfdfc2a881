"""Containers for the tests of deployment: machines with systemd, and the services of docker-compose.yml.

Used by the fixtures in tests/deploy/conftest.py and by tests there; knows nothing of what runs inside.
"""

import os
import subprocess
import uuid
from contextlib import contextmanager
from pathlib import Path

from servers import free_port

TREE = Path(__file__).parents[1]


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


class Machine:
    """A running container."""

    def __init__(self, *arguments):
        self.id = run("docker", "run", "--detach", *arguments).strip()

    def __call__(self, command, **options):
        """What a shell command prints; it must succeed."""
        return run("docker", "exec", self.id, "sh", "-c", command, **options).strip()

    def remove(self):
        run("docker", "rm", "--force", "--volumes", self.id)


@contextmanager
def boot(image, *arguments):
    """A machine of this image, with systemd as process 1."""
    machine = Machine(
        # PrivateUsers, ProtectProc and credentials need more than a container has by default.
        "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE",
        "--security-opt", "seccomp=unconfined", "--stop-signal", "SIGRTMIN+3", "--network", "none",
        "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp",
        "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--cgroupns", "host",
        *arguments, image, "/sbin/init",
    )  # fmt: skip
    try:
        machine("mount --make-rshared /")
        machine("until [ -S /run/systemd/private ]; do sleep 0.1; done", timeout=30)
        machine("systemctl is-system-running --wait || true", timeout=60)
        yield machine
    finally:
        machine.remove()


class Compose:
    """`docker compose` on the project's file, in a project of its own and on other ports of this machine."""

    def __init__(self, command, directory, **images):
        self.http = f"127.0.0.1:{free_port()}"
        file = directory / "docker-compose.yml"
        text = (TREE / "docker-compose.yml").read_text()
        text = text.replace("127.0.0.1:6379:6379", "127.0.0.1::6379")
        file.write_text(text.replace("127.0.0.1:8080:", f"{self.http}:"))
        self.command = [
            *command, "--file", str(file), "--project-directory", str(TREE),
            "--project-name", f"aq{uuid.uuid4().hex[:8]}",
        ]  # fmt: skip
        self.images = images

    def __call__(self, *words):
        return run(*self.command, *words, env={**os.environ, **self.images}).strip()
