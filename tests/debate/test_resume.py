"""An interrupted debate resumes where it was: no finished call is paid for twice."""

import asyncio
import copy
import json
import os
import threading
from collections import Counter

import pytest
from support.forked_workers import Workers
from support.memory_session import MemorySession, result_of
from support.processes import cli, env, is_running
from support.queue_harness import LEASE_MS, QueueHarness
from support.scripted_agents import THREE, saying
from support.wait import wait_until_sync

from aragora_q.base import JobStatus
from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import Completed
from aragora_q.errors import PermanentError
from aragora_q.job import create_debate_job
from aragora_q.streams.queue import RedisStreamsQueue

SEATS, ROUNDS = 3, 3
CALLS = SEATS * (2 + 2 * ROUNDS)
SECOND_KEY = "of-the-second"
"""The API key of workers that resume debates; that of the first ones is in the environment."""


class HeldCalls:
    """A stub's fault function: holds every debate's n-th call, where n is the debate's number.

    It holds it until `released` is set, however long the others take: a call that ends without a reply is tried
    again, which costs an attempt.
    """

    def __init__(self):
        self.asked = Counter()
        self.reached = set()
        self.released = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, number, model):
        debate = int(model.partition("-")[0])
        with self._lock:
            self.asked[debate] += 1
            if debate not in self.reached and self.asked[debate] >= debate:
                self.reached.add(debate)
                return lambda handler: self.released.wait()
        return None


def queue_settings(redis_url, stub, debate):
    """Settings of a queue with one debate; its agents' models have names that no other debate uses."""
    return {
        "redis_url": redis_url,
        "queue": f"debate-{debate}",
        "claim_idle_ms": LEASE_MS,
        "concurrency": 1,
        "metrics_port": 0,
        "agents": {
            f"agent-{seat}": stub.agent(
                "openai" if seat else "anthropic", f"{debate}-{seat}", timeout_seconds=600
            )
            for seat in range(SEATS)
        },
    }


async def enqueue(settings, debate):
    queue = RedisStreamsQueue(QueueConfig(**settings))
    job = create_debate_job(
        "Tea or coffee?", list(settings["agents"]), ROUNDS, job_id=f"d{debate}", timeout_seconds=600,
        debate="always",
    )  # fmt: skip
    await queue.enqueue(job)
    return queue


def journalled(queue, redis_client, debate):
    """Names of the calls that are in the debate's journal."""
    fields = redis_client.hkeys(queue.connection.keys.journal(f"d{debate}"))
    return {field for field in fields if field.startswith("checkpoint:call/")}


def calls_with(stub, key):
    """How many calls of each debate came with this API key."""
    calls = [each for each in stub.asked if key in str(each["headers"])]
    return Counter(int(each["model"].partition("-")[0]) for each in calls)


async def end_lease(redis_client, settings, debate):
    """Let the lease of the debate's dead worker end."""
    harness = QueueHarness(
        settings["redis_url"], client=redis_client, queue=settings["queue"], claim_idle_ms=LEASE_MS
    )
    harness.stop_heartbeat(f"first-{debate}", 1_000)
    harness.backdate(f"d{debate}")
    await harness.close_queues()


@pytest.mark.timeout(240)
async def test_24_debates_killed_at_24_calls_pay_no_finished_call_twice(
    new_stub, redis_url, redis_client, tmp_path
):
    """kill -9 of workers at call 1, 2, … 24: each debate completes once, and is charged no attempt.

    After the kill exactly the calls that are missing in the journal are made; at most the calls in
    flight (one per seat) were lost.
    """
    held = HeldCalls()
    stub = new_stub(fault=held)
    workers = Workers(tmp_path / "log", dict(os.environ))
    others = Workers(tmp_path / "log", {**os.environ, "STUB_KEY": SECOND_KEY})
    queues, settings, pids = {}, {}, {}
    try:
        for debate in range(1, CALLS + 1):
            settings[debate] = queue_settings(redis_url, stub, debate)
            queues[debate] = await enqueue(settings[debate], debate)
            pids[debate] = workers.start(f"first-{debate}", **settings[debate])
        wait_until_sync(lambda: len(held.reached) == CALLS, 100, "all debates to reach their call")
        for pid in pids.values():
            workers.kill(pid)
        wait_until_sync(lambda: not any(map(is_running, pids.values())), what="the workers to die")
        finished = {n: journalled(queues[n], redis_client, n) for n in queues}
        held.released.set()
        for debate in queues:
            await end_lease(redis_client, settings[debate], debate)
            others.start(f"second-{debate}", **settings[debate])

        def completed():
            return sum(
                redis_client.zcard(queue.connection.keys.completed) for queue in queues.values()
            )

        wait_until_sync(lambda: completed() == CALLS, 100, "all debates to complete")
        # By key, not by time: what a killed worker has sent may arrive after its end.
        asked, again = calls_with(stub, os.environ["STUB_KEY"]), calls_with(stub, SECOND_KEY)
        for debate, queue in queues.items():
            job = await queue.get_job(f"d{debate}")
            assert (job.status, job.crashes, job.attempts) == (JobStatus.COMPLETED, 1, 1)
            assert 0 < asked[debate] - len(finished[debate]) <= SEATS
            assert again[debate] == CALLS - len(finished[debate])
            assert job.result["token_usage"]["requests"] == CALLS
            assert job.result["error"] is None
            assert redis_client.hget(queue.connection.keys.counters, "completed") == "1"
            ttl = redis_client.pttl(queue.connection.keys.journal(f"d{debate}"))
            assert ttl > 6 * 86_400_000  # the journal lives as long as the rest of the job
    finally:
        held.released.set()
        workers.close()
        others.close()
        for queue in queues.values():
            await queue.close()


@pytest.mark.parametrize("stop_at", range(1, CALLS + 1))
async def test_an_attempt_that_is_cut_off_leaves_its_finished_calls(
    run_debate, stop_at, monkeypatch
):
    """After a deploy, a cancel or a lost lease at any call, the next attempt makes only the missing calls."""
    from aragora_q.executors.debate import demo, labels

    monkeypatch.setattr(labels, "draw_nonce", lambda *material: "c0ffee11")
    calls = []
    reply = demo.DemoAgent.reply

    async def counted(self, task, manner, max_output_tokens=None):
        calls.append((self.name, task))
        if len(calls) == stop_at:
            await asyncio.Event().wait()
        return await reply(self, task, manner)

    monkeypatch.setattr(demo.DemoAgent, "reply", counted)
    agents = [f"demo:{persona}" for persona in demo.PERSONAS]
    session = MemorySession()
    fields = {"agents": agents, "debate": "always"}
    running = asyncio.create_task(run_debate(session=session, **fields))
    while len(calls) < stop_at or running.done():
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)  # the others of the phase finish
    running.cancel()
    await running
    finished = [name for name in session.kept if name.startswith("call/")]
    before = len(calls)
    outcome, _, result = await run_debate(session=session, **fields)
    assert isinstance(outcome, Completed)
    assert len(calls) - before == CALLS - len(finished)
    assert result["token_usage"]["requests"] == CALLS
    uninterrupted = (await run_debate(**fields))[2]
    for each in (result, uninterrupted):
        del each["duration_seconds"], each["record"]["started_at"]
        for seat in each["seats"]:
            del seat["seconds"], seat["median_seconds"]
    assert result == uninterrupted


async def test_an_outage_of_redis_loses_no_call_that_was_paid(
    seat_scripted_agents, run_debate, monkeypatch, caplog
):
    """A reply that cannot be stored waits until it can, and a log line says so: the attempt neither ends
    nor is charged.
    """
    from aragora_q.errors import RedisUnreachable
    from aragora_q.executors.debate.requests import Propose
    from aragora_q.worker import attempt

    monkeypatch.setattr(attempt, "CHECKPOINT_RETRY_SECONDS", 0.01)
    session = MemorySession()

    def reply(task):
        if isinstance(task, Propose):  # the server goes away while the agent thinks
            session.refuse_with += [RedisUnreachable("away")] * 3
            return saying("tea")(task)
        raise AssertionError("all answers are the same: nothing more to ask")

    seat_scripted_agents(ann=reply, bob=reply)
    outcome, _, result = await run_debate(agents=["ann", "bob"], session=session)
    assert isinstance(outcome, Completed)
    assert result["token_usage"]["requests"] == 2
    assert len([name for name in session.kept if name.startswith("call/")]) == 2
    warnings = [record for record in caplog.records if "checkpoint not saved" in record.message]
    assert 1 <= len(warnings) <= 2, "once a checkpoint"
    assert warnings[0].error == "away"


def test_a_released_debate_goes_on_in_the_next_worker(new_stub, redis_url, redis_client, tmp_path):
    """A worker stopped by SIGTERM without time to drain: a deploy costs no attempt and no call."""
    import signal
    import subprocess

    held = HeldCalls()
    stub = new_stub(fault=held)
    settings = queue_settings(redis_url, stub, 8)

    async def put():
        queue = await enqueue(settings, 8)
        await queue.close()
        return queue

    queue = asyncio.run(put())
    toml = tmp_path / "agents.toml"
    rows = [
        f"{name} = {{ {', '.join(f'{k} = {v!r}' for k, v in agent.items())} }}"
        for name, agent in settings["agents"].items()
    ]
    toml.write_text("[agents]\n" + "\n".join(rows))
    command = cli("worker", "--queue", "debate-8", "--config", str(toml), "--metrics-port", "0")
    variables = env(REDIS_URL=redis_url, ARAGORA_QUEUE_DRAIN_TIMEOUT_SECONDS="0")
    log = (tmp_path / "log").open("ab")
    first = subprocess.Popen(command, env=variables, stderr=log)
    try:
        wait_until_sync(lambda: held.reached, 60, "the worker to reach its call")
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == -signal.SIGTERM
    finally:
        first.kill()
    assert redis_client.hmget(queue.connection.keys.job("d8"), "status", "attempts") == [
        "pending",
        "0",
    ]
    finished = journalled(queue, redis_client, 8)
    held.released.set()
    variables["STUB_KEY"] = SECOND_KEY
    subprocess.run([*command, "--burst"], env=variables, stderr=log, check=True, timeout=60)
    log.close()
    assert redis_client.hget(queue.connection.keys.job("d8"), "status") == "completed"
    assert calls_with(stub, SECOND_KEY)[8] == CALLS - len(finished)
    text = (tmp_path / "log").read_text()
    assert "debate phase done" in text
    assert "sk-secret" not in text


class Small(MemorySession):
    """Has room for so many bytes, as a job's journal in Redis has for 4 MiB."""

    def __init__(self, max_bytes):
        super().__init__()
        self.max_bytes = max_bytes

    async def checkpoint(self, job, name, value):
        kept = {**self.kept, name: value}
        if len(json.dumps(kept)) > self.max_bytes:
            raise PermanentError(f"checkpoints exceed {self.max_bytes} bytes with {name!r}")
        await super().checkpoint(job, name, value)


@pytest.mark.parametrize("max_bytes", range(1_000, 9_000, 500))
async def test_a_debate_whose_journal_is_full_decides_with_what_it_has(
    seat_scripted_agents, run_debate, max_bytes
):
    """What was paid for is not lost: the replies under way count, nothing else is asked, and the result or
    the failed job with its answers says why. An agent is not blamed.
    """
    agents = seat_scripted_agents(**{name: saying(name, choice="ann") for name in THREE})
    outcome, _, _ = await run_debate(
        agents=THREE, rounds=2, debate="always", session=Small(max_bytes)
    )
    result = result_of(outcome)
    asked = sum(len(agent.asked) for agent in agents.values())
    assert result["token_usage"]["requests"] == asked
    assert "dropped" not in (result["error"] or "")
    assert [row["verdict"] for row in result["first_votes"]] == THREE[:asked]
    if asked == 18:
        assert isinstance(outcome, Completed)
    else:
        assert result["ended_by"] == "journal_full" or asked >= 15
        assert "journal was full, so no more replies were asked for" in result["error"]


def damaged(kept):
    """Journals as another version, or a bug, might leave them: one field changed at a time."""
    for name, entry in kept.items():
        if name.startswith("call/") and not name.endswith(".0.0"):
            continue  # one seat is enough
        for field in entry:
            yield f"{name} {field}", {**kept, name: {n: v for n, v in entry.items() if n != field}}
            yield f"{name} {field}", {**kept, name: {**entry, field: {"x": 1}}}
        for field in entry.get("value", ()):
            if field != "answer":
                changed = {**entry, "value": {**entry["value"], field: {"x": 1}}}
                yield f"{name} value {field}", {**kept, name: changed}
    for name in ("call/", "call/vote", "call/x.y.z", "dropped/x", "decision/", "life/", ""):
        yield f"new {name!r}", {**kept, name: {"x": 1}}


async def test_a_damaged_journal_is_asked_again_where_it_is_damaged(
    seat_scripted_agents, run_debate
):
    """Whatever a journal holds, the debate completes; good entries stay and are not asked for again."""

    def agents():
        return seat_scripted_agents(**{name: saying(name, choice="ann") for name in THREE})

    fields = {"agents": THREE, "rounds": 1, "debate": "always", "timeout_seconds": 1000}
    agents()
    _, whole, _ = await run_debate(**fields)
    calls = sum(name.startswith("call/") for name in whole.kept)
    for what, kept in damaged(whole.kept):
        made, session = agents(), MemorySession(copy.deepcopy(kept))
        outcome, _, result = await run_debate(session=session, **fields)
        assert isinstance(outcome, Completed), (what, outcome)
        asked = sum(len(agent.asked) for agent in made.values())
        if not what.startswith("begun"):  # with another nonce, all prompts are others
            assert asked <= 1 + 3 * what.startswith("call/"), what
        assert result["token_usage"]["requests"] <= calls + asked
        assert result["verdict"] == "ann"
        assert all(
            session.kept[name] == each for name, each in kept.items() if name.startswith("call/")
        )
