"""Text from jobs cannot control a terminal, in the output of any command."""

import json
import unicodedata

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aragora_q.cli import output
from aragora_q.redis.keys import QueueKeys

HOSTILE = [
    "\x1b]52;c;aGk=\x07",
    "\x1b[2J",
    "\u202e",
    "\u2066",
    "\x9b31m",
    "\r",
    "\n",
    "[/x]",
    "\x00",
    "\u2028",
]
texts = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20)), min_size=1).map("".join)


def control_characters(text):
    """Characters that can control a terminal or change the direction of text."""
    return {
        char
        for char in text.replace("\n", "")
        if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    }


@given(texts)
def test_escaped_text_is_one_harmless_line(text):
    """`safe_text` leaves no control character and no line break: a field cannot forge another line."""
    safe = output.safe_text(text)
    assert control_characters(safe) == set()
    assert "\n" not in safe


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
@settings(
    max_examples=20, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(question=texts, error=texts)
def test_no_command_lets_a_job_control_the_terminal(run_cli, redis_url, terminal, question, error):
    """Question, agents, error and progress of a failed job, shown by list, status, show, wait and stats."""
    keys = QueueKeys("aragora:queue:", "debates")
    payload = {"question": question, "agents": [question, error]}
    with redis.Redis.from_url(redis_url) as redis_client:
        redis_client.flushall()
        redis_client.hset(
            keys.job("j"), mapping={"status": "failed", "attempts": 1, "max_attempts": 1}
        )
        redis_client.set(keys.payload("j"), json.dumps(payload))
        redis_client.rpush(
            keys.history("j"), json.dumps({"at": 1, "cause": error, "attempt": 1, "error": error})
        )
        redis_client.hset(keys.journal("j"), "progress", json.dumps({"phase": error}))
        redis_client.zadd(keys.failed, {"j": 1})
        redis_client.xadd(keys.events, {"event": "failed", "ids": "j", "data": error})
    for arguments in (["list"], ["status", "j"], ["show", "j"], ["wait", "j"], ["stats"]):
        ended = run_cli(*arguments, terminal=terminal)
        styles = ("\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m")
        shown = ended.out + ended.err
        for style in styles if terminal else ():
            shown = shown.replace(style, "")
        assert control_characters(shown) == set(), (arguments, shown)
