"""Containers for the packaging tests: Debian with systemd, and the services of docker-compose.yml."""

import os
import subprocess
import uuid
from contextlib import contextmanager

from support.paths import ROOT
from support.servers import free_port


def run(*command, timeout=300, **options):
    """Run a command, assert that it succeeds, and return its stdout."""
    done = subprocess.run(
        [str(argument) for argument in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Container:
    """A running container."""

    def __init__(self, *arguments):
        self.id = run("docker", "run", "--detach", *arguments).strip()

    def __call__(self, command, **options):
        """Run a shell command in the container and return its output; it must succeed."""
        given = ["--interactive"] if "input" in options else []
        return run("docker", "exec", *given, self.id, "sh", "-c", command, **options).strip()

    def remove(self):
        run("docker", "rm", "--force", "--volumes", self.id)


@contextmanager
def start(image, *arguments):
    """A container of this image with systemd as process 1; removed afterwards."""
    container = Container(
        # PrivateUsers, ProtectProc and credentials need more than a container has by default.
        "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE",
        "--security-opt", "seccomp=unconfined", "--stop-signal", "SIGRTMIN+3", "--network", "none",
        "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp",
        "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--cgroupns", "host",
        *arguments, image, "/sbin/init",
    )  # fmt: skip
    try:
        container("mount --make-rshared /")
        container("until [ -S /run/systemd/private ]; do sleep 0.1; done", timeout=30)
        container("systemctl is-system-running --wait || true", timeout=60)
        yield container
    finally:
        container.remove()


class Compose:
    """`docker compose` on the repository's file, with a separate project name and other ports."""

    def __init__(self, command, directory, **images):
        self.http = f"127.0.0.1:{free_port()}"
        self.file = directory / "docker-compose.yml"
        text = (ROOT / "docker-compose.yml").read_text()
        text = text.replace("127.0.0.1:6379:6379", "127.0.0.1::6379")
        self.file.write_text(text.replace("127.0.0.1:8080:", f"{self.http}:"))
        self.program = command
        self.project = f"aq{uuid.uuid4().hex[:8]}"
        self.images = images

    def command(self, directory, *overrides):
        """The words of a command line up to the name of Compose's command, for a clone of the repository."""
        files = [word for file in (self.file, *overrides) for word in ("--file", str(file))]
        return [
            *self.program, *files, "--project-directory", str(directory),
            "--project-name", self.project,
        ]  # fmt: skip

    def __call__(self, *arguments, directory=ROOT, overrides=()):
        """Run a command of Compose and return its output; it must succeed."""
        command = self.command(directory, *overrides)
        return run(*command, *arguments, env={**os.environ, **self.images}).strip()
