"""Detection of processes that are certainly dead."""

import os
import subprocess
import sys

import pytest

from aragora_q.worker import liveness


def test_a_process_describes_itself():
    """Host, pid and the scope that makes the pid comparable; all text, as stored in a hash."""
    record = liveness.describe()
    assert record["pid"] == str(os.getpid())
    assert record["host"]
    assert all(isinstance(value, str) for value in record.values())


@pytest.fixture
def child():
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield running
    running.kill()
    running.communicate()


def test_a_running_process_is_not_dead(child):
    """While it runs, its record is not dead; after its end, it is."""
    record = {**liveness.describe(), "pid": str(child.pid)}
    if not record["scope"]:
        pytest.skip("the kernel does not show boot id and pid namespace")
    assert not liveness.is_known_dead(record)
    child.kill()
    child.communicate()
    assert liveness.is_known_dead(record)


@pytest.mark.parametrize(
    "change",
    [
        {"scope": "another-boot/pid:[1]"},
        {"scope": ""},
        {"pid": ""},
        {"pid": "-1"},
        {"pid": "12x"},
        {"pid": "²"},
        {"pid": "9" * 30},
        pytest.param({"pid": str(os.getpid())}, id="own"),
        {"pid": "1"},
    ],
    ids=str,
)
def test_not_known_dead_if_in_doubt(change):
    """Another host or boot, invalid data, this process, or a process of another user."""
    assert not liveness.is_known_dead({**liveness.describe(), **change})
    assert not liveness.is_known_dead({})
