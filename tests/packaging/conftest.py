"""A Debian in a container, made here from Debian's packages, our packages and our image upon it.

Everything is made once per run; the bare Debian is kept as an image for the next one.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from containers import Compose, boot, run
from documents import INSTEAD

TREE = Path(__file__).parents[2]
PACKAGES = "systemd-sysv,procps,python3,python3-venv,python3-pip,redis-server,prometheus"
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
"""As the official images are: Python with a package index, Redis open to its network."""


def pytest_terminal_summary(terminalreporter):
    for line, (stand_in, reason) in INSTEAD.items():
        terminalreporter.write_line(f"not run as printed: {line}: {reason}; instead: {stand_in}")


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


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    """The Python packages, built by their one command."""
    directory = tmp_path_factory.mktemp("dist")
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    run(TREE / "deploy/python/build", directory, env={**os.environ, "PATH": tools})
    return directory


@pytest.fixture(scope="session")
def base(debian, wheels, tmp_path_factory):
    """A base image that holds the wheels, so that a build needs no network."""
    context = tmp_path_factory.mktemp("base")
    shutil.copytree(wheels, context / "wheels")
    (context / "Dockerfile").write_text(BASE.format(debian=debian))
    tag = "aragora-q-test-base:local"
    run("docker", "build", "--quiet", "--tag", tag, context, env=_classic())
    return tag


@pytest.fixture(scope="session")
def image(base):
    """Our image, built from the project's Dockerfile."""
    tag = "aragora-q-test:local"
    run(
        "docker", "build", "--quiet", "--network", "none", "--build-arg", f"BASE_IMAGE={base}",
        "--tag", tag, TREE, env=_classic(),
    )  # fmt: skip
    return tag


def _classic():
    return {**os.environ, "DOCKER_BUILDKIT": "0"}


@pytest.fixture(scope="session")
def compose(image, base, tmp_path_factory):
    """Compose with our image; what it has started is gone at the end."""
    command = next(
        (
            words
            for words in (["docker", "compose"], ["docker-compose"])
            if shutil.which(words[0])
            and not subprocess.run([*words, "version"], capture_output=True, check=False).returncode
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
def booted(debian, package):
    """A Debian for our package; one for the whole run, as starting it takes its time."""
    with boot(debian, "--volume", f"{package.parent}:/packages:ro") as machine:
        machine("systemctl disable --now redis-server prometheus; cp /etc/redis/redis.conf /root")
        yield machine


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
