"""Ages of jobs go by the server's clock, whatever the clock of an operator's machine says."""

import time

import pytest


@pytest.mark.parametrize("hours", [-2, 2], ids=["slow", "fast"])
@pytest.mark.parametrize("command", [("list",), ("status", "a")], ids=["list", "status"])
async def test_an_age_is_right_on_a_machine_whose_clock_is_wrong(
    harness, run_cli, monkeypatch, command, hours
):
    """A job that was enqueued just now is seconds old, not hours, and not of the future."""
    await harness.enqueue("a")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
    ended = run_cli(*command)
    assert ended.code == 0
    assert " s ago" in ended.out
