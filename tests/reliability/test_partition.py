"""Rows 23 and 24: a partition between a primary and its Sentinels, and what is lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "partition.py"


@pytest.fixture(scope="module")
def netns():
    """The command that runs a process in a network namespace; skips the test if that is not allowed."""
    for tool in ("unshare", "iptables", "ip"):
        if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            pytest.skip(f"no {tool}: apt-get install util-linux iptables iproute2")
    probe = ["unshare", "-n", "iptables", "-L", "INPUT"]
    done = subprocess.run(probe, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no network namespace with iptables here: {done.stderr.strip()[:100]}")
    return ["unshare", "-n"]


@pytest.mark.parametrize("durability", ["none", "replica"])
def test_partition(netns, durability, record_property):
    """Unconfirmed jobs of the minority side are lost, as documented; one that all confirmed never is."""
    done = subprocess.run(
        [*netns, sys.executable, SCRIPT, durability, "2", "3"],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    for name, value in figures.items():
        record_property(name, value)
    if durability == "none":
        assert figures["confirmed_and_lost"] > 0, "else there was no partition"
    else:
        assert figures["confirmed"] > 0
        assert figures["confirmed_and_lost"] == 0
