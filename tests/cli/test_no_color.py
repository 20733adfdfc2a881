"""No escape sequences where the user wants none."""

import pytest
from support.jobs import enqueue_in_every_state


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_whoever_wants_no_colours_gets_no_escapes(harness, run_cli, monkeypatch, variables):
    """On a terminal, too, NO_COLOR and a dumb TERM leave nothing but text: in tables and in lines."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    await enqueue_in_every_state(harness)
    for args in (("list",), ("stats",), ("status", "failed"), ("doctor",)):
        said = run_cli(*args, terminal=True)
        assert said.out
        assert "\x1b" not in said.out + said.err
