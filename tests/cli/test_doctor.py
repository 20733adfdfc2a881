"""`aragora-q doctor`: each problem is reported with detail and remedy; a repair loses nothing."""

import asyncio
import base64
import json
from contextlib import suppress

import pytest
from support import invariants, servers
from support.queue_harness import PREFIX, QueueHarness
from support.topologies import AT_ONCE, replicate

from aragora_q.base import Job
from aragora_q.config.settings import QueueConfig
from aragora_q.context import Call, Settlement
from aragora_q.contracts import ClaimRequest, Completed, Granted, Plan, ScheduleState, Settled
from aragora_q.doctor import checks, groups, integrity
from aragora_q.doctor.report import PROBLEMS
from aragora_q.errors import AccessDenied
from aragora_q.streams.queue import RedisStreamsQueue

pytestmark = pytest.mark.usefixtures("within_a_day")


async def _jobs(harness):
    """One job of each kind: waiting, delayed, running, ended."""
    await harness.enqueue("waits", priority=-1)
    await harness.enqueue("delayed", delay_seconds=1000)
    await harness.enqueue("ended")
    worker = await harness.worker("w1")
    job = await harness.start_one(worker)
    assert await harness.report(worker, job, Completed(b"{}")) == "completed"
    await harness.enqueue("runs")
    await harness.start_one(worker)


def _found(ended, check="data"):
    return [finding for finding in ended.object["findings"] if finding["check"] == check]


def test_a_consistent_queue_has_no_finding_about_its_data(run_cli, on_queue):
    """Jobs in every state give no finding."""
    on_queue(_jobs)
    ended = run_cli("doctor", "--json")
    assert _found(ended) == []
    assert ended.object["jobs_checked"] == 4
    assert ended.object["resume_from"] is None


def _break_not_queued(redis_client):
    entry = redis_client.hget(f"{PREFIX}job:waits", "entry")
    redis_client.xdel(f"{PREFIX}stream:low", entry)
    redis_client.set(f"{PREFIX}job:waits:payload", "{}")


def _break_delivered_without_owner(redis_client):
    redis_client.xreadgroup("aragora-workers", "unregistered", {f"{PREFIX}stream:low": ">"})
    redis_client.xack(
        f"{PREFIX}stream:low", "aragora-workers", redis_client.hget(f"{PREFIX}job:waits", "entry")
    )


def _break_payload_lost(redis_client):
    redis_client.delete(f"{PREFIX}job:delayed:payload")


def _break_entry_lost(redis_client):
    redis_client.xdel(f"{PREFIX}stream", redis_client.hget(f"{PREFIX}job:runs", "entry"))


def _break_wrong_type(redis_client):
    redis_client.delete(f"{PREFIX}job:delayed")
    redis_client.set(f"{PREFIX}job:delayed", "a string")


def _add_delivered_entry(redis_client, job_id):
    """An entry that another program wrote, read and acknowledged, but did not delete."""
    redis_client.xadd(f"{PREFIX}stream:high", {"id": job_id, "payload": "{}"})
    for _, rows in redis_client.xreadgroup(
        "aragora-workers", "unregistered", {f"{PREFIX}stream:high": ">"}
    ):
        for entry, _ in rows:
            redis_client.xack(f"{PREFIX}stream:high", "aragora-workers", entry)


def _break_other_lane(redis_client):
    redis_client.hdel(f"{PREFIX}job:waits", "priority")


BREAKS = {
    "orphaned-entry": lambda redis_client: _add_delivered_entry(redis_client, "missing"),
    "duplicate-entry": lambda redis_client: _add_delivered_entry(redis_client, "ended"),
    "other-lane": _break_other_lane,
    "not-queued": _break_not_queued,
    "delivered-without-owner": _break_delivered_without_owner,
    "delayed-without-hash": lambda redis_client: redis_client.delete(f"{PREFIX}job:delayed"),
    "delayed-without-data": lambda redis_client: redis_client.zadd(
        f"{PREFIX}delayed", {"missing": 9e12}
    ),
    "waits-twice": lambda redis_client: redis_client.zadd(f"{PREFIX}delayed", {"waits": 9e12}),
    "listed-as-ended": lambda redis_client: redis_client.zadd(f"{PREFIX}failed", {"waits": 1}),
    "expires-while-live": lambda redis_client: redis_client.expire(
        f"{PREFIX}job:delayed:payload", 1000
    ),
    "stale-result": lambda redis_client: redis_client.set(f"{PREFIX}job:waits:result", "{}"),
    "payload-twice": lambda redis_client: redis_client.set(f"{PREFIX}job:waits:payload", "{}"),
    "unlisted": lambda redis_client: redis_client.zrem(f"{PREFIX}completed", "ended"),
    "listed-twice": lambda redis_client: redis_client.zadd(f"{PREFIX}failed", {"ended": 1}),
    "keeps-lease": lambda redis_client: redis_client.hset(f"{PREFIX}job:ended", "lease_ms", 1),
    "never-expires": lambda redis_client: redis_client.persist(f"{PREFIX}job:ended:result"),
    "listed-without-data": lambda redis_client: redis_client.zadd(
        f"{PREFIX}cancelled", {"missing": 1}
    ),
    "parts-without-hash": lambda redis_client: redis_client.set(
        f"{PREFIX}job:missing:result", "{}"
    ),
    "payload-lost": _break_payload_lost,
    "entry-lost": _break_entry_lost,
    "result-lost": lambda redis_client: redis_client.delete(f"{PREFIX}job:ended:result"),
    "wrong-type": _break_wrong_type,
    "invalid-numbers": lambda redis_client: redis_client.hset(
        f"{PREFIX}job:ended", mapping={"attempts": "abc", "fence": "x"}
    ),
    "unknown-status": lambda redis_client: redis_client.hset(f"{PREFIX}job:waits", "status", "odd"),
}


async def _groups(harness):
    """An open group, an ended one, and one that is sealed and followed by a job; all with a tenant."""
    await harness.enqueue("done", group="followed", tenant="t")
    await harness.enqueue("last", group="over", tenant="t")
    worker = await harness.worker("w1")
    for job in (await worker.start(2)).jobs:
        assert await harness.report(worker, job, Completed(b"{}")) == "completed"
    await harness.queue.seal_group("over")
    await harness.enqueue("waits", priority=-1, group="followed", tenant="t", tags={"k": "v"})
    await harness.queue.seal_group("followed", Job(payload={}, id="after"))
    await harness.enqueue("open-1", group="open", tenant="t")


def _break_label_type(redis_client):
    redis_client.delete(f"{PREFIX}members:tenant:t")
    redis_client.set(f"{PREFIX}members:tenant:t", "a string")


def _break_group_type(redis_client):
    redis_client.delete(f"{PREFIX}group:open")
    redis_client.rpush(f"{PREFIX}group:open", "a list")


def _break_group_without_jobs(redis_client):
    redis_client.zadd(f"{PREFIX}groups", {"empty": 1})
    redis_client.hset(f"{PREFIX}group:empty", "created_at", 1)
    redis_client.set(f"{PREFIX}group:empty:then", "{}")


def _break_group_not_ended(redis_client):
    redis_client.hdel(f"{PREFIX}group:over", "ended_at")
    redis_client.persist(f"{PREFIX}group:over")


def _break_group_ended(redis_client):
    redis_client.hset(f"{PREFIX}group:open", "ended_at", 1)
    redis_client.expire(f"{PREFIX}group:open", 1000)


def _break_then_waits(redis_client):
    for suffix in (
        "then",
        "then_id",
        "then_priority",
        "then_delay_ms",
        "then_max_attempts",
        "then_labels",
    ):
        value = redis_client.hget(f"{PREFIX}group:followed", suffix)
        redis_client.hset(f"{PREFIX}group:over", suffix, value)
    redis_client.hset(f"{PREFIX}group:over", "then_id", "late")
    redis_client.set(f"{PREFIX}group:over:then", "{}")


BREAKS_OF_GROUPS = {
    "entry-without-hash": lambda redis_client: redis_client.delete(f"{PREFIX}job:waits"),
    "unlisted-label": lambda redis_client: redis_client.zrem(f"{PREFIX}members:tag:k=v", "waits"),
    "stray-member": lambda redis_client: redis_client.zadd(
        f"{PREFIX}members:tag:k=v", {"done": 1, "missing": 2}
    ),
    "labels-without-job": lambda redis_client: redis_client.hset(
        f"{PREFIX}labels", "missing", "tenant:t tag:k=v"
    ),
    "labels-lost": lambda redis_client: redis_client.delete(f"{PREFIX}labels"),
    "label-wrong-type": _break_label_type,
    "group-wrong-type": _break_group_type,
    "experiment-wrong-type": lambda redis_client: redis_client.set(f"{PREFIX}experiment:open", "x"),
    "group-without-jobs": _break_group_without_jobs,
    "group-lost": lambda redis_client: redis_client.delete(f"{PREFIX}group:open"),
    "group-invalid-numbers": lambda redis_client: redis_client.hset(
        f"{PREFIX}group:over", mapping={"ended_at": "x", "purged": "y"}
    ),
    "group-unlisted": lambda redis_client: redis_client.zrem(f"{PREFIX}groups", "open"),
    "group-counts": lambda redis_client: redis_client.hset(
        f"{PREFIX}group:open", mapping={"pending": 7, "failed": "x"}
    ),
    "group-not-ended": _break_group_not_ended,
    "group-ended": _break_group_ended,
    "group-expires": lambda redis_client: redis_client.expire(f"{PREFIX}group:open", 1000),
    "group-never-expires": lambda redis_client: redis_client.persist(f"{PREFIX}group:over"),
    "then-waits": _break_then_waits,
    "then-left": lambda redis_client: redis_client.set(f"{PREFIX}group:open:then", "{}"),
    "then-lost": lambda redis_client: redis_client.delete(f"{PREFIX}group:followed:then"),
}


async def _holds(harness):
    """One job that waits, one that is held."""
    await harness.enqueue("waits")
    await harness.enqueue("held")
    await harness.queue.hold("held", reason="look first")


def _break_held_in_lane(redis_client):
    entry = redis_client.xadd(f"{PREFIX}stream", {"id": "held", "payload": "{}"})
    redis_client.hset(f"{PREFIX}job:held", "entry", entry)


BREAKS_OF_HOLDS = {
    "held-without-hash": lambda redis_client: redis_client.delete(f"{PREFIX}job:held"),
    "held-unlisted": lambda redis_client: redis_client.zrem(f"{PREFIX}held", "held"),
    "held-in-lane": _break_held_in_lane,
    "listed-as-held": lambda redis_client: redis_client.zadd(f"{PREFIX}held", {"waits": 1}),
}

GATES = "aragora:queue:{gates}:"


async def _calls(harness):
    """One call under way, and one that has ended, both in the budget of a tenant."""
    budget = {"limit_usd": 5, "window": "day", "scope": "tenant"}
    gates = harness.other_client(budgets={"t": budget}).gates("w1")
    await gates.refresh()
    job = Job({}, tenant="acme")
    for name in ("runs", "ended"):
        call = Call(name, "a", "stub", "stub@0", "m", 10, 10, 0.5, job_max_cost_usd=2.0)
        assert await gates.acquire(job, call) == Granted()
    await gates.settle(job, call, Settlement("ok", cost_usd=0.25))
    await gates._connection.close()  # not as a worker closes it, which would end the declaration


def _counter(redis_client, kind="spent"):
    [key] = redis_client.scan_iter(f"{GATES}{kind}:*")
    return key


def _break_counter_type(redis_client):
    key = _counter(redis_client)
    redis_client.delete(key)
    redis_client.set(key, "x")


BREAKS_OF_GATES = {
    "policy-lost": lambda redis_client: redis_client.delete(f"{GATES}policy"),
    "counter-wrong-type": _break_counter_type,
    "counter-invalid-numbers": lambda redis_client: redis_client.hset(
        _counter(redis_client), "spent", "much"
    ),
    "counter-reserved": lambda redis_client: redis_client.hincrby(
        _counter(redis_client, "job"), "reserved_tokens", 7
    ),
    "counter-unlisted": lambda redis_client: redis_client.delete(
        *redis_client.scan_iter(f"{GATES}window:*")
    ),
    "counter-never-expires": lambda redis_client: redis_client.persist(_counter(redis_client)),
}

OUTBOX, SENT = f"{PREFIX}outbox:ops", f"{PREFIX}sent:ops"


async def _messages(harness):
    """A message that waits, and one that was delivered."""
    target = {"url": "https://example.com/", "secret_file": "secret"}
    queue = harness.other_client(webhooks={"ops": target})
    for job_id in ("sent", "waits"):
        await queue.enqueue(Job({}, id=job_id, notify=("ops",)))
        await queue.cancel(job_id)
    claimed = await queue.outbox.claim([ClaimRequest("ops", 1, 60)])
    [delivery] = claimed.deliveries
    assert await queue.outbox.settle([Settled(delivery, "ok")]) == ["delivered"]


def _message(redis_client, of=OUTBOX):
    [delivery_id] = redis_client.zrange(of, 0, -1)
    return f"{PREFIX}delivery:{delivery_id}"


def _break_message_type(redis_client):
    key = _message(redis_client, SENT)
    redis_client.delete(key, SENT)
    redis_client.set(key, "x")


def _break_outbox_type(redis_client):
    redis_client.delete(OUTBOX, _message(redis_client))
    redis_client.set(OUTBOX, "x")


def _break_message(redis_client):
    redis_client.hdel(_message(redis_client), "webhook")
    redis_client.delete(OUTBOX)


def _send_twice(redis_client):
    [delivery_id] = redis_client.zrange(SENT, 0, -1)
    redis_client.zadd(OUTBOX, {delivery_id: 1})


BREAKS_OF_MESSAGES = {
    "outbox-wrong-type": _break_outbox_type,
    "message-wrong-type": _break_message_type,
    "message-damaged": _break_message,
    "message-lost": lambda redis_client: redis_client.delete(_message(redis_client)),
    "message-unlisted": lambda redis_client: redis_client.delete(OUTBOX),
    "message-twice": _send_twice,
    "message-never-expires": lambda redis_client: redis_client.persist(_message(redis_client)),
}

CASES = {
    **{code: (_jobs, damage) for code, damage in BREAKS.items()},
    **{code: (_groups, damage) for code, damage in BREAKS_OF_GROUPS.items()},
    **{code: (_holds, damage) for code, damage in BREAKS_OF_HOLDS.items()},
    **{code: (_messages, damage) for code, damage in BREAKS_OF_MESSAGES.items()},
    **{code: (_calls, damage) for code, damage in BREAKS_OF_GATES.items()},
}


def test_every_problem_has_a_case_here():
    """The list of problems and the cases here are the same."""
    assert set(CASES) == set(PROBLEMS)


@pytest.mark.parametrize("code", CASES)
def test_each_problem_is_found_and_repaired_if_possible(run_cli, on_queue, redis_client, code):
    """Reported with job and remedy, exit 1; --repair ends the report of those that are repairable."""
    prepare, damage = CASES[code]
    on_queue(prepare)
    damage(redis_client)
    problem = PROBLEMS[code]
    checked = run_cli("doctor", "--json")
    assert checked.code == 1
    [found] = _found(checked)
    assert (found["severity"], problem.message in found["detail"]) == ("error", True)
    assert found["remedy"] == f"{'--repair would ' if problem.repairable else ''}{problem.repair}"

    repaired = run_cli("doctor", "--repair", "--yes", "--json")
    [found] = _found(repaired)
    assert found["severity"] == ("note" if problem.repairable else "error")
    assert _found(run_cli("doctor", "--json")) == ([] if problem.repairable else [found])
    if problem.repairable and code != "parts-without-hash":
        invariants.check(redis_client, PREFIX)


def test_reservations_without_calls_are_freed(run_cli, on_queue, redis_client):
    """A reservation that no call holds would keep a budget full: it ends; those of calls under way stay."""
    on_queue(_calls)
    assert _found(run_cli("doctor", "--json")) == []
    redis_client.hincrby(_counter(redis_client), "reserved", 4_000_000)
    [found] = _found(run_cli("doctor", "--json"))
    assert "1 counter: reserves other amounts" in found["detail"]
    run_cli("doctor", "--repair", "--yes", "--json")
    counter = redis_client.hgetall(_counter(redis_client))
    assert (counter["spent"], counter["reserved"]) == ("250000", "500000")


def test_too_many_calls_under_way_are_not_compared(run_cli, on_queue, redis_client, monkeypatch):
    """One note says so; nothing is changed."""
    monkeypatch.setattr("aragora_q.doctor.gates.MAX_CALLS", 0)
    on_queue(_calls)
    redis_client.hincrby(_counter(redis_client), "reserved", 1)
    [found] = _found(run_cli("doctor", "--repair", "--yes", "--json"))
    assert (found["severity"], "calls are under way" in found["detail"]) == ("note", True)
    assert redis_client.hget(_counter(redis_client), "reserved") == "500001"


def test_a_lost_policy_is_made_again(run_cli, on_queue, redis_client):
    """Budgets that operators set apply again after a repair, without any worker."""
    on_queue(_calls)
    run_cli("budget", "set", "day", "5/day")
    redis_client.delete(f"{GATES}policy")
    assert run_cli("doctor", "--repair", "--yes", "--json").code == 1
    assert run_cli("budget", "list", "-q").lines == ["day", "t"]


def test_different_declarations_are_found(run_cli, on_queue):
    """Budgets and limits of providers that workers declare differently are named, with the workers."""

    async def declare(harness):
        for n, usd in enumerate((5, 5, 7)):
            config = {
                "t": {"limit_usd": usd, "window": "day"},
                f"own{n}": {"limit_usd": 1, "window": "day"},
            }
            limits = {"stub": {"max_concurrent": 3 + n // 2}}
            gates = harness.other_client(budgets=config, providers=limits).gates(f"w{n}")
            await gates.refresh()
            await gates._connection.close()

    on_queue(declare)
    budget, provider = _found(run_cli("doctor", "--json"), "gates")
    assert budget["severity"] == provider["severity"] == "warning"
    assert budget["detail"].startswith(
        "workers declare different budgets.t: kind all, limit 5000000"
    )
    assert "(debates/w0, debates/w1); kind all" in budget["detail"]
    assert budget["detail"].endswith("(debates/w2)")
    assert "providers.stub" in provider["detail"]


def test_a_worker_without_the_prices_of_others_is_found(run_cli, on_queue):
    """Also if its configuration says nothing of money: calls that others can price are refused there."""

    async def declare(harness):
        await harness.worker("w1")
        price = {"input_usd_per_million": 1, "output_usd_per_million": 2}
        gates = harness.other_client(prices={"openai-chat:m": price}).gates("w0")
        await gates.refresh()
        await gates._connection.close()

    on_queue(declare)
    [found] = _found(run_cli("doctor", "--json"), "gates")
    assert found["detail"].startswith("workers have different prices: digest ")
    assert "w0); none (" in found["detail"]
    assert found["detail"].endswith("w1)")


@pytest.mark.parametrize("job_id", ["waits", "delayed", "runs", "ended"])
def test_a_duplicate_entry_is_deleted_and_its_job_is_unchanged(
    run_cli, on_queue, redis_client, job_id
):
    """A second entry of a job is deleted whatever the job's state, and nothing else changes."""
    on_queue(_jobs)
    before = redis_client.hgetall(f"{PREFIX}job:{job_id}")
    _add_delivered_entry(redis_client, job_id)
    ended = run_cli("doctor", "--repair", "--yes", "--json")
    [found] = _found(ended)
    assert (job_id in found["detail"], found["remedy"]) == (True, "repaired: delete it")
    assert redis_client.hgetall(f"{PREFIX}job:{job_id}") == before
    assert redis_client.xlen(f"{PREFIX}stream:high") == 0
    invariants.check(redis_client, PREFIX)


def test_orphaned_entries_are_run_or_become_dead_letters(run_cli, on_queue, redis_client):
    """An entry without a job runs, an invalid one becomes a dead letter with its bytes, and a job whose
    payload is missing gets it from its entry.
    """
    on_queue(_jobs)
    redis_client.delete(f"{PREFIX}job:delayed:payload")
    for job_id in ("missing", "../no-job", "delayed"):
        _add_delivered_entry(redis_client, job_id)
    [found] = [
        finding
        for finding in _found(run_cli("doctor", "--json"))
        if "an entry that was delivered" in finding["detail"]
    ]
    assert "3 jobs" in found["detail"]
    run_cli("doctor", "--repair", "--yes", "--json")
    fetched = on_queue(_started_by_another)
    assert {job.id for job in fetched.jobs} == {"missing", "delayed", "waits"}
    assert redis_client.zcard(f"{PREFIX}failed") == 1
    [dead] = redis_client.zrange(f"{PREFIX}failed", 0, -1)
    assert json.loads(redis_client.get(f"{PREFIX}job:{dead}:payload")) == [
        "id",
        "../no-job",
        "payload",
        "{}",
    ]


async def _started_by_another(harness):
    session = await harness.worker("w2")
    return await session.start(10)


def test_an_invalid_priority_is_repaired(run_cli, on_queue, redis_client):
    """A low-lane job with an invalid priority: found once as a number and once as a lane; not lost."""
    on_queue(_jobs)
    redis_client.hset(f"{PREFIX}job:waits", "priority", "urgent")
    details = sorted(finding["detail"] for finding in _found(run_cli("doctor", "--json")))
    assert len(details) == 2
    assert details[0].startswith("1 job: has fields that are not numbers")
    assert details[1].startswith("1 job: waits in a lane that does not match its priority")
    run_cli("doctor", "--repair", "--yes", "--json")
    assert redis_client.hget(f"{PREFIX}job:waits", "priority") == "-1"
    assert _found(run_cli("doctor", "--json")) == []
    invariants.check(redis_client, PREFIX)


@pytest.mark.parametrize("entry", ["nonsense", "half an id"])
def test_an_invalid_entry_id_does_not_stop_the_check(run_cli, on_queue, redis_client, entry):
    """An invalid entry id in a job's hash is one finding among all the others."""
    on_queue(_jobs)
    if entry == "half an id":
        entry = redis_client.hget(f"{PREFIX}job:waits", "entry").partition("-")[0]
    redis_client.hset(f"{PREFIX}job:waits", "entry", entry)
    redis_client.zadd(f"{PREFIX}failed", {"ended": 1})
    checked = run_cli("doctor", "--json")
    assert checked.code == 1
    assert len(_found(checked)) == 2


def test_repaired_jobs_run(run_cli, on_queue, redis_client):
    """A job that would never have run, and one whose hash was deleted: both complete after the repair."""

    async def run_all(harness):
        await harness.queue.promote()
        worker = await harness.worker("w2")
        jobs = (await worker.start(10)).jobs
        return {job.id: await harness.report(worker, job, Completed(b"{}")) for job in jobs}

    on_queue(_jobs)
    _break_not_queued(redis_client)
    redis_client.delete(f"{PREFIX}job:delayed")
    redis_client.zadd(f"{PREFIX}delayed", {"delayed": 1})
    assert len(_found(run_cli("doctor", "--repair", "--yes", "--json"))) == 2
    assert on_queue(run_all) == {"waits": "completed", "delayed": "completed"}


@pytest.mark.parametrize("code", BREAKS_OF_HOLDS)
def test_a_repaired_hold_holds(run_cli, on_queue, redis_client, code):
    """Only the job that waits starts; the held one runs with its payload when it is freed."""

    async def start(harness):
        worker = await harness.worker()
        first = [job.id for job in (await worker.start(5)).jobs]
        assert await harness.queue.unhold("held")
        return first, (await harness.start_one(worker)).raw_payload

    on_queue(_holds)
    BREAKS_OF_HOLDS[code](redis_client)
    run_cli("doctor", "--repair", "--yes")
    assert on_queue(start) == (["waits"], b'{"n":1}')


def test_what_is_left_of_a_held_job_goes(run_cli, on_queue, redis_client):
    """A job in the index of held jobs whose data is gone is removed from it; so is one that has ended."""
    on_queue(_jobs)
    redis_client.zadd(f"{PREFIX}held", {"missing": 1, "ended": 1})
    found = {
        finding["detail"].partition(": ")[2] for finding in _found(run_cli("doctor", "--json"))
    }
    assert {detail.partition(":")[0].partition(" (")[0] for detail in found} == {
        PROBLEMS["listed-without-data"].message.partition(":")[0],
        PROBLEMS["listed-twice"].message.partition(":")[0],
    }
    run_cli("doctor", "--repair", "--yes")
    assert redis_client.exists(f"{PREFIX}held") == 0


def test_repair_asks_first(run_cli, on_queue, redis_client):
    """Without a terminal, --repair needs --yes; a check without --repair changes nothing."""
    on_queue(_jobs)
    BREAKS["unlisted"](redis_client)
    refused = run_cli("doctor", "--repair")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert redis_client.zscore(f"{PREFIX}completed", "ended") is None


def test_a_check_that_ran_out_of_time_can_be_resumed(redis_url, redis_client):
    """A check in several parts examines the same data as one without interruption."""

    async def walk():
        harness = QueueHarness(redis_url, client=redis_client)
        for n in range(30):
            await harness.enqueue(f"job-{n}")
        for n in range(3000):
            redis_client.sadd(f"{PREFIX}other:{n}", 1)
        cursor, steps, jobs, foreign_keys = "", 0, 0, set()
        while True:
            report = await integrity.examine(
                harness.queue.connection, resume_at=cursor, budget_seconds=0
            )
            steps, jobs, cursor = steps + 1, jobs + report.jobs, report.stopped_at
            foreign_keys |= set(report.foreign_keys)
            if not cursor:
                break
        await harness.queue.close()
        return steps, jobs, len(foreign_keys)

    steps, jobs, foreign_keys = asyncio.run(walk())
    assert steps > 2
    assert (jobs, foreign_keys) == (30, 3000)


class TestGroups:
    """Repairs of groups: none is ended early, and what follows one is enqueued once."""

    def test_groups_of_jobs_in_every_state_are_consistent(self, run_cli, on_queue):
        """Open, sealed and ended groups give no finding; none of their keys is foreign."""
        on_queue(_groups)
        assert _found(run_cli("doctor", "--json")) == []

    def test_a_lost_job_does_not_hold_up_its_group(self, run_cli, on_queue, redis_client):
        """The last live job was deleted with its entry: its labels go, the group ends, `then` is enqueued."""
        on_queue(_groups)
        redis_client.delete(f"{PREFIX}job:waits", f"{PREFIX}stream:low")
        [found] = _found(run_cli("doctor", "--json"))
        assert PROBLEMS["labels-without-job"].message in found["detail"]
        run_cli("doctor", "--repair", "--yes")
        assert redis_client.hget(f"{PREFIX}group:followed", "then") == "enqueued"
        assert redis_client.hget(f"{PREFIX}job:after", "status") == "pending"
        assert _found(run_cli("doctor", "--repair", "--yes", "--json")) == []
        invariants.check(redis_client, PREFIX)

    def test_a_job_whose_hash_was_lost_still_runs_in_its_group(
        self, run_cli, on_queue, redis_client
    ):
        """Its entry is enough: it keeps its labels, and `then` waits until it has ended."""

        async def run_all(harness):
            worker = await harness.worker("w2")
            jobs = (await worker.start(10)).jobs
            for job in jobs:
                assert await harness.report(worker, job, Completed(b"{}")) == "completed"
            return {job.id for job in jobs}

        on_queue(_groups)
        redis_client.delete(f"{PREFIX}job:waits")
        run_cli("doctor", "--repair", "--yes")
        assert redis_client.hget(f"{PREFIX}group:followed", "then") == "waiting"
        assert on_queue(run_all) == {"waits", "open-1"}
        assert redis_client.hget(f"{PREFIX}group:followed", "then") == "enqueued"
        assert _found(run_cli("doctor", "--json")) == []
        invariants.check(redis_client, PREFIX)

    def test_expired_jobs_leave_their_group_as_if_purged(self, run_cli, on_queue, redis_client):
        """A job whose keys expired before a purge is one finding; its group counts it as purged."""
        on_queue(_groups)
        redis_client.delete(f"{PREFIX}job:done", f"{PREFIX}job:done:result")
        [found] = _found(run_cli("doctor", "--json"))
        assert PROBLEMS["listed-without-data"].message in found["detail"]
        [found] = _found(run_cli("doctor", "--repair", "--yes", "--json"))
        counts = redis_client.hmget(f"{PREFIX}group:followed", "pending", "completed", "purged")
        assert counts == ["1", "0", "1"]
        invariants.check(redis_client, PREFIX)

    def test_a_job_at_another_group_is_removed_before_the_group_is_counted(
        self, run_cli, on_queue, redis_client
    ):
        """The counts of a group that lists a job of another group were right, and stay so."""
        on_queue(_groups)
        redis_client.zadd(f"{PREFIX}members:group:open", {"waits": 1})
        [found] = _found(run_cli("doctor", "--repair", "--yes", "--json"))
        assert PROBLEMS["stray-member"].message in found["detail"]
        assert redis_client.hget(f"{PREFIX}group:open", "pending") == "1"
        invariants.check(redis_client, PREFIX)

    def test_all_keys_of_a_group_are_made_from_its_jobs(self, run_cli, on_queue, redis_client):
        """A job's labels are enough: lists, group and counts return, in one repair."""
        on_queue(_groups)
        redis_client.delete(f"{PREFIX}groups", f"{PREFIX}group:open", f"{PREFIX}members:group:open")
        run_cli("doctor", "--repair", "--yes")
        assert redis_client.hget(f"{PREFIX}group:open", "pending") == "1"
        assert _found(run_cli("doctor", "--json")) == []
        invariants.check(redis_client, PREFIX)

    @pytest.mark.parametrize("field", ["then_id", "then_priority", "then_delay_ms", "then_labels"])
    def test_a_damaged_job_that_follows_a_group_is_lost(
        self, run_cli, on_queue, redis_client, field
    ):
        """It is reported, and the group ends without it."""
        on_queue(_groups)
        redis_client.hdel(f"{PREFIX}group:followed", field)
        [found] = _found(run_cli("doctor", "--repair", "--yes", "--json"))
        assert (found["severity"], found["remedy"]) == ("error", PROBLEMS["then-lost"].repair)
        assert run_cli("cancel", "waits").code == 0
        assert redis_client.hget(f"{PREFIX}group:followed", "then") == "lost"
        assert redis_client.hexists(f"{PREFIX}group:followed", "ended_at")
        assert _found(run_cli("doctor", "--json")) == [found]
        invariants.check(redis_client, PREFIX)

    @pytest.mark.parametrize("changes", [1, 100])
    def test_a_group_that_changes_while_it_is_counted_is_not_judged(
        self, on_queue, redis_client, monkeypatch, changes
    ):
        """It is counted again, in pages; if it changes each time, it is busy: not a problem."""
        monkeypatch.setattr(groups, "PAGE", 2)

        async def check(harness):
            for n in range(5):
                await harness.enqueue(f"job-{n}", group="g")
            redis_client.hset(f"{PREFIX}group:g", "failed", 9)
            run, pages = harness.queue.connection.run, 0

            async def run_and_change(name, *args, **options):
                nonlocal pages
                reply = await run(name, *args, **options)
                if name == "check_group" and reply[0] == b"more" and pages < changes:
                    pages += 1
                    await harness.enqueue(f"new-{pages}", group="g")
                return reply

            monkeypatch.setattr(harness.queue.connection, "run", run_and_change)
            return await integrity.examine(harness.queue.connection, repair=True)

        report = on_queue(check)
        if changes == 1:
            assert (dict(report.problems), report.busy_groups) == ({"group-counts": {"g"}}, set())
            assert redis_client.hmget(f"{PREFIX}group:g", "pending", "failed") == ["6", "0"]
            invariants.check(redis_client, PREFIX)
        else:
            assert (dict(report.problems), report.busy_groups) == ({}, {"g"})
            [finding] = checks.of_data(report, repaired=True)
            assert (finding.severity, "1 group: changed while" in finding.detail) == ("note", True)
            assert redis_client.hget(f"{PREFIX}group:g", "failed") == "9"

    def test_a_lost_group_of_many_pages_is_counted_again(self, on_queue, redis_client, monkeypatch):
        """Nothing counts a group whose hash is missing: it is created first, then counted."""
        monkeypatch.setattr(groups, "PAGE", 2)

        async def check(harness):
            for n in range(5):
                await harness.enqueue(f"job-{n}", group="g")
            redis_client.delete(f"{PREFIX}group:g", f"{PREFIX}groups")
            return await integrity.examine(harness.queue.connection, repair=True)

        assert dict(on_queue(check).problems) == {"group-lost": {"g"}}
        invariants.check(redis_client, PREFIX)

    def test_a_resumed_walk_meets_every_group(self, on_queue, redis_client):
        """Interrupted after each step, it finds and repairs all groups."""
        names = {f"g-{n}" for n in range(300)}

        async def walk(harness):
            jobs = [Job(payload={}, id=f"job-of-{name}", group=name) for name in names]
            await harness.queue.enqueue_many(jobs)
            for name in names:
                redis_client.hset(f"{PREFIX}group:{name}", "pending", 7)
            cursor, steps, found = "", 0, set()
            while steps == 0 or cursor:
                report = await integrity.examine(
                    harness.queue.connection, repair=True, resume_at=cursor, budget_seconds=0
                )
                cursor, steps = report.stopped_at, steps + 1
                found |= report.problems.pop("group-counts", set())
                assert not report.problems
            return steps, found

        steps, found = on_queue(walk)
        assert (steps > 5, found) == (True, names)
        invariants.check(redis_client, PREFIX)

    def test_a_queue_without_labels_costs_nothing_more(self, on_queue, monkeypatch):
        """Only lanes and jobs are checked where no job has a label."""
        names = set()

        async def check(harness):
            await _jobs(harness)
            run = harness.queue.connection.run

            async def note(name, *args, **options):
                names.add(name)
                return await run(name, *args, **options)

            monkeypatch.setattr(harness.queue.connection, "run", note)
            await integrity.examine(harness.queue.connection)

        on_queue(check)
        assert names == {"check_lane", "check_job"}


def _settings(tmp_path, text):
    path = tmp_path / "aragora-q.toml"
    path.write_text(text)
    return "--config", path


class TestSchedules:
    """Of this host's configuration, and those that only Redis knows."""

    TABLE = '[schedules.{}]\ncron = "0 6 * * *"\njob = {{payload = {{n = 1}}}}\n'

    def test_one_that_no_process_has_run(self, run_cli, on_queue, tmp_path):
        """A warning until a process with this configuration has planned it; not so for other queues."""
        other = self.TABLE.format("elsewhere").replace("job =", 'queue = "other"\njob =')
        settings = _settings(tmp_path, self.TABLE.format("daily") + other)
        [found] = _found(run_cli("doctor", "--json", *settings), "schedules")
        assert found["severity"] == "warning"
        assert found["detail"].startswith("no process has run schedule daily yet")
        on_queue(
            lambda harness: harness.queue.schedules.plan([Plan(ScheduleState("daily"), 9 * 10**12)])
        )
        assert _found(run_cli("doctor", "--json", *settings), "schedules") == []

    def test_overdue_refused_paused_and_removed(self, run_cli, redis_client, tmp_path):
        """Each with a remedy; one that this host lacks is a note, because another may have it."""
        later, paused = (
            9 * 10**12,
            json.dumps({"at": 1_000, "by": "ann@host", "reason": "holidays"}),
        )
        redis_client.hset(
            f"{PREFIX}schedules",
            mapping={
                "next:late": 1_000, "next:wrong": later, "error:wrong": "group g is sealed",
                "next:rests": 1_000, "paused:rests": paused, "next:removed": later,
            },
        )  # fmt: skip
        names = ("late", "wrong", "rests")
        settings = _settings(tmp_path, "".join(map(self.TABLE.format, names)))
        found = _found(run_cli("doctor", "--json", *settings), "schedules")
        late, removed, rests, wrong = found
        assert [each["severity"] for each in found] == ["warning", "note", "note", "warning"]
        assert late["detail"].startswith("schedule late was due ")
        assert "aragora-q schedule forget late" in late["remedy"]
        assert removed["detail"] == "schedule removed is not in this configuration"
        assert rests["detail"].endswith("ago by ann@host: holidays")
        assert wrong["detail"] == "the last job of schedule wrong was refused: group g is sealed"


class TestWebhooks:
    """What this host needs to deliver, and the messages that wait. No message is sent."""

    SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()

    def check(self, run_cli, tmp_path, **settings):
        """The findings about a webhook whose target is a public address, with other settings."""
        secret = tmp_path / "secret"
        if not secret.exists():
            secret.write_text(self.SECRET)
        settings = {"url": "https://8.8.8.8/", "secret_file": str(secret), **settings}
        lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
        path = _settings(tmp_path, f"[webhooks.acme]\n{lines}\n")
        return _found(run_cli("doctor", "--json", *path), "webhooks")

    def test_what_is_right(self, run_cli, tmp_path):
        """Nothing is found; a private address that is allowed is right, too."""
        assert self.check(run_cli, tmp_path) == []
        allowed = {"url": "https://10.1.2.3/", "allow_networks": ["10.0.0.0/8"]}
        assert self.check(run_cli, tmp_path, **allowed) == []

    @pytest.mark.parametrize(
        ("settings", "detail"),
        [
            ({"secret_file": "/nonexistent/secret"}, "cannot read /nonexistent/secret"),
            ({"ca_file": "/nonexistent/ca"}, "cannot use ca_file /nonexistent/ca"),
            ({"url": "https://10.1.2.3/"}, "refused: 10.1.2.3 is neither public nor in allow_networks"),
            ({"url": "https://name.invalid/"}, "the look-up of the name 'name.invalid' failed"),
        ],
    )  # fmt: skip
    def test_what_this_host_lacks(self, run_cli, tmp_path, settings, detail):
        """One warning each, with the name of the webhook and a remedy."""
        [found] = self.check(run_cli, tmp_path, **settings)
        assert (found["severity"], bool(found["remedy"])) == ("warning", True)
        assert found["detail"].startswith("webhook acme: ")
        assert detail in found["detail"]

    def test_a_malformed_secret_is_not_shown(self, run_cli, tmp_path):
        """The finding says what is wrong, without the secret."""
        (tmp_path / "secret").write_text("hush-hush")
        [found] = self.check(run_cli, tmp_path)
        assert "must begin with whsec_" in found["detail"]
        assert "hush" not in json.dumps(found)

    def test_a_credential_of_a_service_is_not_looked_for(self, run_cli, tmp_path, monkeypatch):
        """A shell has no credentials: only where systemd gives some, the file must be there."""
        assert self.check(run_cli, tmp_path, secret_file="acme-secret") == []
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        [found] = self.check(run_cli, tmp_path, secret_file="acme-secret")
        assert "acme-secret" in found["detail"]

    def test_messages_that_wait(self, run_cli, on_queue, redis_client, monkeypatch):
        """Of a webhook that this host lacks: a note; a warning once they are late, or it is disabled."""
        on_queue(_messages)

        def findings():
            return _found(run_cli("doctor", "--json"), "webhooks")

        [waits] = findings()
        assert waits["severity"] == "note"
        assert waits["detail"].startswith("1 message waiting for webhook ops, which is not in")
        redis_client.hset(
            _message(redis_client), "queued_at", redis_client.time()[0] * 1000 - 1_200_000
        )
        [late] = findings()
        assert late["severity"] == "warning"
        assert "has waited 20 min; 1 message waiting: no worker tries" in late["detail"]
        monkeypatch.setattr("aragora_q.doctor.webhooks.MAX_OUTBOX", 1)
        assert "from 1 on, new ones are dropped" in findings()[1]["detail"]
        on_queue(lambda harness: harness.queue.outbox.disable("ops", by="ann@host", reason="moved"))
        assert findings()[0]["detail"] == (
            "webhook ops is disabled by ann@host: moved; 1 message waiting"
        )


def test_an_unknown_cursor_is_a_usage_error(run_cli):
    """Only a cursor that an earlier check printed is accepted."""
    ended = run_cli("doctor", "--resume-from", "nowhere:x")
    assert ended.code == 2
    assert "--resume-from: 'nowhere:x' is not a cursor that a check has printed" in ended.err


class TestSurroundings:
    """Findings about server, settings, environment, units and workers."""

    def test_eviction_and_a_missing_append_only_file(self, run_cli, own_server):
        """Eviction is an error, a missing append-only file a warning; neither is reported after it is fixed."""
        server = own_server("--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb")
        url = ("--redis-url", server.url)
        checked = run_cli("doctor", "--json", *url)
        assert checked.code == 1
        assert _found(checked, "eviction")[0]["severity"] == "error"
        assert _found(checked, "persistence")[0]["severity"] == "warning"
        with server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendonly", "yes")
        assert run_cli("doctor", "--json", *url).object["findings"] == []

    @pytest.mark.parametrize(
        ("replicas", "needed", "severity", "words"),
        [(0, 1, "error", "has no replica"), (1, 2, "error", "has 1 replica: no"),
         (2, 2, None, ""), (2, 1, "note", "has 2 replicas, of which 1 must")],
    )  # fmt: skip
    def test_replicas_that_confirm(
        self, run_cli, own_server, monkeypatch, replicas, needed, severity, words
    ):
        """Too few replicas are an error, because no enqueue is confirmed; more than must confirm are noted."""
        primary = own_server("--appendonly", "yes", *AT_ONCE)
        for _ in range(replicas):
            replicate(own_server(), primary)
        args = ("doctor", "--json", "--redis-url", primary.url)
        monkeypatch.setenv("ARAGORA_QUEUE_DURABILITY_REPLICAS", str(needed))
        assert run_cli(*args).object["findings"] == []
        monkeypatch.setenv("ARAGORA_QUEUE_DURABILITY", "replica")
        found = run_cli(*args).object["findings"]
        assert [finding["severity"] for finding in found] == [severity] * bool(severity)
        assert words in "".join(finding["detail"] for finding in found)

    def test_a_nearly_full_server(self, run_cli, own_server):
        """More than 90 % of maxmemory is an error: enqueues will soon be refused."""
        server = own_server()
        with server.client() as client:
            client.setrange("ballast", 50_000_000, "x")
            client.config_set("maxmemory", client.info("memory")["used_memory"] * 105 // 100)
        found = _found(run_cli("doctor", "--json", "--redis-url", server.url), "memory")
        assert found[0]["severity"] == "error"

    @pytest.mark.parametrize(
        ("name", "remedy"),
        [("REDIS_PASWORD", "REDIS_PASSWORD"), ("ARAGORA_REDIS_URL", "REDIS_URL"),
         ("ARAGORA_Q_X", "config show")],
    )  # fmt: skip
    def test_variables_that_nothing_reads(self, run_cli, monkeypatch, name, remedy):
        """A variable whose name resembles a setting but is not one is reported."""
        monkeypatch.setenv(name, "x")
        [found] = _found(run_cli("doctor", "--json"), "environment")
        assert name in found["detail"]
        assert remedy in found["remedy"]

    @pytest.mark.parametrize(
        ("text", "is_found"),
        [("TimeoutStopSec=90", True), ("TimeoutStopSec=10min", True), ("TimeoutStopSec=10min 30s", False),
         ("TimeoutStopSec=infinity", False), ("", False)],
    )  # fmt: skip
    def test_a_unit_that_kills_before_the_drain_is_over(
        self, run_cli, monkeypatch, tmp_path, text, is_found
    ):
        """TimeoutStopSec, of the unit or a drop-in, must exceed drain_timeout_seconds (600)."""
        monkeypatch.setattr(checks, "UNIT_DIRECTORIES", (tmp_path,))
        (tmp_path / checks.UNIT).write_text("[Service]\nTimeoutStopSec=700\n")
        drop_in = tmp_path / f"{checks.UNIT}.d"
        drop_in.mkdir()
        (drop_in / "mine.conf").write_text(f"[Service]\n{text}\n")
        assert bool(_found(run_cli("doctor", "--json"), "unit")) == is_found

    def test_a_password_that_others_may_read(self, run_cli, own_server, tmp_path):
        """A configuration file with a password must be readable by its owner only."""
        url = ("--redis-url", own_server("--requirepass", "hush").url)
        path = tmp_path / "aragora-q.toml"
        path.write_text("redis_password = 'hush'\n")
        path.chmod(0o644)
        assert "chmod 600" in _found(run_cli("doctor", "--json", *url), "secrets")[0]["remedy"]
        path.chmod(0o600)
        assert _found(run_cli("doctor", "--json", *url), "secrets") == []

    def test_a_backlog_without_workers(self, run_cli, on_queue):
        """A backlog without a live worker is an error; with a worker it is not."""
        on_queue(lambda harness: harness.enqueue("waits"))
        assert _found(run_cli("doctor", "--json"), "workers")[0]["severity"] == "error"
        on_queue(lambda harness: harness.worker("w1"))
        assert _found(run_cli("doctor", "--json"), "workers") == []

    def test_missing_rights_are_listed_by_role(self, run_cli, own_server, monkeypatch):
        """Checked with ACL DRYRUN if that is allowed: each role that the user cannot have, and why."""
        server = own_server()
        with server.client() as client:
            client.execute_command(
                "ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-xadd", "-zadd"
            )
        monkeypatch.setenv("REDIS_URL", f"redis://limited:pw@127.0.0.1:{server.port}")
        found = _found(run_cli("doctor", "--json"), "rights")
        details = [finding["detail"] for finding in found]
        assert details == [
            f"user limited cannot be a {role}: not allowed to run xadd, zadd"
            for role in ("producer", "worker", "reaper", "purge")
        ]

    async def test_missing_rights_on_keys_of_the_gates_are_listed(self, own_server):
        """A user who may run every command, but not on the gates' keys: it cannot be a worker, and why."""
        server = own_server()
        with server.client() as client:
            client.execute_command(
                "ACL", "SETUSER", "old", "on", ">pw", "~aragora:queue:debates:*", "+@all"
            )
        config = QueueConfig(redis_url=f"redis://old:pw@127.0.0.1:{server.port}")
        queue, details = RedisStreamsQueue(config), []
        with suppress(AccessDenied):  # of the checks that follow
            async for finding in checks.check_all(queue):
                details += [finding.detail] if finding.check == "rights" else []
        await queue.close()
        assert details == [
            f"user old cannot be a {role}: not allowed to {use} aragora:queue:{{gates}}:{key}"
            for role, use, key in (
                ("producer", "GET", "group:debates/g"),
                ("worker", "SET", "policy"),
                ("reaper", "SET", "policy"),
                ("stats", "GET", "policy"),
            )
        ]

    def test_an_unsupported_server_is_the_only_finding(self, run_cli, own_server):
        """A server too old for the scripts is reported with the remedy; its data is not checked."""
        server = own_server(binary=servers.redis62)
        ended = run_cli("doctor", "--json", "--redis-url", server.url)
        [found] = ended.object["findings"]
        assert (ended.code, found["severity"], found["check"]) == (1, "error", "server")
        assert "Redis 7.0+ or Valkey 7.2+ is required" in found["detail"]
        assert "upgrade" in found["remedy"]

    def test_an_unreachable_server_is_an_error(self, run_cli):
        """Exit 69, as with every command."""
        assert run_cli("doctor", "--redis-url", "redis://127.0.0.1:1").code == 69


def test_the_text_fits_eighty_columns(run_cli, on_queue, redis_client):
    """Severity, check and detail, then the remedy, in lines of at most 80 columns."""
    on_queue(_jobs)
    BREAKS["unlisted"](redis_client)
    ended = run_cli("doctor")
    assert max(map(len, ended.lines)) <= 80
    assert "error   data: 1 job: has ended, but is in no index" in ended.out


@pytest.mark.parametrize(
    "name",
    [
        *("stream:low", "events", "bell", "failed", "control", "labels", "groups"),
        *(f"{GATES}{name}" for name in ("declared", "overrides", "reservations")),
    ],
)
def test_a_key_of_another_type_is_named(run_cli, on_queue, redis_client, name):
    """The key, its type and the right one: without that, no command can say more than WRONGTYPE."""
    on_queue(_jobs)
    key = name if name.startswith(GATES) else f"{PREFIX}{name}"
    redis_client.delete(key)
    redis_client.setbit(key, 1, 1)
    ended = run_cli("doctor", "--json")
    [finding] = _found(ended, "keys")
    assert finding["severity"] == "error"
    assert finding["detail"].startswith(f"{key} is a string, must be a ")
    assert (ended.code, ended.err) == (1, "")
    refused = run_cli("stats")
    if refused.code:
        assert "aragora-q doctor names the key" in refused.err
