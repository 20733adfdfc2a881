"""No escape sequences if the user disabled colors."""

import pytest
from support.jobs import enqueue_in_every_state


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_no_color_prints_no_escapes(harness, run_cli, monkeypatch, variables):
    """On a terminal, NO_COLOR or a dumb TERM leaves plain text only."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    await enqueue_in_every_state(harness)
    for args in (("list",), ("stats",), ("status", "failed"), ("doctor",)):
        shown = run_cli(*args, terminal=True)
        assert shown.out
        assert "\x1b" not in shown.out + shown.err
