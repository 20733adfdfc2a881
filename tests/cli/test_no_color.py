"""No escape sequences where the user wants none."""

import pytest

from aragora_q.base import Completed, Failed, Retry


async def in_every_state(harness):
    """One job in each state, and one delayed; the names say which."""
    session = await harness.worker(lease_seconds=600)
    for name, outcome in (("completed", Completed(b'{"a":1}')), ("failed", Failed("no\nuse")),
                          ("retrying", Retry("again", 60))):  # fmt: skip
        await harness.enqueue(name)
        await harness.report(session, await harness.start_one(session), outcome)
    await harness.enqueue("cancelled")
    await harness.queue.cancel("cancelled")
    await harness.enqueue("processing")
    await harness.start_one(session)
    await harness.enqueue("pending")
    await harness.enqueue("delayed", delay_seconds=60)
    return session


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_whoever_wants_no_colours_gets_no_escapes(harness, run_cli, monkeypatch, variables):
    """On a terminal, too, NO_COLOR and a dumb TERM leave nothing but text: in tables and in lines."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    await in_every_state(harness)
    for args in (("list",), ("stats",), ("status", "failed"), ("doctor",)):
        said = run_cli(*args, terminal=True)
        assert said.out
        assert "\x1b" not in said.out + said.err
