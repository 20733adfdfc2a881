"""Every key of a queue: documented names, one slot on a cluster, no collisions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aragora_q.base import JOB_ID_PATTERN, LANES, QUEUE_NAME_PATTERN, WORKER_ID_PATTERN, lane_of
from aragora_q.job_rules import PRIORITY_RANGE
from aragora_q.redis.keys import GROUP, LUA_CONSTANTS, QueueKeys

FIXED = (
    "stream_high",
    "stream_normal",
    "stream_low",
    "delayed",
    "held",
    "completed",
    "failed",
    "cancelled",
    "counters",
    "durations",
    "samples_minute",
    "samples_hour",
    "control",
    "workers",
    "events",
    "bell",
    "labels",
    "groups",
    "schedules",
    "webhooks",
    "changes",
)
OF_A_JOB = ("job", "payload", "result", "history", "journal")

job_ids = st.from_regex(JOB_ID_PATTERN, fullmatch=True)
worker_ids = st.from_regex(WORKER_ID_PATTERN, fullmatch=True)
queue_names = st.from_regex(QUEUE_NAME_PATTERN, fullmatch=True)


def all_keys(keys, job_id, worker_id, group="g", label="tag:k=v", webhook="w", delivery_id="1-1"):
    return [
        *(getattr(keys, name) for name in FIXED),
        *(getattr(keys, name)(job_id) for name in OF_A_JOB),
        keys.worker(worker_id),
        keys.group(group),
        f"{keys.group(group)}:then",
        keys.members(label),
        keys.experiment(group),
        keys.outbox(webhook),
        keys.sent(webhook),
        keys.delivery(delivery_id),
    ]


def test_names_are_as_specified():
    """The stream and the group that the specification's redis-cli lines name."""
    keys = QueueKeys("aragora:queue:", "debates")
    assert keys.stream_normal == "aragora:queue:debates:stream"
    assert GROUP == "aragora-workers"
    assert keys.streams == (keys.stream_high, keys.stream_normal, keys.stream_low)


def test_documented_table_is_complete():
    """The table in the module's docstring and the keys that exist are the same set."""
    from aragora_q.redis import keys as module

    documented = {
        name
        for row in re.findall(r"^\| (`.+?`) +\|", module.__doc__, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", row)
    }
    keys = QueueKeys("", "q", cluster=True)
    made = [*all_keys(keys, "<id>", "<id>", "<g>", "<label>", "<w>", "<id>"), *keys.guard]
    assert documented == {key.removeprefix("{q}:") for key in made}


@given(job_ids, job_ids, worker_ids, st.booleans())
def test_no_two_keys_of_a_queue_collide(first, second, worker_id, cluster):
    """For any job and worker ids, every key has one meaning."""
    keys = QueueKeys("aragora:queue:", "debates", cluster=cluster)
    made = all_keys(keys, first, worker_id)
    if second != first:
        made += [getattr(keys, name)(second) for name in OF_A_JOB]
    assert len(set(made)) == len(made)


@given(queue_names, queue_names, job_ids, worker_ids)
def test_no_two_queues_share_a_key(first, second, job_id, worker_id):
    """Queues with the same prefix have no key in common."""
    if first == second:
        return
    one, other = (set(all_keys(QueueKeys("p:", q), job_id, worker_id)) for q in (first, second))
    assert not one & other


@given(queue_names, job_ids, worker_ids)
def test_on_a_cluster_all_keys_share_a_slot(queue, job_id, worker_id):
    """Every key has the queue's name as its hash tag, as Redis finds it: first brace to next."""
    for key in all_keys(QueueKeys("aragora:queue:", queue, cluster=True), job_id, worker_id):
        assert re.search(r"\{(.*?)\}", key)[1] == queue


@given(st.integers(*PRIORITY_RANGE))
def test_lane_follows_the_sign(priority):
    """Above zero high, below zero low, zero normal."""
    lane = lane_of(priority)
    assert lane == {1: "high", 0: "normal", -1: "low"}[(priority > 0) - (priority < 0)]
    keys = QueueKeys("p:", "q")
    assert keys.stream_of(priority) == keys.streams[LANES.index(lane)]


@pytest.mark.parametrize("bad", ["", "-a", ".a", "a b", "a:b", "a{b", "a/b", "é", "a\n", "a" * 65])
def test_unsafe_job_ids_are_refused(bad):
    """No id can be an option, a path, two arguments, two lines, or another key."""
    assert not JOB_ID_PATTERN.fullmatch(bad)
    assert not QUEUE_NAME_PATTERN.fullmatch(bad)
    assert not WORKER_ID_PATTERN.fullmatch(bad)


@pytest.mark.parametrize("good", ["a", "0", "3f2b-11", "order_17@shop+x=1", "A" * 64])
def test_ordinary_ids_are_fine(good):
    """UUIDs, addresses and base64 text can be ids."""
    assert JOB_ID_PATTERN.fullmatch(good)


@given(st.text(max_size=70))
def test_lua_accepts_the_same_ids(text):
    """The scripts' pattern for ids is the one that enqueue applies."""
    pattern = LUA_CONSTANTS["JOB_ID_PATTERN"]
    translated = re.compile(
        pattern.replace("%w", "A-Za-z0-9").replace("^A-Za-z0-9", "^[A-Za-z0-9]")
    )
    is_short = len(text) <= LUA_CONSTANTS["MAX_JOB_ID_CHARS"]
    matches = translated.fullmatch(text) is not None and is_short
    assert matches == (JOB_ID_PATTERN.fullmatch(text) is not None)
