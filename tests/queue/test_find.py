"""Filters: every combination finds exactly the jobs that match, whatever index answers it."""

import itertools
import re

import pytest

from aragora_q.base import LIVE, TERMINAL, Job, JobStatus
from aragora_q.contracts import Completed, Failed, Report, Retry
from aragora_q.errors import InvalidPayload
from aragora_q.labels import JobFilter
from aragora_q.redis.keys import BACKSTOP_MS

STATUSES = {
    "any": frozenset(),
    "failed": frozenset({JobStatus.FAILED}),
    "processing": frozenset({JobStatus.PROCESSING}),
    "waiting": frozenset({JobStatus.PENDING, JobStatus.RETRYING}),
    "live": LIVE,
    "ended": TERMINAL,
    "mixed": frozenset({JobStatus.COMPLETED, JobStatus.PENDING}),
}
LABELS = {
    "no labels": {},
    "group": {"group": "g"},
    "tenant": {"tenant": "acme"},
    "tag": {"tags": {"env": "prod"}},
    "all labels": {"group": "g", "tenant": "acme", "tags": {"env": "prod", "model": "a:b/c"}},
    "unknown": {"group": "nothing"},
}


@pytest.fixture
async def jobs(harness):
    """Jobs with all combinations of labels in every status; their times are 1 ms apart or more."""
    session = await harness.worker()
    kinds = [
        {name: value for given in chosen for name, value in given.items()}
        for size in range(3)
        for chosen in itertools.combinations(
            [{"group": "g"}, {"tenant": "acme"}, {"tags": {"env": "prod"}}], size
        )
    ] + [LABELS["all labels"]]
    for step in (
        "completed",
        "failed",
        "retrying",
        "processing",
        "cancelled",
        "pending",
        "delayed",
    ):
        for n, labels in enumerate(kinds):
            delay = 60 if step == "delayed" else 0
            await harness.enqueue(f"{step}{n}", **labels, delay_seconds=delay, priority=n % 3 - 1)
        if step in ("pending", "delayed"):
            continue
        if step == "cancelled":
            await harness.queue.cancel_many([f"cancelled{n}" for n in range(len(kinds))])
            continue
        for job in (await session.start(len(kinds))).jobs:
            outcome = {
                "completed": Completed(b"{}"), "failed": Failed("no"), "retrying": Retry("no", 60),
            }.get(step)  # fmt: skip
            if outcome:
                await harness.report(session, job, outcome)
    ids = [f"{step}{n}" for step in ("completed", "failed", "retrying", "processing", "cancelled",
                                     "pending", "delayed") for n in range(len(kinds))]  # fmt: skip
    return [await harness.queue.get_job(job_id) for job_id in ids]


def time_of(job):
    return job.completed_at or job.started_at or job.created_at


def matches(job, wanted):
    """What the filter says, computed from the job alone."""
    return (
        (not wanted.statuses or job.status in wanted.statuses)
        and wanted.group in (None, job.group)
        and wanted.tenant in (None, job.tenant)
        and wanted.tags.items() <= job.tags.items()
        and (wanted.since is None or time_of(job) >= wanted.since)
        and (wanted.until is None or time_of(job) < wanted.until)
    )


async def test_a_filter_finds_exactly_what_matches(harness, jobs):
    """Ids, counts and the newest of each filter are those computed from the jobs one by one.

    With labels, the newest are those enqueued last, otherwise those with the latest time that `list` shows.
    """
    times = sorted(map(time_of, jobs))
    updated = {job.id: time_of(job) for job in jobs}
    created = {
        job_id: ms
        for label in ("group:g", "tenant:acme", "tag:env=prod")
        for job_id, ms in harness.redis.zrange(harness.keys.members(label), 0, -1, withscores=True)
    }
    spans = [(None, None), (times[20], None), (None, times[20]), (times[10], times[30])]
    for (_, statuses), (_, labels), (since, until) in itertools.product(
        STATUSES.items(), LABELS.items(), spans
    ):
        wanted = JobFilter(statuses=statuses, **labels, since=since, until=until)
        expected = {job.id for job in jobs if matches(job, wanted)}
        found = [job_id async for page in harness.queue.find(wanted) for job_id in page]
        assert sorted(found) == sorted(expected), wanted
        assert await harness.queue.count(wanted) == len(expected), wanted
        newest = await harness.queue.find_newest(wanted, 1000)
        assert sorted(newest) == sorted(expected), wanted
        newest_times = [(created if labels else updated)[job_id] for job_id in newest]
        assert newest_times == sorted(newest_times, reverse=True), wanted
        few = await harness.queue.find_newest(wanted, 5)
        few_times = [(created if labels else updated)[job_id] for job_id in few]
        assert few_times == newest_times[:5], wanted


async def test_pages_are_complete_while_their_jobs_are_changed(harness):
    """Jobs with the same time are in one page; cancelling a page loses none of the next."""
    for batch in range(12):
        await harness.queue.enqueue_many(
            [Job({}, id=f"{batch}-{n}", group="g") for n in range(100)]
        )
    wanted, pages = JobFilter(group="g", statuses=LIVE), 0
    async for page in harness.queue.find(wanted):
        pages += 1
        assert set(await harness.queue.cancel_many(page)) == {"cancelled"}
    assert pages > 1
    group = await harness.queue.tracker.get_group("g")
    assert group.counts["cancelled"] == 1200
    ended = JobFilter(group="g", statuses=frozenset({JobStatus.CANCELLED}))
    async for page in harness.queue.find(ended):
        assert set(await harness.queue.purge_many(page)) == {"purged"}
    assert await harness.queue.tracker.get_group("g") is None


async def test_jobs_that_start_or_end_between_pages_are_found(new_harness):
    """A job that matches all the time is found, although it starts after one page and ends after another."""
    harness = new_harness()
    ids = [f"j{n}" for n in range(1100)]
    await harness.queue.enqueue_many([Job({}, id=job_id) for job_id in ids])
    session = await harness.worker()
    await session.start(100)
    for wanted in (JobFilter(statuses=LIVE), JobFilter(since=1)):
        found, started = [], []
        async for page in harness.queue.find(wanted):
            found += page
            await session.report([Report(job, Failed("x")) for job in started[:1]])
            started = [job for _ in range(2) for job in (await session.start(100)).jobs]
        assert found
        assert set(ids) - set(found) == set()
        ids = ids[500:]


async def test_a_job_that_is_requeued_and_fails_again_is_found_once(harness):
    """A requeue by filter runs each job once more, even if one fails before the last page."""
    for job_id in ("failed", "cancelled"):
        await harness.enqueue(job_id)
    await harness.queue.cancel("cancelled")
    session, found = await harness.worker(), []
    await harness.report(session, await harness.start_one(session), Failed("x"))
    wanted = JobFilter(statuses=frozenset({JobStatus.FAILED, JobStatus.CANCELLED}))
    async for page in harness.queue.find(wanted):
        found += page
        assert set(await harness.queue.requeue(page)) == {"requeued"}
        await harness.report(session, await harness.start_one(session), Failed("x"))
    assert sorted(found) == ["cancelled", "failed"]


async def test_a_filter_with_an_impossible_name_is_refused(harness):
    """A name that no job can have is an error, not an empty answer."""
    for wanted in (JobFilter(group="a b"), JobFilter(tenant=""), JobFilter(tags={"a=b": "c"})):
        with pytest.raises(InvalidPayload, match="invalid"):
            await harness.queue.count(wanted)


async def test_jobs_past_retention_are_found_only_to_purge_them(harness):
    """What readers do not show is not counted either, whether its keys have expired already or not."""
    job_ids = ["kept", "past", "gone"]
    await harness.queue.enqueue_many([Job({}, id=job_id, group="g") for job_id in job_ids])
    await harness.queue.cancel_many(job_ids)
    harness.redis.pexpire(harness.keys.job("past"), BACKSTOP_MS - 1000)
    harness.redis.delete(harness.keys.job("gone"), harness.keys.payload("gone"))
    cancelled = frozenset({JobStatus.CANCELLED})
    for labels in ({}, {"group": "g"}):
        for statuses in (cancelled, TERMINAL, frozenset()):
            wanted = JobFilter(statuses=statuses, **labels)
            assert await harness.queue.find_newest(wanted, 10) == ["kept"], wanted
            assert await harness.queue.count(wanted) == 1, wanted
            assert await harness.queue.count(wanted, with_expired=True) == 3, wanted
    assert await harness.queue.purge_many(job_ids) == ["purged"] * 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"statuses": "failed"}, "statuses of a filter must be a set of JobStatus, got 'failed'"),
        ({"statuses": [JobStatus.FAILED]}, "statuses of a filter must be a set"),
        ({"statuses": {"faild"}}, "statuses of a filter must be a set of JobStatus"),
        ({"since": "1h"}, "since of a filter must be a time in Unix seconds, got '1h'"),
        ({"until": "now"}, "until of a filter must be a time in Unix seconds"),
        ({"since": float("nan")}, "since of a filter must be a time in Unix seconds"),
        ({"until": float("inf")}, "until of a filter must be a time in Unix seconds"),
        ({"since": -1e300}, "since of a filter must be a time in Unix seconds"),
        ({"until": 10**400}, "until of a filter must be a time in Unix seconds"),
    ],
)
def test_a_filter_with_an_impossible_value_is_refused(wrong, message):
    """A status that does not exist, or an impossible time, is an error, not an empty answer."""
    with pytest.raises(InvalidPayload, match=re.escape(message)):
        JobFilter(**wrong).check()


async def walk(queue, wanted, limit):
    """All ids that match, page by page, and the number of pages."""
    ids, cursor, pages = [], "", 0
    while cursor or not pages:
        page = await queue.find_page(wanted, cursor, limit)
        assert len(page.ids) <= limit
        ids, cursor, pages = ids + page.ids, page.cursor, pages + 1
    return ids, pages


async def test_pages_of_every_filter_are_complete(harness, jobs):
    """The pages of each filter together have each matching job once; the size of a page changes no order."""
    times = sorted(map(time_of, jobs))
    spans = [(None, None), (times[20], None), (None, times[20]), (times[10], times[30])]
    for (_, statuses), (_, labels), (since, until) in itertools.product(
        STATUSES.items(), LABELS.items(), spans
    ):
        wanted = JobFilter(statuses=statuses, **labels, since=since, until=until)
        expected = {job.id for job in jobs if matches(job, wanted)}
        found, _ = await walk(harness.queue, wanted, 5)
        assert sorted(found) == sorted(expected), wanted
        assert (await walk(harness.queue, wanted, 1000))[0] == found, wanted
    ended, _ = await walk(harness.queue, JobFilter(statuses=TERMINAL), 5)
    assert ended == await harness.queue.find_newest(JobFilter(statuses=TERMINAL), 1000)


async def test_pages_stay_while_jobs_are_added_and_end(new_harness):
    """Jobs that are enqueued, started or ended between pages are on none twice; those that stay, on one."""
    harness = new_harness()
    session = await harness.worker()
    await harness.queue.enqueue_many([Job({}, id=f"j{n}", priority=n % 3 - 1) for n in range(60)])
    running = (await session.start(20)).jobs
    await harness.queue.enqueue_many([Job({}, id=f"d{n}", delay_seconds=60) for n in range(9)])
    await harness.queue.cancel_many([f"j{n}" for n in range(50, 60)])
    before = {job_id async for page in harness.queue.find(JobFilter()) for job_id in page}
    found, cursor = [], ""
    while cursor or not found:
        page = await harness.queue.find_page(JobFilter(), cursor, 7)
        found, cursor = found + page.ids, page.cursor
        await harness.enqueue()
        if running:
            await harness.report(session, running.pop(), Failed("no"))
        await session.start(1)
    assert len(found) == len(set(found))
    missed = await harness.queue.tracker.get_jobs(sorted(before - set(found)))
    assert all(job.attempts for job in missed)  # they have moved: they were started


async def test_jobs_with_the_same_time_are_on_one_page_each(harness):
    """Members with one time are ordered by their ids, whatever these are; a page ends with one that is lost."""
    ids = [f"j{n}" for n in range(100)] + ["J", "a.b", "Z9", "aB", "ab"]
    await harness.queue.enqueue_many([Job({}, id=job_id, group="g") for job_id in ids])
    await harness.queue.cancel_many(ids)
    harness.redis.zadd(harness.keys.cancelled, dict.fromkeys(ids, 1e12))
    cancelled = JobFilter(statuses=frozenset({JobStatus.CANCELLED}))
    assert sorted((await walk(harness.queue, cancelled, 3))[0]) == sorted(ids)
    first = await harness.queue.find_page(cancelled, limit=3)
    harness.redis.zrem(harness.keys.cancelled, first.ids[-1])
    second = await harness.queue.find_page(cancelled, first.cursor, 200)
    harness.redis.zadd(harness.keys.cancelled, {first.ids[-1]: 1e12})
    assert sorted(first.ids + second.ids) == sorted(ids)


@pytest.mark.parametrize("cursor", ["x", "1:2:3", "1:4:5:a", "1:99:5:a", "1:9:nan:a", "1:9:5:a b"])
async def test_a_foreign_cursor_is_refused(harness, cursor):
    """A cursor that no page ended with is named, and nothing is read."""
    with pytest.raises(InvalidPayload, match="invalid cursor"):
        await harness.queue.find_page(JobFilter(), cursor)


@pytest.mark.parametrize("status", [None, "pending", "processing", "cancelled", "held"])
async def test_a_page_is_two_round_trips_whatever_the_queue(new_harness, status):
    """50 jobs with the server's time: two scripts, also of 5,000 jobs, and in a few ms of the server's time."""
    harness = new_harness()
    session = await harness.worker()
    ids = [f"j{n}" for n in range(5_000)]
    await harness.queue.enqueue_many([Job({"n": n}, id=job_id) for n, job_id in enumerate(ids)])
    if status == "cancelled":
        await harness.queue.cancel_many(ids)
    elif status == "held":
        await harness.queue.hold_many(ids)
    else:
        await session.start(100)
    await harness.queue.find_page(JobFilter(), limit=1)  # loads the script
    await harness.queue.tracker.read_jobs(["j1"])
    wanted, times = JobFilter(statuses=frozenset({JobStatus(status)} if status else ())), []
    for _ in range(5):  # the machine may stop the server in the middle of some scripts
        harness.redis.config_resetstat()
        page = await harness.queue.find_page(wanted)
        read = await harness.queue.tracker.read_jobs(page.ids)
        assert len(read.jobs) == 50
        assert all(job.payload for job in read.jobs)
        assert read.now >= max(job.created_at for job in read.jobs)
        stats = harness.redis.info("commandstats")
        assert stats["cmdstat_evalsha_ro"]["calls"] == 2
        sent = {name for name in stats if not name.startswith("cmdstat_config")}
        assert sum(stats[name]["calls"] for name in sent) < 2_500
        times.append(stats["cmdstat_evalsha_ro"]["usec"])
    assert min(times) < 100_000


async def test_large_values_are_cut_to_their_beginning(harness):
    """With `max_bytes`, a payload or a result that is longer is cut, wherever it is kept, and named."""
    session = await harness.worker()
    large = {"question": "x" * 100_000}
    for name in ("running", "ended", "waiting", "cancelled"):
        await harness.enqueue_payload(name, large)
        if name == "running":
            await harness.start_one(session)
        if name == "ended":
            await harness.report(session, await harness.start_one(session), Completed(b"{}"))
    await harness.queue.cancel("cancelled")
    await harness.enqueue("small")
    ids = ["running", "ended", "waiting", "cancelled", "small"]
    read = await harness.queue.tracker.read_jobs(ids, max_bytes=1_000)
    assert read.cut == set(ids[:-1])
    for job in read.jobs[:-1]:
        assert job.raw_payload == b'{"question":"' + b"x" * (1_000 - 13)
        assert job.payload == {"question": "x" * (1_000 - 13)}
        assert job.result is None
    assert read.jobs[-1].payload == {"n": 1}
    whole = await harness.queue.tracker.read_jobs(ids)
    assert [job.payload for job in whole.jobs[:-1]] == [large] * 4
    assert not whole.cut
