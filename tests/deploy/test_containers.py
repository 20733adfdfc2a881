"""The image, and the services of docker-compose.yml: what they may do, and how they run."""

import json
import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
import yaml
from waiting import wait_until_sync

TREE = Path(__file__).parents[2]
TEXT = (TREE / "docker-compose.yml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]

pytestmark = pytest.mark.timeout(600)

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


def run(*command, **options):
    """Run to the end; a failure shows what was said."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, **options
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def test_services_are_those_promised():
    """Redis for this machine alone, with a log and without eviction; workers that can be scaled."""
    assert set(SERVICES) == {"redis", "aragora", "debate-worker"}
    assert SERVICES["redis"]["ports"] == ["127.0.0.1:6379:6379"]
    assert "--appendonly yes" in SERVICES["redis"]["command"]
    assert "--maxmemory-policy noeviction" in SERVICES["redis"]["command"]
    worker = SERVICES["debate-worker"]
    assert worker["profiles"] == ["with-workers"]
    assert worker["deploy"] == {"replicas": 2}
    assert not worker["ports"]
    assert "container_name" not in worker


def test_stop_waits_longer_than_drain():
    """Docker's patience exceeds the default drain time."""
    from aragora_q.config import QueueConfig

    minutes = int(SERVICES["debate-worker"]["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 > QueueConfig().drain_timeout_seconds


@pytest.fixture(scope="module")
def base(debian, wheels, tmp_path_factory):
    """A base image that holds the wheels, so that a build needs no network."""
    context = tmp_path_factory.mktemp("base")
    shutil.copytree(wheels, context / "wheels")
    (context / "Dockerfile").write_text(BASE.format(debian=debian))
    tag = "aragora-q-test-base:local"
    run("docker", "build", "--quiet", "--tag", tag, context, env=_classic())
    return tag


@pytest.fixture(scope="module")
def image(base):
    tag = "aragora-q-test:local"
    run(
        "docker", "build", "--quiet", "--network", "none", "--build-arg", f"BASE_IMAGE={base}",
        "--tag", tag, TREE, env=_classic(),
    )  # fmt: skip
    return tag


def _classic():
    return {**os.environ, "DOCKER_BUILDKIT": "0"}


def test_image_is_modest(image):
    """No root, no shell in between, no pip; it runs with a read-only root and without any right."""
    [facts] = json.loads(run("docker", "image", "inspect", image))
    assert facts["Config"]["User"] == "65532:65532"
    assert facts["Config"]["Entrypoint"] == ["aragora-q"]
    locked = ("docker", "run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none")
    assert run(*locked, "--tmpfs", "/tmp", image, "--version").startswith("aragora-q ")
    assert "redis_url" in run(*locked, image, "config", "show")
    assert run(*locked, "--entrypoint", "ls", image, "/opt/aragora-q/bin").count("pip") == 0


@pytest.fixture(scope="module")
def compose(image, base, tmp_path_factory):
    """Runs `docker-compose` on the project's file, with other ports of this machine."""
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
    file = tmp_path_factory.mktemp("compose") / "docker-compose.yml"
    text = TEXT.replace("127.0.0.1:6379:6379", "127.0.0.1::6379")
    file.write_text(text.replace("127.0.0.1:8080:8080", "127.0.0.1::8080"))
    project = f"aq{uuid.uuid4().hex[:8]}"
    images = {**os.environ, "REDIS_IMAGE": base, "ARAGORA_Q_IMAGE": image}

    def call(*words):
        return run(
            *command, "--file", str(file), "--project-directory", str(TREE), "--project-name",
            project, *words, env=images,
        )  # fmt: skip

    yield call
    call("--profile", "with-workers", "down", "--volumes", "--timeout", "5")


def test_compose_scales_and_drains(compose):
    """The documented commands start two workers, then five; debates are run; a stop drains."""
    profile = ("--profile", "with-workers")

    def workers():
        return compose(*profile, "ps", "--quiet", "debate-worker").split()

    compose(*profile, "up", "--detach", "--no-build")
    assert len(workers()) == 2
    compose(*profile, "up", "--detach", "--no-build", "--scale", "debate-worker=5")
    assert len(workers()) == 5

    def cli(*words):
        return compose("exec", "-T", "aragora", "aragora-q", *words)

    job = cli("enqueue", "Is it on?", "--agents", "demo:bold,demo:careful", "--quiet")
    cli("wait", job, "--timeout", "60")
    wait_until_sync(lambda: len(json.loads(cli("stats", "--json"))["workers"]) == 5, 60, "five")
    assert cli("health", "127.0.0.1:8080") == "ok"
    [container, *_] = workers()
    assert run("docker", "exec", container, "aragora-q", "health") == "ok"
    compose(*profile, "stop", "debate-worker")
    assert json.loads(cli("stats", "--json"))["workers"] == []
    state = json.loads(run("docker", "inspect", container))[0]["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (143, False)
