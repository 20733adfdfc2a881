"""The image and the services of docker-compose.yml: their rights, and how they run."""

import json
import os
import re
import stat
import sys
import urllib.error
import urllib.request

import pytest
import yaml
from support.containers import run
from support.paths import ROOT
from support.wait import wait_until_sync

TEXT = (ROOT / "docker-compose.yml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]
CONSOLE = ROOT / "deploy/compose/console.yml"
SECRETS = "deploy/compose/secrets"
API = "/api/v1/queues/debates"

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


def test_image_has_time_zones_and_authorities(image, tmp_path):
    """A schedule in a zone other than UTC is accepted; there are CAs for the certificates of webhooks."""
    (tmp_path / "aragora-q.toml").write_text(
        '[schedules.daily]\ncron = "0 6 * * *"\ntime_zone = "Europe/Berlin"\njob = {payload = {n = 1}}\n'
    )
    tmp_path.chmod(0o755)
    alone = ("docker", "run", "--rm", "--network", "none")
    settings = ("--volume", f"{tmp_path}:/etc/aragora-q:ro")
    run(*alone, *settings, image, "config", "check", "--settings-only")
    count = "import os, ssl; print(len(os.listdir(ssl.get_default_verify_paths().capath)))"
    assert int(run(*alone, "--entrypoint", "/opt/aragora-q/bin/python", image, "-c", count)) > 50


def ask(compose, path, token="", method="GET", body=None, **headers):
    """Status and text of the console's answer to a request from outside."""
    request = urllib.request.Request(
        f"http://{compose.http}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **headers},
    )
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=90) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def services(compose):
    """`compose`; pytest shows what its services logged if the test fails."""
    yield compose
    sys.stdout.write(compose("--profile", "with-workers", "logs", "--timestamps"))


def test_compose_scales_and_drains(services):
    """The documented commands start two workers, then five; debates are run; a stop drains. Without tokens,
    the console serves metrics and health, and every page says how to make a token.
    """
    profile = ("--profile", "with-workers")

    def workers():
        return services(*profile, "ps", "--quiet", "debate-worker").split()

    services(*profile, "up", "--detach", "--no-build")
    assert len(workers()) == 2
    services(*profile, "up", "--detach", "--no-build", "--scale", "debate-worker=5")
    assert len(workers()) == 5

    def cli(*words):
        return services("exec", "-T", "aragora", "aragora-q", *words)

    def registered():
        stats = cli("stats", "--json")
        sys.stdout.write(f"{stats}\n")  # pytest shows it if the test fails
        return json.loads(stats)["workers"]

    job = cli("enqueue", "Is it on?", "--agents", "demo:bold,demo:careful", "--quiet")
    cli("wait", job, "--timeout", "60")
    wait_until_sync(lambda: len(registered()) == 5, 60, "five")
    assert cli("healthcheck", "127.0.0.1:8080") == "ok"
    assert "aragora_q_queue_jobs{" in ask(services, "/metrics")[1]
    for path, accept in (("/", "text/html"), (f"{API}/jobs/{job}", "application/json")):
        status, said = ask(services, path, Accept=accept)
        assert status == 401
        assert "aragora-q token NAME" in said
        assert "Is it on?" not in said
    [container, *_] = workers()
    assert run("docker", "exec", container, "aragora-q", "healthcheck") == "ok\n"
    services(*profile, "stop", "debate-worker")
    assert not registered()
    state = json.loads(run("docker", "inspect", container))[0]["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (143, False)


@pytest.fixture
def secrets(compose, tmp_path):
    """What deploy/compose/make-secrets makes, in a clone of the repository with nothing but it."""
    (tmp_path / SECRETS).parent.mkdir(parents=True)
    environment = {**os.environ, **compose.images}
    run(ROOT / "deploy/compose/make-secrets", tmp_path / SECRETS, env=environment)
    return tmp_path / SECRETS


def test_compose_with_users_and_tokens(compose, secrets):
    """With deploy/compose/console.yml, Redis refuses clients without a password, each role of the console is a
    Redis user, workers run what a token of the API enqueues, and a token that is removed does not work.
    """
    clone = secrets.parents[2]

    def here(*words):
        return compose(
            "--profile", "with-workers", *words, directory=clone, overrides=[CONSOLE]
        )  # fmt: skip

    def token(name, role):
        return here(
            "run", "--rm", "--no-deps", "-T", "--user", str(os.getuid()),
            "--volume", f"{secrets}/tokens:/tokens",
            "aragora", "token", name, "--role", role, "--file", "/tokens/tokens",
        ).splitlines()[-1]  # fmt: skip

    here("up", "--detach", "--no-build", "--scale", "debate-worker=1")
    assert "NOAUTH" in here("exec", "-T", "redis", "redis-cli", "get", "x")
    alice, bob = token("alice", "operator"), token("bob", "viewer")
    job = {"question": "Is it on?", "agents": ["demo:bold", "demo:careful"], "rounds": 1}
    wait_until_sync(lambda: ask(compose, "/healthz")[0] == 200, 60, "the console")
    assert ask(compose, f"{API}/jobs/j1", method="PUT", body=job)[0] == 401
    assert ask(compose, f"{API}/jobs/j1", bob, "PUT", job)[0] == 403
    assert ask(compose, f"{API}/jobs/j1", alice, "PUT", job)[0] == 201
    done = ask(compose, f"{API}/jobs/j1?wait=60", bob)[1]
    assert json.loads(done)["status"] == "completed"
    assert ask(compose, f"{API}/jobs/j1/requeue", bob, "POST", {})[0] == 403
    assert "may write" not in here("logs", "aragora"), "the viewer only reads"

    tokens = secrets / "tokens/tokens"
    replaced = tokens.with_suffix(".new")  # as editors do it
    replaced.write_text(re.sub(r"(?m)^bob .*\n", "", tokens.read_text()))
    replaced.replace(tokens)
    assert ask(compose, f"{API}/stats", bob)[0] == 401
    assert ask(compose, f"{API}/stats", alice)[0] == 200


def test_secrets_are_the_owners(secrets):
    """Others cannot enter the directory; Redis gets digests only; no user can log in without a password."""
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    users = (secrets / "users.acl").read_text().splitlines()
    assert users[0] == "user default off"
    assert all(re.search(r" #[0-9a-f]{64} ", line) for line in users[1:])
    names = {path.name for path in secrets.iterdir()}
    assert names == {
        "users.acl", "stats.password", "worker.password", "producer.url", "operator.url", "tokens",
        "receipt.key",
    }  # fmt: skip
    assert str(SECRETS) in (ROOT / ".gitignore").read_text()
