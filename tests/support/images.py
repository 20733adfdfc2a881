"""Fixtures for packages and containers: built once per run from Debian's packages and this repository.

A pytest plugin, loaded by tests/conftest.py, so that tests in several folders share what is built. The
bare Debian image is kept for the next run.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.containers import Compose, run, start
from support.paths import ROOT

PACKAGES = "systemd-sysv,procps,python3,python3-venv,python3-pip,redis-server,prometheus,ca-certificates,tzdata"
DEBIAN = f"aragora-q-test-debian:{hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]}"
SLIM = [
    *("--aptopt", 'Acquire::Languages "none"'),
    "--dpkgopt=force-unsafe-io",
    *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale")),
]


BASE = """\
FROM {debian}
COPY wheels /opt/wheels
RUN printf '[global]\\nno-index = true\\nfind-links = /opt/wheels\\n' > /etc/pip.conf \\
 && printf '#!/bin/sh\\nexec /usr/bin/redis-server "$@" --protected-mode no\\n' \\
    > /usr/local/bin/redis-server && chmod +x /usr/local/bin/redis-server \\
 && mkdir /data
WORKDIR /data
"""
"""Like the official images: Python with a package index, and Redis without protected mode."""


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
    """Wheels of the project's dependencies for Debian's Python: later steps need no package index."""
    if not Path("/usr/bin/python3.11").exists():
        pytest.skip("no Debian Python 3.11 on this machine")
    directory = tmp_path_factory.mktemp("wheels")
    run(
        sys.executable, "-m", "pip", "--python", "/usr/bin/python3.11", "wheel", "--quiet",
        "--wheel-dir", directory, f"{ROOT}[llm,web,top,otel]", "hatchling>=1.27",
    )  # fmt: skip
    for own in directory.glob("aragora_q-*"):
        own.unlink()
    return directory


@pytest.fixture(scope="session")
def package(wheels, tmp_path_factory):
    """The .deb, built by deploy/debian/build."""
    offline = {
        "PIP": f"{sys.executable} -m pip",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    directory = tmp_path_factory.mktemp("deb")
    [line] = run(
        ROOT / "deploy/debian/build", directory, env={**os.environ, **offline}
    ).splitlines()
    return Path(line)


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    """The Python packages, built by deploy/python/build."""
    directory = tmp_path_factory.mktemp("dist")
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run(ROOT / "deploy/python/build", directory, env={**os.environ, "PATH": tools})
    return directory


@pytest.fixture(scope="session")
def base(debian, wheels, tmp_path_factory):
    """A base image that holds the wheels, so that a build needs no network."""
    context = tmp_path_factory.mktemp("base")
    shutil.copytree(wheels, context / "wheels")
    (context / "Dockerfile").write_text(BASE.format(debian=debian))
    return _build("--tag", "aragora-q-test-base:local", context)


@pytest.fixture(scope="session")
def image(base):
    """The image, built from the project's Dockerfile."""
    return _build(
        "--network", "none", "--build-arg", f"BASE_IMAGE={base}", "--tag", "aragora-q-test:local", ROOT,
    )  # fmt: skip


def _build(*arguments):
    """Build an image and return its id: another run may give its tag to another image."""
    classic = {**os.environ, "DOCKER_BUILDKIT": "0"}
    return run("docker", "build", "--quiet", *arguments, env=classic).strip()


@pytest.fixture
def compose(image, base, tmp_path_factory):
    """Compose with the image built here; its services and their data are removed after the test.

    A worker whose password Redis no longer knows, because another test gave it other users, cannot unregister.
    """
    command = next(
        (
            program
            for program in (["docker", "compose"], ["docker-compose"])
            if shutil.which(program[0])
            and not subprocess.run(
                [*program, "version"], capture_output=True, check=False
            ).returncode
        ),
        None,
    )
    if command is None:
        pytest.skip("no compose: apt-get install docker-compose")
    directory = tmp_path_factory.mktemp("compose")
    call = Compose(command, directory, REDIS_IMAGE=base, ARAGORA_Q_IMAGE=image)
    yield call
    call("--profile", "with-workers", "down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="session")
def running_debian(debian, package):
    """A running Debian that can install the package; one per run, because starting it is slow."""
    with start(debian, "--volume", f"{package.parent}:/packages:ro") as container:
        container("systemctl disable --now redis-server prometheus; cp /etc/redis/redis.conf /root")
        yield container


@pytest.fixture(scope="module")
def debian_container(running_debian):
    """The running Debian with the package installed, without settings, services or data."""
    running_debian("dpkg --status aragora-q >/dev/null 2>&1 || dpkg --install /packages/*.deb")
    yield running_debian
    running_debian(
        "systemctl stop 'aragora-q*'; find /etc/systemd/system -name 'aragora-q*' -delete"
    )
    running_debian("pkill redis-server; while pgrep redis-server; do sleep 0.1; done")
    running_debian(
        "rm -rf /tmp/* /etc/default/aragora-q* /etc/credstore/aragora-q* /var/lib/aragora-q/*"
    )
    running_debian(
        "cp /root/redis.conf /etc/redis/; rm -rf /run/systemd/system/aragora-q*; systemctl daemon-reload"
    )
