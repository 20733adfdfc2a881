"""The unit files: valid for systemd, and hardened."""

import re
import shutil
import subprocess

import pytest
from support.paths import ROOT

UNITS = ROOT / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))


@pytest.fixture(autouse=True)
def _systemd():
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze: apt-get install systemd")


def test_units_are_valid(tmp_path):
    """systemd finds no fault in any unit."""
    for unit in UNITS.glob("*.*"):
        if unit.suffix in {".service", ".timer", ".target"}:
            text = unit.read_text().replace("/usr/bin/aragora-q", "/bin/true")
            (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, tmp_path.iterdir())],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "aragora-q" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_services_are_hardened(unit):
    """systemd-analyze rates the exposure of every service at most 1.5 of 10."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=15", "--no-pager", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-500:] + done.stderr


def test_services_have_the_same_sandbox():
    """What one service may not do, no other may: the lines of the sandbox are the same."""
    sandboxes = {
        unit.read_text().partition("# Sandbox:")[2].partition("[Install]")[0].strip()
        for unit in SERVICES
    }
    assert len(sandboxes) == 1
    assert sandboxes != {""}


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_settings_are_the_operators(unit):
    """No unit sets what aragora-q.toml may set: the environment would override the file."""
    assert re.findall(r"^Environment=(?!HOME=).*$", unit.read_text(), re.MULTILINE) == []


def test_stop_waits_longer_than_drain():
    """systemd's stop timeout exceeds the default drain time, so that no debate is killed during a drain."""
    from aragora_q.config.settings import QueueConfig

    text = (UNITS / "aragora-q-worker@.service").read_text()
    patience = int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1])
    assert patience > QueueConfig().drain_timeout_seconds
