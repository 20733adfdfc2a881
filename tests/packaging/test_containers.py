"""The image and the services of docker-compose.yml: their rights, and how they run."""

import json

import pytest
import yaml
from support.containers import run
from support.paths import ROOT
from support.wait import wait_until_sync

TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]

pytestmark = pytest.mark.timeout(600)


def test_services_are_those_promised():
    """Redis on loopback only, with an append-only file and without eviction; workers that can be scaled."""
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
    """Docker's stop timeout exceeds the default drain time."""
    from aragora_q.config.settings import QueueConfig

    minutes = int(SERVICES["debate-worker"]["stop_grace_period"].removesuffix("m"))
    assert minutes * 60 > QueueConfig().drain_timeout_seconds


def test_image_has_few_rights(image):
    """No root, no shell as entry point, no pip; it runs with a read-only root and without capabilities."""
    [facts] = json.loads(run("docker", "image", "inspect", image))
    assert facts["Config"]["User"] == "65532:65532"
    assert facts["Config"]["Entrypoint"] == ["aragora-q"]
    locked = ("docker", "run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none")
    assert run(*locked, "--tmpfs", "/tmp", image, "--version").startswith("aragora-q ")
    assert "redis_url" in run(*locked, image, "config", "show")
    assert run(*locked, "--entrypoint", "ls", image, "/opt/aragora-q/bin").count("pip") == 0


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
    assert cli("healthcheck", "127.0.0.1:8080") == "ok"
    [container, *_] = workers()
    assert run("docker", "exec", container, "aragora-q", "healthcheck") == "ok\n"
    compose(*profile, "stop", "debate-worker")
    assert json.loads(cli("stats", "--json"))["workers"] == []
    state = json.loads(run("docker", "inspect", container))[0]["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (143, False)
