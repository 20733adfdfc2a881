"""Groups: every transition of a job is counted, the sealed group ends, and its `then` is enqueued once."""

from collections import Counter

import pytest
from support.moves import ENDINGS, MOVES, report

from aragora_q.base import TERMINAL, Job
from aragora_q.contracts import Completed, Failed, Released, Report, Retry
from aragora_q.errors import GroupNotFound, GroupSealed, InvalidPayload
from aragora_q.redis.keys import BACKSTOP_MS, MAX_DATA_BYTES

ONE_OF_EACH_SCRIPT = (
    "complete", "fail", "last retry", "poison", "promote without payload", "cancel retrying", "release",
    "release orphans", "redeliver", "requeue failed",
)  # fmt: skip


async def _counts(harness, name="g"):
    """The counts of a group, without zeros."""
    group = await harness.queue.tracker.get_group(name)
    return {status: count for status, count in group.counts.items() if count}


def _enqueued(harness, job_id="then"):
    """How often a job was enqueued."""
    return Counter(
        each for event, ids in harness.events() if event == "enqueued" for each in ids.split()
    )[job_id]


async def _purge(harness):
    for status in TERMINAL:
        await harness.queue.purge(status, older_than_seconds=-1000)


THEN = Job({"n": 2}, id="then")


@pytest.mark.parametrize("move", MOVES)
async def test_every_transition_is_counted(harness, move):
    """The counts of the job's group follow its status, and no other group's do."""
    fields, change, status = MOVES[move]
    await harness.enqueue("a", group="g", **fields)
    await harness.enqueue("b", group="g", delay_seconds=60)
    await harness.enqueue("c", group="other", delay_seconds=60)
    if change:
        await change(harness)
    assert await harness.queue.get_status("a") == status
    assert await _counts(harness) == Counter([status, "pending"])
    assert await _counts(harness, "other") == {"pending": 1}


async def test_a_result_too_large_to_keep_is_counted(new_harness):
    """The report that completes the job fails it: it is counted as failed, and ends the group."""
    harness = new_harness()
    await harness.enqueue("a", group="g")
    await harness.queue.seal_group("g", THEN)
    await report(Completed(b"x" * (MAX_DATA_BYTES + 1)))(harness)
    assert await _counts(harness) == {"failed": 1}
    assert _enqueued(harness) == 1


@pytest.mark.parametrize("ending", ENDINGS)
async def test_the_last_end_enqueues_then_once(harness, ending):
    """A sealed group ends with its last job, however it ends; `then` is enqueued, once."""
    fields, end, status = ENDINGS[ending]
    await harness.enqueue("a", group="g", **fields)
    await harness.enqueue("b", group="g", delay_seconds=60)
    assert await harness.queue.seal_group("g", THEN)
    await harness.queue.cancel("b")
    group = await harness.queue.tracker.get_group("g")
    assert (group.ended_at, group.then_status, group.then_id) == (None, "waiting", "then")
    assert _enqueued(harness) == 0
    await end(harness)
    group = await harness.queue.tracker.get_group("g")
    assert group.ended_at >= group.sealed_at >= group.created_at
    assert (group.then_status, group.then_id) == ("enqueued", "then")
    assert await _counts(harness) == Counter([status, "cancelled"])
    assert (await harness.start_one(await harness.worker("next"))).id == "then"
    for _ in range(2):
        await harness.queue.requeue(["b"])
        await harness.queue.cancel("b")
    assert await harness.queue.requeue(["b"]) == ["requeued"]
    await _purge(harness)
    await harness.queue.cancel("b")
    await _purge(harness)
    assert _enqueued(harness) == 1
    assert await harness.queue.tracker.get_group("g") is None


@pytest.mark.parametrize(
    "outcome",
    [
        Completed(b"{}"),
        Failed("x"),
        Released(),
        Retry("x", 60),
        Retry("x", 60, charged=False),
    ],
)
async def test_a_repeated_report_is_counted_once(harness, outcome):
    """A report that is sent again, because its reply was lost, changes no count and enqueues nothing."""
    await harness.enqueue("a", group="g")
    await harness.queue.seal_group("g", THEN)
    session = await harness.worker()
    job = await harness.start_one(session)
    verdict = await harness.report(session, job, outcome)
    group = harness.redis.hgetall(harness.keys.group("g"))
    for _ in range(2):
        assert await harness.report(session, job, outcome) == verdict
    assert harness.redis.hgetall(harness.keys.group("g")) == group
    assert _enqueued(harness) == isinstance(outcome, Completed | Failed)


async def test_repeated_calls_are_counted_once(harness):
    """An enqueue, a cancel, a requeue and a purge that are sent again change no count."""
    for _ in range(2):
        await harness.enqueue("a", group="g")
        assert await _counts(harness) == {"pending": 1}
    for _ in range(2):
        await harness.queue.cancel("a")
        assert await _counts(harness) == {"cancelled": 1}
    for _ in range(2):
        await harness.queue.requeue(["a"])
        assert await _counts(harness) == {"pending": 1}
    await harness.enqueue("b", group="g")
    await harness.queue.cancel_many(["a", "a"])
    for _ in range(2):
        await _purge(harness)
        assert await _counts(harness) == {"pending": 1, "purged": 1}


async def test_many_jobs_of_many_groups_move_at_once(harness):
    """One call counts in every group that it touches, and ends those whose last jobs it ends."""
    jobs = [Job({}, id=f"j{n}", group=f"g{n % 3}") for n in range(230)]
    await harness.queue.enqueue_many([*jobs, Job({}, id="bare")])
    for n in range(2):
        await harness.queue.seal_group(f"g{n}", Job({}, id=f"then{n}", priority=-1))
    session = await harness.worker()
    started = [job for _ in range(3) for job in (await session.start(100)).jobs]
    assert [await _counts(harness, f"g{n}") for n in range(3)] == [
        {"processing": 77}, {"processing": 77}, {"processing": 76},
    ]  # fmt: skip
    assert set(await session.report([Report(job, Completed(b"{}")) for job in started])) == {
        "completed"
    }
    assert [(await harness.queue.tracker.get_group(f"g{n}")).then_status for n in range(3)] == [
        "enqueued", "enqueued", None,
    ]  # fmt: skip
    assert {job.id for job in (await session.start(9)).jobs} == {"then0", "then1"}


async def test_a_sealed_group_refuses_jobs(harness):
    """Jobs of a sealed group stay out, the others go in; the error at the end and its results say which."""
    await harness.enqueue("a", group="sealed")
    await harness.queue.seal_group("sealed")
    jobs = [
        Job({}, id=f"j{n}", group=("sealed", "open", None)[n % 3], tenant="t") for n in range(240)
    ]
    with pytest.raises(GroupSealed, match="job j0: group sealed is sealed") as raised:
        await harness.queue.enqueue_many(jobs)
    assert [result and (result.id, result.created) for result in raised.value.results] == [
        (job.id, True) if job.group != "sealed" else None for job in jobs
    ]
    assert await _counts(harness, "sealed") == {"pending": 1}
    assert await _counts(harness, "open") == {"pending": 80}
    assert harness.redis.zcard(harness.keys.members("tenant:t")) == 160
    assert await harness.queue.get_status("j0") is None
    await harness.enqueue("a", group="sealed")  # it is in the queue: again is not an error
    with pytest.raises(GroupSealed):
        await harness.enqueue("late", group="sealed")


async def test_seal_again(harness):
    """A repeated seal changes nothing; one with another `then`, or a first `then` too late, is refused."""
    for name in ("g", "without"):
        await harness.enqueue(f"of-{name}", group=name)
    assert await harness.queue.seal_group("g", THEN)
    assert await harness.queue.seal_group("without")
    before = harness.redis.hgetall(harness.keys.group("g"))
    assert not await harness.queue.seal_group("g", THEN)
    assert not await harness.queue.seal_group("g")
    for other in (
        Job({"n": 3}, id="then"),
        Job({"n": 2}, id="other"),
        Job({"n": 2}, id="then", priority=1),
    ):
        with pytest.raises(GroupSealed):
            await harness.queue.seal_group("g", other)
    with pytest.raises(GroupSealed):
        await harness.queue.seal_group("without", THEN)
    assert harness.redis.hgetall(harness.keys.group("g")) == before
    await harness.queue.cancel("of-g")
    assert not await harness.queue.seal_group("g", THEN)
    assert _enqueued(harness) == 1


async def test_seal_refuses(harness):
    """No such group, a `then` in a group, a `then` that exists, one that is too large: nothing is sealed."""
    await harness.enqueue("a", group="g")
    with pytest.raises(GroupNotFound):
        await harness.queue.seal_group("unknown", THEN)
    too_large = Job({"x": "x" * harness.config.max_payload_bytes}, id="then")
    for then in (Job({}, group="g"), Job({}, id="a"), too_large):
        with pytest.raises(InvalidPayload):
            await harness.queue.seal_group("g", then)
    assert (await harness.queue.tracker.get_group("g")).sealed_at is None


async def test_sealing_an_ended_group_enqueues_then(harness):
    """If all jobs have ended before the seal, even if some are purged, `then` is enqueued by the seal."""
    for job_id in "ab":
        await harness.enqueue(job_id, group="g")
    await harness.queue.cancel("a")
    await _purge(harness)
    await harness.queue.cancel("b")
    assert (await harness.queue.tracker.get_group("g")).ended_at is None
    assert await harness.queue.seal_group("g", THEN)
    assert (await harness.queue.tracker.get_group("g")).then_status == "enqueued"
    assert (await harness.start_one(await harness.worker())).id == "then"
    assert harness.counters()["enqueued"] == 3


@pytest.mark.parametrize("delay_seconds", [0, 60])
async def test_then_is_the_job_that_was_given(harness, delay_seconds):
    """`then` has its payload byte for byte, priority, delay, attempts, tenant and tags."""
    then = Job(
        {"text": "é \u2028 \x00", "big": 12345678901234567890, "small": 0.1, "z": [], "a": {}},
        id="then", priority=7, max_attempts=2, delay_seconds=delay_seconds, tenant="t/1",
        tags={"env": "prod", "a.b": "x:y"},
    )  # fmt: skip
    await harness.enqueue("a", group="g")
    await harness.queue.seal_group("g", then)
    await harness.queue.cancel("a")
    stored = await harness.queue.get_job("then")
    assert stored.raw_payload == harness.queue.check(then)[1].payload
    assert (stored.priority, stored.max_attempts, stored.group) == (7, 2, None)
    assert (stored.tenant, stored.tags) == ("t/1", then.tags)
    assert (stored.due_at is not None) == bool(delay_seconds)
    if delay_seconds:
        assert 59 < stored.due_at - stored.created_at < 61
        harness.redis.zadd(harness.keys.delayed, {"then": 1})
        await harness.queue.promote()
    started = await harness.start_one(await harness.worker())
    assert (started.id, started.raw_payload) == ("then", stored.raw_payload)


@pytest.mark.parametrize("then_id", ["then", "t" * 64])
async def test_then_whose_id_was_taken_gets_another_one(harness, then_id):
    """A job with that id, enqueued or purged since the seal, stays as it is; `then` runs under a new id."""
    await harness.enqueue("a", group="g")
    await harness.queue.seal_group("g", Job({"n": 2}, id=then_id))
    await harness.enqueue(then_id, tenant="first")
    await harness.queue.cancel("a")
    group = await harness.queue.tracker.get_group("g")
    assert (group.then_status, group.then_id == then_id) == ("enqueued", False)
    jobs = (await (await harness.worker()).start(9)).jobs
    assert [(job.id, job.raw_payload, job.tenant) for job in jobs] == [
        (then_id, b'{"n":1}', "first"), (group.then_id, b'{"n":2}', None),
    ]  # fmt: skip


async def test_then_never_replaces_a_job(harness):
    """Not even one whose keys have expired, but that no purge has deleted yet."""
    await harness.enqueue("a", group="g")
    await harness.queue.seal_group("g", Job({"n": 2}, id="then", tenant="new"))
    await harness.enqueue("then", group="old")
    await harness.queue.cancel("then")
    harness.redis.delete(harness.keys.job("then"), harness.keys.payload("then"))
    await harness.queue.cancel("a")
    assert (await harness.queue.tracker.labels(["then"]))["then"] == {"group": "old"}
    job = await harness.start_one(await harness.worker())
    assert (job.raw_payload, job.tenant) == (b'{"n":2}', "new")
    assert job.id.startswith("then.")
    await _purge(harness)


async def test_then_gets_an_id_that_is_free(new_harness):
    """Whatever ids are taken: the first free one after them is used."""
    harness = new_harness()
    await harness.enqueue("a", group="g")
    await harness.queue.seal_group("g", THEN)
    now_ms = int(await harness.queue.tracker.server_time() * 1000)
    taken = [harness.keys.job(f"then.{ms}") for ms in range(now_ms, now_ms + 3000)]
    taken.append(harness.keys.job("then"))
    harness.redis.mset(dict.fromkeys(taken, "x"))
    await harness.queue.cancel("a")
    then_id = (await harness.queue.tracker.get_group("g")).then_id
    assert then_id.startswith("then.")
    assert harness.keys.job(then_id) not in taken
    harness.redis.delete(*taken)
    assert (await harness.start_one(await harness.worker())).id == then_id


async def test_a_group_that_is_cancelled_cancels_then(harness):
    """The group's live jobs and `then` are cancelled; it refuses jobs, and a `then`, from then on."""
    await harness.enqueue("done", group="g")
    await report(Completed(b"{}"))(harness)
    for job_id in "ab":
        await harness.enqueue(job_id, group="g")
    await harness.queue.seal_group("g", THEN)
    assert await harness.queue.cancel_group("g") == 2
    group = await harness.queue.tracker.get_group("g")
    assert (group.then_status, await _counts(harness)) == (
        "cancelled",
        {"completed": 1, "cancelled": 2},
    )
    assert None not in (group.cancelled_at, group.ended_at)
    await harness.queue.requeue(["a"])
    await harness.queue.cancel("a")
    assert await harness.queue.cancel_group("g") == 0
    assert _enqueued(harness) == 0
    with pytest.raises(GroupSealed):
        await harness.enqueue("late", group="g")
    with pytest.raises(GroupSealed):
        await harness.queue.seal_group("g", Job({}, id="other"))


async def test_jobs_that_move_are_cancelled_with_their_group(new_harness):
    """A running job that is retried while the group is being cancelled is cancelled, too."""
    harness = new_harness()
    await harness.queue.enqueue_many([Job({}, id=f"j{n}", group="g") for n in range(700)])
    gone = [Job({}, id=f"gone{n}", group="g") for n in range(800)]
    await harness.queue.enqueue_many(gone)
    await harness.queue.cancel_many([job.id for job in gone])  # the lanes are the smaller index
    session = await harness.worker()
    running = [job for _ in range(7) for job in (await session.start(100)).jobs]
    cancel_many, pages = harness.queue.cancel_many, []

    async def retry_and_cancel(page, **actor):
        pages.append(page)
        if len(pages) == 1:
            await session.report([Report(job, Retry("x", 60)) for job in running[:100]])
        return await cancel_many(page, **actor)

    harness.queue.cancel_many = retry_and_cancel
    assert await harness.queue.cancel_group("g") == 700
    assert await _counts(harness) == {"cancelled": 1500}
    assert len(pages) > 2


async def test_cancel_of_an_open_and_of_an_ended_group(harness):
    """An open group ends by it; one that has ended keeps the `then` that it had; an unknown one is unknown."""
    await harness.enqueue("a", group="open")
    await harness.queue.cancel("a")
    assert await harness.queue.cancel_group("open") == 0
    assert (await harness.queue.tracker.get_group("open")).ended_at is not None
    await harness.enqueue("b", group="ended")
    await harness.queue.seal_group("ended", THEN)
    await harness.queue.cancel("b")
    assert await harness.queue.cancel_group("ended") == 0
    group = await harness.queue.tracker.get_group("ended")
    assert (group.then_status, group.cancelled_at) == ("enqueued", None)
    assert await harness.queue.get_status("then") == "pending"
    with pytest.raises(GroupNotFound):
        await harness.queue.cancel_group("unknown")


async def test_a_group_goes_with_its_last_member(harness):
    """It is deleted when its last member is purged, sealed or not, and its name can be used again."""
    for is_sealed in (False, True):
        for job_id in "ab":
            await harness.enqueue(job_id, group="g")
        await harness.queue.cancel("a")
        await _purge(harness)
        assert await _counts(harness) == {"pending": 1, "purged": 1}
        if is_sealed:
            await harness.queue.seal_group("g", THEN)
        await harness.queue.cancel("b")
        await _purge(harness)
        assert await harness.queue.tracker.get_group("g") is None
        assert await harness.queue.tracker.groups() == []
        assert not list(harness.redis.scan_iter(match=f"{harness.keys.group('')}*"))
    assert _enqueued(harness) == 1
    await harness.enqueue("a", group="g")
    assert (await harness.queue.tracker.get_group("g")).sealed_at is None
    assert await harness.queue.seal_group("g", Job({}, id="another"))


async def test_an_ended_group_has_a_ttl_until_it_reopens(harness):
    """A sealed group that ends is kept for the retention and a day; a requeue of its job ends that."""
    await harness.enqueue("a", group="g")
    await harness.queue.seal_group("g")
    key = harness.keys.group("g")
    assert harness.redis.pttl(key) == -1
    for _ in range(2):
        await harness.queue.cancel("a")
        longest = harness.config.retention_ms + BACKSTOP_MS
        assert longest - 60_000 < harness.redis.pttl(key) <= longest
        await harness.queue.requeue(["a"])
        assert harness.redis.pttl(key) == -1
        assert (await harness.queue.tracker.get_group("g")).ended_at is None


async def test_a_job_that_expired_before_any_purge_leaves_its_group(harness):
    """When its own keys are gone, its labels and its place in the counts are deleted by the purge, too."""
    for job_id in "ab":
        await harness.enqueue(job_id, group="g", tenant="t", tags={"k": "v"})
    await harness.queue.cancel("a")
    harness.redis.delete(harness.keys.job("a"), harness.keys.payload("a"))
    await _purge(harness)
    assert await _counts(harness) == {"pending": 1, "purged": 1}
    assert harness.redis.hkeys(harness.keys.labels) == ["b"]
    assert harness.redis.zrange(harness.keys.members("tag:k=v"), 0, -1) == ["b"]


async def test_a_group_that_expired_before_any_purge_leaves_nothing(harness):
    """The purge of its members deletes its name, too, and counts nothing in a new group of that name."""
    for job_id in "ab":
        await harness.enqueue(job_id, group="g")
    await harness.queue.cancel_many(["a", "b"])
    await harness.queue.seal_group("g")
    expired = [harness.keys.group("g")]
    expired += [
        key for job_id in "ab" for key in (harness.keys.job(job_id), harness.keys.payload(job_id))
    ]
    for key in expired:
        harness.redis.delete(key)
    await _purge(harness)
    assert harness.redis.zrange(harness.keys.groups, 0, -1) == []
    for job_id in "cd":
        await harness.enqueue(job_id, group="h")
    await harness.queue.cancel("c")
    await harness.queue.cancel("d")
    harness.redis.delete(harness.keys.group("h"), harness.keys.job("c"), harness.keys.payload("c"))
    await harness.enqueue("e", group="h")
    await _purge(harness)
    assert {
        n for n in (await harness.queue.tracker.get_group("h")).counts.values() if n < 0
    } == set()
    assert (await harness.queue.tracker.get_group("h")).live == 1


async def test_an_id_past_retention_changes_its_group(harness):
    """The old job leaves its group and labels, as a purge would do it; the new one has its own."""
    for job_id in "ab":
        await harness.enqueue(job_id, group="old", tenant="t", tags={"k": "v"})
    await harness.queue.cancel("a")
    await harness.enqueue("only", group="gone")
    await harness.queue.cancel("only")
    for job_id in ("a", "only"):
        for key in harness.redis.scan_iter(match=f"{harness.keys.job(job_id)}*"):
            harness.redis.pexpire(key, BACKSTOP_MS - 1000)
    await harness.enqueue("a", group="new", tags={"k": "w"})
    await harness.enqueue("only")
    assert await _counts(harness, "old") == {"pending": 1, "purged": 1}
    assert await _counts(harness, "new") == {"pending": 1}
    assert await harness.queue.tracker.get_group("gone") is None
    labels = await harness.queue.tracker.labels(["a", "only"])
    assert labels == {"a": {"group": "new", "tags": {"k": "w"}}, "only": {}}


async def test_an_id_past_retention_is_deleted_once(harness):
    """An id that is twice in a call, and refused both times, leaves its old group once."""
    for job_id, group in (("a", "old"), ("b", "old"), ("c", "sealed")):
        await harness.enqueue(job_id, group=group)
    await harness.queue.seal_group("sealed")
    await harness.queue.cancel("a")
    for key in harness.redis.scan_iter(match=f"{harness.keys.job('a')}*"):
        harness.redis.pexpire(key, BACKSTOP_MS - 1000)
    with pytest.raises(GroupSealed):
        await harness.queue.enqueue_many([Job({}, id="a", group="sealed")] * 2)
    assert await _counts(harness, "old") == {"pending": 1, "purged": 1}


async def test_an_id_past_retention_is_free_for_then(harness):
    """Readers do not know the old job: `then` takes its id, even if it was in the group that is sealed."""
    for group in (None, "other", "g"):
        await harness.enqueue("then", group=group)
        await harness.enqueue("b", group="g")
        await harness.queue.cancel_many(["then", "b"])
        for key in harness.redis.scan_iter(match=f"{harness.keys.job('then')}*"):
            harness.redis.pexpire(key, BACKSTOP_MS - 1000)
        assert await harness.queue.get_status("then") is None
        assert await harness.queue.seal_group("g", THEN)
        found = await harness.queue.tracker.get_group("g")
        assert (found.then_id, found.then_status) == ("then", "enqueued")
        assert (found.live, found.counts["cancelled"]) == (0, 1)
        assert (
            await harness.start_one(await harness.worker(f"of-{group}"))
        ).raw_payload == b'{"n":2}'
        assert await harness.queue.tracker.get_group("other") is None
        await harness.queue.cancel("then")
        await _purge(harness)


async def test_then_that_another_program_damaged_is_lost(harness):
    """Without its payload, or with fields that are no job's, it is lost; the job completes, the group ends."""
    damages = [
        lambda key: harness.redis.delete(f"{key}:then"),
        lambda key: (harness.redis.delete(f"{key}:then"), harness.redis.lpush(f"{key}:then", "x")),
        lambda key: harness.redis.hset(key, "then_delay_ms", "soon"),
        lambda key: harness.redis.hdel(key, "then_id"),
        lambda key: harness.redis.hdel(key, "then_labels"),
    ]
    session = await harness.worker()
    for n, damage in enumerate(damages):
        await harness.enqueue("a", group=f"g{n}")
        await harness.queue.seal_group(f"g{n}", THEN)
        damage(harness.keys.group(f"g{n}"))
        job = await harness.start_one(session)
        assert await harness.report(session, job, Completed(b"{}")) == "completed"
        group = await harness.queue.tracker.get_group(f"g{n}")
        assert (group.then_status, group.ended_at is None) == ("lost", False)
        assert await _counts(harness, f"g{n}") == {"completed": 1}
        assert not harness.redis.exists(f"{harness.keys.group(f'g{n}')}:then")
        await _purge(harness)
    assert await harness.queue.get_status("then") is None


INDEXES = [
    "labels", "groups", "group:g", "members:group:g", "members:tenant:t", "members:tag:k=v",
]  # fmt: skip


def _replace_by_another_type(harness, name):
    harness.redis.delete(harness.keys.queue_prefix + name)
    harness.redis.set(harness.keys.queue_prefix + name, "of another program")


def _wipe(harness):
    if keys := list(harness.redis.scan_iter(match=harness.keys.pattern, count=1000)):
        harness.redis.delete(*keys)


@pytest.mark.parametrize("name", INDEXES)
async def test_a_key_of_another_type_stops_no_transition(harness, name):
    """Whatever is where an index of labels or groups should be: jobs start, end, run again and are purged."""
    for move in ONE_OF_EACH_SCRIPT:
        fields, change, status = MOVES[move]
        await harness.enqueue("a", group="g", tenant="t", tags={"k": "v"}, **fields)
        await harness.queue.seal_group("g", THEN)
        _replace_by_another_type(harness, name)
        if change:
            await change(harness)
        assert await harness.queue.get_status("a") == status, move
        await harness.queue.cancel("a")
        await _purge(harness)
        assert await harness.queue.get_status("a") is None
        _wipe(harness)


async def test_a_key_of_another_type_does_not_stop_then(harness):
    """If the labels of `then` cannot be kept, it is enqueued without them."""
    await harness.enqueue("a", group="g")
    await harness.queue.seal_group("g", Job({"n": 2}, id="then", tenant="t"))
    session = await harness.worker()
    job = await harness.start_one(session)
    _replace_by_another_type(harness, "members:tenant:t")
    assert await harness.report(session, job, Completed(b"{}")) == "completed"
    assert (await harness.start_one(session)).raw_payload == b'{"n":2}'
    _wipe(harness)


@pytest.mark.parametrize("value", ["x", None])
async def test_damaged_counts_stop_no_transition(harness, value):
    """Counts that another program changed or deleted are counted from zero; jobs move and are purged."""
    for move in ONE_OF_EACH_SCRIPT:
        fields, change, status = MOVES[move]
        await harness.enqueue("gone", group="g")
        await harness.queue.cancel("gone")
        await harness.enqueue("a", group="g", **fields)
        await harness.queue.seal_group("g", THEN)
        for name in ("pending", "processing", "retrying", "cancelled", "moves"):
            if value is None:
                harness.redis.hdel(harness.keys.group("g"), name)
            else:
                harness.redis.hset(harness.keys.group("g"), name, value)
        await _purge(harness)
        if change:
            await change(harness)
        assert await harness.queue.get_status("a") == status, move
        _wipe(harness)


async def test_an_expired_id_that_is_held_anew_leaves_its_group(harness):
    """Labels outlive an expired job; a new one with its id, held and without labels, is not in its group."""
    await harness.queue.enqueue_many([Job({}, id=each, group="g") for each in ("old", "live")])
    await harness.queue.cancel("old")
    harness.redis.delete(harness.keys.job("old"))
    await harness.queue.enqueue_many([Job({}, id="old")], hold="ask")
    await harness.queue.seal_group("g")
    await harness.queue.cancel("live")
    group = await harness.queue.get_group("g")
    assert {name: n for name, n in group.counts.items() if n} == {"cancelled": 1, "purged": 1}
    assert group.ended_at is not None
