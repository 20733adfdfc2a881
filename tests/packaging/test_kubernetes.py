"""The Kubernetes example is valid, and scaling or moving workers interrupts no debate."""

import re
import shutil
import subprocess
import tomllib

import kubernetes_validate
import pytest
import yaml
from support.paths import ROOT

from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import FILE_NAME, SYSTEM_DIRECTORY

ROOT = ROOT / "deploy/kubernetes"
BASE = [
    resource
    for name in yaml.safe_load((ROOT / "base/kustomization.yaml").read_text())["resources"]
    for resource in yaml.safe_load_all((ROOT / "base" / name).read_text())
]
DEPLOYMENTS = {each["metadata"]["name"]: each for each in BASE if each["kind"] == "Deployment"}
PODS = {name: each["spec"]["template"]["spec"] for name, each in DEPLOYMENTS.items()}
SCALED = yaml.safe_load((ROOT / "keda/scaledobject.yaml").read_text())["spec"]


def settings():
    maps = yaml.safe_load((ROOT / "base/kustomization.yaml").read_text())["configMapGenerator"]
    [literals] = [each["literals"] for each in maps if each["name"] == "aragora-q"]
    return dict(line.split("=", 1) for line in literals)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize(
    "resource", BASE, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}"
)
def test_resources_are_valid(resource, version):
    """The schemas of an old and a new Kubernetes accept each resource, unknown fields refused."""
    kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("variant", ["base", "keda"])
def test_kustomize_builds(variant):
    """Both variants are built; with KEDA, the number of workers is not set."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl")
    built = subprocess.run(
        ["kubectl", "kustomize", ROOT / variant], capture_output=True, text=True, check=True
    ).stdout
    resources = {
        (each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(built)
    }
    worker = resources["Deployment", "aragora-q-worker"]
    assert worker["spec"].get("replicas") == (2 if variant == "base" else None)
    assert ("ScaledObject", "aragora-q-worker") in resources or variant == "base"
    for (kind, _), resource in resources.items():
        assert resource["metadata"]["namespace"] == "aragora-q"
        if kind != "ScaledObject":
            kubernetes_validate.validate(resource, "1.37", strict=True)


def test_scaling_down_kills_no_debate():
    """The grace period exceeds the drain time; few pods stop at a time; running jobs count for scaling."""
    assert PODS["aragora-q-worker"]["terminationGracePeriodSeconds"] > (
        QueueConfig().drain_timeout_seconds
    )
    behavior = SCALED["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert [policy["value"] for policy in behavior["policies"]] == [1]
    [budget] = [each for each in BASE if each["kind"] == "PodDisruptionBudget"]
    assert budget["spec"]["maxUnavailable"] == 1
    assert SCALED["minReplicaCount"] >= 2
    assert DEPLOYMENTS["aragora-q-worker"]["metadata"]["name"] == SCALED["scaleTargetRef"]["name"]
    [trigger] = SCALED["triggers"]
    assert 'state=~"waiting|running"' in trigger["metadata"]["query"]
    assert trigger["metadata"]["threshold"] == settings()["ARAGORA_QUEUE_CONCURRENCY"]


@pytest.mark.parametrize("name", PODS)
def test_pods_have_few_rights(name):
    """No root, only /tmp writable, no capabilities, no token, no service variables, a memory limit."""
    pod = PODS[name]
    [container] = pod["containers"]
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", PODS)
def test_pods_use_existing_options(name, monkeypatch):
    """Arguments and settings exist; probes ask the port that the program listens on."""
    from aragora_q import cli

    [container] = PODS[name]["containers"]
    assert container["args"][0] in cli.COMMANDS
    given = settings() | {
        each["name"]: each["value"] for each in container["env"] if "value" in each
    }
    for variable, value in given.items():
        if not variable.endswith("_FILE"):
            monkeypatch.setenv(variable, value)
    QueueConfig()  # refuses a variable that it does not know
    [port] = container["ports"]
    probe = container["readinessProbe"]
    if "tcpSocket" in probe:
        assert probe["tcpSocket"] == {"port": port["name"]}
        listens = container["args"][container["args"].index("--listen") + 1]
    else:
        command = probe["exec"]["command"]
        assert command[:2] == ["aragora-q", "healthcheck"]
        [listens] = command[2:] or ["127.0.0.1:9464"]
    assert port["containerPort"] == int(listens.rpartition(":")[2])


def test_example_of_schedules_and_webhooks_is_valid():
    """What aragora-q.toml shows, uncommented, is accepted; its secret is where workers have it."""
    text = re.sub(r"(?m)^# (?=\[|\w+ =)", "", (ROOT / "base/aragora-q.toml").read_text())
    config = QueueConfig(**tomllib.loads(text))
    [schedule], [webhook] = config.schedules.values(), config.webhooks.values()
    assert schedule.job["notify"] == list(config.webhooks)
    mounts = {
        each["name"]: each["mountPath"]
        for each in PODS["aragora-q-worker"]["containers"][0]["volumeMounts"]
    }
    assert webhook.secret_file.startswith(f"{mounts['webhooks']}/")


@pytest.mark.parametrize("name", ["aragora-q-worker", "aragora-q-web"])
def test_pods_read_the_file_of_settings(name):
    """Workers and console mount the generated map where the program looks for its settings."""
    [container] = PODS[name]["containers"]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == "settings"]
    assert mount["mountPath"] == str(SYSTEM_DIRECTORY)
    [volume] = [each for each in PODS[name]["volumes"] if each["name"] == "settings"]
    maps = yaml.safe_load((ROOT / "base/kustomization.yaml").read_text())["configMapGenerator"]
    [files] = [each["files"] for each in maps if each["name"] == volume["configMap"]["name"]]
    assert files == [FILE_NAME]


def test_workers_may_send_messages():
    """A policy lets workers, and only workers, open HTTPS connections: to providers and to webhooks."""
    [policy] = [
        each
        for each in BASE
        if each["kind"] == "NetworkPolicy"
        and any(p["port"] == 443 for e in each["spec"].get("egress", ()) for p in e["ports"])
    ]
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected["app.kubernetes.io/component"] == "worker"


def test_console_outlives_redis():
    """No probe of the console needs Redis: its pages say that Redis is away, to people who can reach them."""
    [container] = PODS["aragora-q-web"]["containers"]
    assert all("tcpSocket" in container[probe] for probe in ("readinessProbe", "livenessProbe"))


def test_console_has_only_its_own_secrets():
    """No provider key and no worker's password; what it reads is in the secret that its comment makes."""
    pod = PODS["aragora-q-web"]
    [container] = pod["containers"]
    assert {v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v} == {"aragora-q-web"}
    assert all("valueFrom" not in each for each in container["env"])
    made = (ROOT / "base/kustomization.yaml").read_text()
    for each in container["env"]:
        folder, _, key = each["value"].rpartition("/")
        assert folder != "/run/secrets/aragora-q-web" or f"--from-file={key}=FILE" in made
