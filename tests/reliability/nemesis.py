"""Workers, a server, and a nemesis that injects random faults into both; writes a history to judge.

    python tests/reliability/nemesis.py --seconds 1800 --seed 7 --history /tmp/history.jsonl [--sentinel]

It judges nothing: `checker.py` does, from the history alone. Faults: workers killed, frozen for longer
than their lease, stopped politely; connections killed, reset, black-holed, replies dropped after the command
was executed; the server frozen, killed and restarted on its append-only file, its writes paused, its scripts
flushed; all lanes flooded at once. With `--sentinel` there are three servers and three Sentinels, no proxy,
and failovers that lose the last writes. Jobs fail, ask for a retry, ignore cancellations, and block the
event loop for longer than a lease. Some are cancelled, purged and enqueued again under the same id. Others are
in groups, most of which are sealed with a job that follows them, some cancelled or requeued. Some are held for
a moment, by a person in any state, or by their executors. On one server jobs also make paid calls to a provider
that bills (`support.paying`), under a budget that is set and reset. Two schedules are due every 5 s; one of
them is paused and resumed. Ends of some jobs and groups are reported to a webhook, whose target often fails.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import redis
from support import every_seconds, invariants, processes, servers, topologies
from support.certificates import Certificates
from support.proxy import Proxy
from support.receivers import Receiver, answer, hang
from support.servers import CLIENT_OPTIONS
from support.wait import wait_until
from support.worker_processes import WorkerProcess

from aragora_q import codec
from aragora_q.base import Job, JobStatus
from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import BudgetConfig
from aragora_q.errors import TRANSIENT_ERRORS, GroupNotFound, GroupSealed, JobNotFound
from aragora_q.gates.policy import budget_rule
from aragora_q.money import MICROS
from aragora_q.streams.queue import RedisStreamsQueue

WORKERS, SLOTS = 4, 6
LEASE_MS = 2000
SETTLE_SECONDS = 120
PREFIX = "aragora:queue:debates:"
STREAMS = {
    "high": f"{PREFIX}stream:high",
    "normal": f"{PREFIX}stream",
    "low": f"{PREFIX}stream:low",
}
GATES = "aragora:queue:{gates}:"
MONEY = f"{GATES}spent:money:total"
DECLARED_USD = 1.0
"""The limit of the budget `money` while it is not set."""

STEADY, PAUSED = "steady", "paused"
"""Schedules: one that always enqueues, one that is paused and resumed."""

CONFIGURATION = f"""
[budgets.money]
limit_usd = {DECLARED_USD}
window = "total"

[budgets.agents]
limit_usd = 1000
window = "month"
scope = "agent"
on_full = "fail"

[schedules.{STEADY}]
cron = "* * * * *"
job = {{ payload = {{ do = [["note"]] }} }}

[schedules.{PAUSED}]
cron = "* * * * *"
job = {{ payload = {{ do = [["note"]] }} }}

"""
HOOK = "receiver"
NOTIFY = (HOOK,)
SEND_SECONDS = 3.0
NOTIFYING = 0.15
"""The share of jobs that report their end."""

PRIORITIES = {"high": 1, "normal": 0, "low": -1}
GROUP = "aragora-workers"
FLOOD_JOBS = 150
BUSY_JOBS = WORKERS * SLOTS
"""A lane in which more jobs wait is busy: it stays so while events are read."""

DOWN_MS = 3000
"""Longer than a server freezes: no failovers but those that the history records."""

FAILOVER_PAUSE_SECONDS = 12.0
"""Sentinels do not repeat a failover sooner."""


class History:
    """Lines of JSON, in the order in which they happened."""

    def __init__(self, path):
        self._file = Path(path).open("w")  # noqa: SIM115 - open as long as we are

    def add(self, what, **facts):
        self._file.write(json.dumps({"at": round(time.time(), 3), "what": what, **facts}) + "\n")
        self._file.flush()


class OneServer:
    """A server with an append-only file; every second worker, and the client, reach it through a proxy."""

    settings = {}  # noqa: RUF012
    has_money = True
    """Nothing is lost here, so what is booked is exact."""

    def __init__(self):
        self.server = servers.Server(
            servers.any_server(), "--appendonly", "yes", "--appendfsync", "always",
            "--enable-debug-command", "yes",
        )  # fmt: skip

    async def start(self):
        self.server.start()
        self.proxy = await Proxy(self.server.port).start()
        self.url = self.proxy.url

    def environment(self, number):
        return processes.env(REDIS_URL=self.proxy.url if number % 2 else self.server.url)

    def primary(self):
        return self.server

    async def stop(self):
        await self.proxy.stop()
        self.server.stop()


class WithSentinels:
    """A primary, two replicas, three Sentinels; replication is asynchronous, so a failover loses writes."""

    has_money = False

    async def start(self):
        self.topology = await asyncio.to_thread(topologies.Sentinels, down_ms=DOWN_MS)
        self.url, self.settings = self.topology.url, self.topology.settings

    def environment(self, _number):
        return topologies.environment(self.topology)

    def primary(self):
        return self.topology.primary()

    async def stop(self):
        self.topology.stop()


class Nemesis:
    def __init__(self, seconds, seed, history, directory, *, sentinel=False):
        self.seconds, self.random = seconds, random.Random(seed)
        self.history, self.directory = History(history), Path(directory)
        self.deployment = WithSentinels() if sentinel else OneServer()
        self.workers = []
        self.enqueued = 0
        self.recent = deque(maxlen=60)
        """Ids of the jobs that were enqueued last."""
        self.next_failover_at = 0.0
        self.is_healed = False
        self.receiver = Receiver(Certificates(self.directory), self._answer)
        self.webhook = self.receiver.webhook(self.directory, timeout_seconds=1)
        self.history.add("seed", seed=seed, seconds=seconds, sentinel=sentinel)

    async def run(self):
        await self.deployment.start()
        try:
            self.workers = [self._worker(n) for n in range(WORKERS)]
            await self._plan_schedules()
            works = [self._enqueue, self._replace_jobs, self._run_groups, self._hold_jobs]
            works.append(self._pause_schedule)
            if self.deployment.has_money:
                works.append(self._change_money)
            works.append(self._record_events)
            background = [asyncio.create_task(work()) for work in works]
            try:
                await self._break_things()
                for client in background[:-1]:
                    client.cancel()
                await asyncio.gather(*background[:-1], return_exceptions=True)
                self.history.add("healed")
                self.is_healed = True
                await self._end_schedules()
                await self._settle()
                await asyncio.sleep(0.5)
            finally:
                for task in background:
                    task.cancel()
                results = await asyncio.gather(*background, return_exceptions=True)
            for result in results:
                if not isinstance(result, asyncio.CancelledError):
                    self.history.add("nemesis failed", error=repr(result))
            self._conclude()
        finally:
            for worker in self.workers:
                if worker.is_alive:
                    worker.kill()
            self.receiver.close()
            await self.deployment.stop()

    def _worker(self, n):
        environment = {
            **self.deployment.environment(n),
            "RUN_LOG_FILE": str(self.directory / "runs"),
            "BILLS_FILE": str(self.directory / "bills"),
            "ARAGORA_QUEUE_MAX_CRASHES": "1000",
            "ARAGORA_QUEUE_DRAIN_TIMEOUT_SECONDS": "0.3",
            "ARAGORA_QUEUE_LOG_LEVEL": "warning",
        }
        configuration = self.directory / "aragora-q.toml"
        hook = self.webhook.model_dump(mode="json", exclude_unset=True)
        rows = "".join(f"{name} = {json.dumps(value)}\n" for name, value in hook.items())
        configuration.write_text(f"{CONFIGURATION}[webhooks.{HOOK}]\n{rows}")
        return WorkerProcess(
            self.directory,
            f"w{n}",
            environment,
            "--config",
            str(configuration),
            lease_ms=LEASE_MS,
            slots=SLOTS,
            executor="support.every_seconds:make",
        ).start()

    def _client(self, **options):
        return self.deployment.primary().client(**{**CLIENT_OPTIONS, **options})

    def _queue(self):
        config = QueueConfig(
            redis_url=self.deployment.url,
            claim_idle_ms=LEASE_MS,
            webhooks={HOOK: self.webhook},
            **self.deployment.settings,
        )
        return RedisStreamsQueue(config)

    async def _repeat(self, call, what, **facts):
        """The result of a call that is repeated until it is acknowledged."""
        while True:
            try:
                async with asyncio.timeout(3):
                    return await call()
            except (*TRANSIENT_ERRORS, TimeoutError) as error:
                self.history.add(what, answer=type(error).__name__, **facts)
                await asyncio.sleep(0.1)

    async def _enqueue(self):
        """Enqueue jobs of all kinds, up to 60 a second."""
        queue = self._queue()
        try:
            while True:
                await self._enqueue_jobs(queue, [self._any_job()])
                await asyncio.sleep(self.random.uniform(0, 0.03))
        finally:
            await queue.close()

    async def _enqueue_jobs(self, queue, jobs):
        await self._repeat(lambda: queue.enqueue_many(jobs), "enqueue", id=jobs[0].id)
        for job in jobs:
            self.recent.append(job.id)
            self.history.add(
                "enqueue",
                id=job.id,
                answer="ok",
                do=job.payload["do"],
                group=job.group,
                notify=bool(job.notify),
            )

    async def _replace_jobs(self):
        """Cancel jobs, purge them, and enqueue others with the same ids, whose old attempts may still run."""
        queue, number = self._queue(), 0
        try:
            while True:
                job = self._job("replaced", [["note"], ["swallow", 1.0]], number=number)
                await self._enqueue_jobs(queue, [job])
                await asyncio.sleep(self.random.uniform(0, 0.8))
                status = None
                with suppress(JobNotFound):  # whether a failover explains that, the checker judges
                    await self._repeat(
                        lambda job_id=job.id: queue.cancel(job_id), "cancel", id=job.id
                    )
                    status = await self._repeat(
                        lambda job_id=job.id: queue.get_status(job_id), "status", id=job.id
                    )
                if status is not JobStatus.CANCELLED:
                    number += 1
                    continue
                self.history.add("purge", id=job.id)
                await asyncio.sleep(0.005)
                await self._repeat(
                    lambda: queue.purge(JobStatus.CANCELLED, older_than_seconds=0), "purging"
                )
        finally:
            await queue.close()

    async def _hold_jobs(self):
        """Hold some jobs that were enqueued lately, free them a moment later, and those that executors held."""
        queue = self._queue()
        try:
            while True:
                await asyncio.sleep(self.random.uniform(0, 0.5))
                ids = self.random.sample(list(self.recent), min(len(self.recent), 5))
                await self._repeat(lambda ids=ids: queue.hold_many(ids, reason="nemesis"), "hold")
                await asyncio.sleep(self.random.uniform(0, 1.0))
                await self._repeat(lambda ids=ids: queue.unhold_many(ids), "unhold")
                page = await self._repeat(lambda: queue.list_held(("budget",)), "list held")
                budget = [job.id for job in page.jobs]
                await self._repeat(lambda ids=budget: queue.unhold_many(ids, ("budget",)), "unhold")
        finally:
            await queue.close()

    async def _plan_schedules(self):
        """Wait until workers have planned the first time of each schedule, and record it."""
        queue = self._queue()

        async def are_planned():
            states = (await queue.schedules.read()).states
            planned = {name: state.next_at for name, state in states.items() if state.next_at}
            return planned if len(planned) == 2 else None

        try:
            first = await wait_until(are_planned, 60, "schedules to be planned")
        finally:
            await queue.close()
        for name, at in first.items():
            self.history.add("planned", schedule=name, first=round(at))

    async def _end_schedules(self):
        """Record what became of the times until now, once no more is to come, and let none follow."""
        queue, healed_at = self._queue(), time.time()

        async def states():
            read = await self._repeat(queue.schedules.read, "reading")
            return read.states if read.states[STEADY].last_at >= healed_at else None

        try:
            for name, state in (await wait_until(states, 60, "the times until now")).items():
                self.history.add(
                    "schedule ended",
                    name=name,
                    last=round(state.last_at),
                    missed=state.missed,
                    every=every_seconds.SECONDS,
                )
                await self._repeat(lambda name=name: queue.schedules.pause(name), "pause")
        finally:
            await queue.close()

    async def _pause_schedule(self):
        """Pause a schedule for some of its times, and resume it. `began`: when the call was sent first."""
        queue = self._queue()
        try:
            while True:
                for verb in ("pause", "resume"):
                    await asyncio.sleep(self.random.uniform(1, 3 * every_seconds.SECONDS))
                    call, began = getattr(queue.schedules, verb), time.time()
                    await self._repeat(lambda call=call: call(PAUSED), verb)
                    self.history.add("schedule", name=PAUSED, verb=verb, began=round(began, 3))
        finally:
            await queue.close()

    async def _run_groups(self):
        """Enqueue groups of jobs; seal most of them with a job that follows; cancel and requeue some."""
        queue, number = self._queue(), 0
        try:
            while True:
                number += 1
                then = self._job("then", [["note"]], number=number)
                await self._run_group(queue, f"many{number}", then)
                await asyncio.sleep(self.random.uniform(0, 0.3))
        finally:
            await queue.close()

    async def _run_group(self, queue, group, then):
        jobs = [self._any_job("many", group=group) for _ in range(self.random.randint(1, 9))]
        ids = [job.id for job in jobs]
        await self._enqueue_jobs(queue, jobs)
        await asyncio.sleep(self.random.uniform(0, 0.6))
        fate = self.random.choice(["open", "seal", "seal", "seal", "requeue", "end", "cancel"])
        if fate == "open":
            return
        try:
            await self._repeat(lambda: queue.seal_group(group, then, notify=NOTIFY), "sealing")
        except GroupNotFound:  # whether a failover explains that, the checker judges
            return
        self.history.add("seal", group=group, then=then.id)
        late = self._job("late", [["note"]], group=group)
        with suppress(GroupSealed):
            await self._repeat(lambda: queue.enqueue(late), "enqueue", id=late.id)
            self.history.add("late", id=late.id, group=group)
        if fate in ("end", "cancel"):
            self.history.add("cancel group", group=group, fate=fate)
        if fate == "cancel":
            await self._repeat(
                lambda: queue.connection.run(
                    "cancel_group",
                    group=group,
                    retention_ms=queue.config.retention_ms,
                    by="",
                    reason="",
                ),
                "cancelling",
            )
        if fate in ("end", "cancel"):
            await self._repeat(lambda: queue.cancel_many(ids), "cancelling")
        if fate in ("end", "requeue"):
            await asyncio.sleep(self.random.uniform(0, 0.6))
            self.history.add("requeue", group=group)
            await self._repeat(lambda: queue.requeue(ids), "requeuing")

    def _job(self, kind, steps, number=None, lane="normal", **fields):
        if number is None:
            self.enqueued += 1
            number = self.enqueued
        return Job(
            payload={"do": steps},
            id=f"{kind}-{lane}-{number}",
            priority=PRIORITIES[lane],
            max_attempts=3,
            **fields,
        )

    def _any_job(self, kind="any", **fields):
        steps = [["note"]]
        roll = self.random.random()
        if roll < 0.15:
            steps.append(["fail", self.random.randint(1, 2)])
        elif roll < 0.25:
            steps.append(["later", self.random.randint(1, 2)])
        elif roll < 0.27:
            steps.append(["hold", 1])
        elif roll < 0.3:
            steps.append(self.random.choice([["permanent"], ["permanent", {"roll": roll}]]))
        if self.deployment.has_money and self.random.random() < 0.5:
            steps.append(["pay", self.random.randint(1, 4)])
        if roll > 0.998:
            steps.append(["block", LEASE_MS / 1000 * 1.5])
        elif roll > 0.98:
            steps.append(["swallow", self.random.choice([1.0, 8.0])])
        steps.append(["sleep", self.random.choice([0, 0.01, 0.1, 0.5, 2.0 if roll > 0.95 else 0])])
        return self._job(
            kind,
            steps,
            lane=self.random.choice(["normal", "normal", "normal", "high", "low"]),
            delay_seconds=self.random.choice([0, 0, 0, 0.5]),
            notify=NOTIFY if self.random.random() < NOTIFYING else (),
            **fields,
        )

    async def _break_things(self):
        faults = [
            self.kill_a_worker, self.freeze_a_worker, self.stop_a_worker, self.kill_connections,
            self.freeze_the_server, self.pause_writes, self.forget_scripts, self.flood_all_lanes,
        ]  # fmt: skip
        if isinstance(self.deployment, WithSentinels):
            faults += [self.fail_over] * 3
        else:
            faults += [
                self.drop_replies,
                self.cut_connections,
                self.blackhole,
                self.restart_the_server,
            ]
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            await asyncio.sleep(self.random.uniform(0.1, 1.0))
            fault = self.random.choice(faults)
            if fault == self.fail_over and time.monotonic() < self.next_failover_at:
                continue
            began = time.time()
            with suppress(redis.RedisError):
                worker = await fault()
                self.history.add(
                    "fault",
                    name=fault.__name__,
                    worker=worker.worker_id if worker else None,
                    began=round(began, 3),
                )

    async def _change_money(self):
        """Set the budget `money` a little above or below what is spent, reset it, and look what is spent."""
        queue = self._queue()
        gates = queue.connection.for_gates()
        try:
            while True:
                spent, _, _ = await self._money(gates)
                await self._set_budget(gates, spent / MICROS + self.random.uniform(-0.5, 6.0))
                for _ in range(self.random.randint(1, 20)):
                    await self._money(gates)
                    await asyncio.sleep(0.05)
        finally:
            await gates.close()
            await queue.close()

    async def _money(self, gates):
        """Spent, reserved and overrun of the budget, which are noted."""
        fields = ("spent", "reserved", "overrun")
        values = await self._repeat(lambda: gates.execute("HMGET", MONEY, *fields), "looking")
        amounts = [int(value or 0) for value in values]
        self.history.add("money", **dict(zip(fields, amounts, strict=True)))
        return amounts

    async def _set_budget(self, gates, usd):
        is_reset = usd <= 0 or self.random.random() < 0.1
        usd = DECLARED_USD if is_reset else usd
        value = b""
        if not is_reset:
            rule = budget_rule(BudgetConfig(limit_usd=usd, window="total"))
            value = codec.encode({"rule": rule})
        self.history.add("limit", micros=round(usd * MICROS))  # perhaps from now on
        await self._repeat(
            lambda: gates.run(
                "gate_override",
                kind="budget",
                name="money",
                value=value,
                by="",
                reason="",
                detail="",
            ),
            "setting",
        )

    def _answer(self, connection):
        """What the target of the webhook does after each message; it never says that it wants no more."""
        roll = 1.0 if self.is_healed else random.random()
        if roll < 0.1:
            hang(connection)
        elif roll < 0.3:
            answer(503)(connection)
        elif roll > 0.4:
            answer(204)(connection)

    def _any_worker(self):
        return self.random.choice(self.workers)

    async def kill_a_worker(self):
        worker = self._any_worker()
        worker.kill()
        worker.start()
        return worker

    async def freeze_a_worker(self):
        worker = self._any_worker()
        worker.signal(signal.SIGSTOP)
        await asyncio.sleep(LEASE_MS / 1000 * self.random.uniform(1.2, 3))
        worker.signal(signal.SIGCONT)
        return worker

    async def stop_a_worker(self):
        worker = self._any_worker()
        worker.signal(signal.SIGTERM)
        await asyncio.to_thread(worker.process.wait, 40)
        worker.start()
        return worker

    async def kill_connections(self):
        with self._client(socket_timeout=5) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal")

    async def drop_replies(self):
        self.deployment.proxy.mode, self.deployment.proxy.match = (
            "drop_reply",
            self.random.choice([b"", b"EVALSHA"]),
        )
        await asyncio.sleep(self.random.uniform(0.1, 0.6))
        self.deployment.proxy.mode = "pass"

    async def cut_connections(self):
        self.deployment.proxy.cut()

    async def blackhole(self):
        self.deployment.proxy.mode = "blackhole"
        await asyncio.sleep(self.random.uniform(0.2, 1.5))
        self.deployment.proxy.mode = "pass"
        self.deployment.proxy.cut()  # what was swallowed never comes: end the connections that wait for it

    async def freeze_the_server(self):
        process = self.deployment.primary().process
        is_single = isinstance(self.deployment, OneServer)
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.random.uniform(0.2, LEASE_MS / 1000 * 1.5 if is_single else 0.5))
        process.send_signal(signal.SIGCONT)

    async def restart_the_server(self):
        self.deployment.server.kill()
        await asyncio.sleep(self.random.uniform(0, 1.5))
        await asyncio.to_thread(self.deployment.server.start)

    async def fail_over(self):
        """Part the replicas from the primary for a moment, then kill it: what it wrote since then is lost."""
        topology = self.deployment.topology
        old = topology.primary()
        replicas = [server for server in topology.servers if server is not old]
        began = time.time()
        for replica in replicas:
            with replica.client() as client:
                client.config_set("masterauth", "wrong")
                client.execute_command("CLIENT", "KILL", "TYPE", "master")
        await asyncio.sleep(self.random.uniform(0.1, 1.0))
        old.kill()
        for replica in replicas:
            with replica.client() as client:
                client.config_set("masterauth", topologies.PASSWORD)

        def has_new_primary():
            with suppress(redis.RedisError):
                primary = topology.primary()
                if primary is not old:
                    with primary.client(socket_timeout=1) as client:
                        return client.info("replication")["role"] == "master"
            return False

        await wait_until(has_new_primary, 60, "a failover")
        # Redis may have lost what happened since.
        self.history.add("lost", began=round(began, 3))
        await asyncio.to_thread(old.start)
        self.next_failover_at = time.monotonic() + FAILOVER_PAUSE_SECONDS

    async def flood_all_lanes(self):
        """Keep all lanes busy for a moment."""
        queue = self._queue()
        jobs = [
            self._job("flood", [["note"], ["sleep", 0.03]], lane=lane)
            for lane in STREAMS
            for _ in range(FLOOD_JOBS)
        ]
        try:
            await self._enqueue_jobs(queue, jobs)
        finally:
            await queue.close()

    async def pause_writes(self):
        pause_ms = self.random.randint(100, 1500)
        with self._client(socket_timeout=5) as client:
            client.execute_command("CLIENT", "PAUSE", pause_ms, "WRITE")
        await asyncio.sleep(pause_ms / 1000)

    async def forget_scripts(self):
        with self._client(socket_timeout=5) as client:
            client.script_flush()

    async def _record_events(self):
        """Record all events before their stream is trimmed, fences as they are used, and busy lanes."""
        after = "0-0"
        while True:
            with suppress(redis.RedisError, OSError, StopIteration):
                server = await asyncio.to_thread(self.deployment.primary)
                async with redis.asyncio.Redis(
                    **{**CLIENT_OPTIONS, **server.options}, socket_timeout=5
                ) as client:
                    while server is await asyncio.to_thread(self.deployment.primary):
                        were_busy = await self._are_busy(client)
                        reply = await client.xread({f"{PREFIX}events": after}, count=500, block=200)
                        for _, rows in reply or ():
                            for after, fields in rows:
                                ids = fields.get("ids", "").split()
                                at = int(after.partition("-")[0]) / 1000  # not when it was read
                                self.history.add("event", at=at, event=fields["event"], ids=ids)
                        await self._record_starts(client, reply, were_busy=were_busy)
            await asyncio.sleep(0.1)

    async def _record_starts(self, client, reply, *, were_busy):
        started = [
            job_id
            for _, rows in reply or ()
            for _, fields in rows
            if fields["event"] == "started"
            for job_id in fields.get("ids", "").split()
        ]
        if not started:
            return
        async with client.pipeline(transaction=False) as pipeline:
            for job_id in started:
                pipeline.hget(f"{PREFIX}job:{job_id}", "fence")
            fences = await pipeline.execute()
        for job_id, fence in zip(started, fences, strict=True):
            if fence:
                self.history.add("fence", id=job_id, fence=int(fence))
        if were_busy and await self._are_busy(client):
            lanes = [
                job_id.split("-")[1] for job_id in started if "-" in job_id
            ]  # not of schedules
            self.history.add("busy", **{lane: lanes.count(lane) for lane in STREAMS})

    async def _are_busy(self, client):
        async with client.pipeline(transaction=False) as pipeline:
            for stream in STREAMS.values():
                pipeline.xlen(stream)
                pipeline.xpending(stream, GROUP)
            replies = await pipeline.execute(raise_on_error=False)
        if any(isinstance(reply, Exception) for reply in replies):
            return False
        return all(
            length - pending["pending"] > BUSY_JOBS
            for length, pending in zip(replies[::2], replies[1::2], strict=True)
        )

    async def _settle(self):
        """After the last fault, every accepted job must end, when all that are held were freed."""
        deadline, send_at = time.monotonic() + SETTLE_SECONDS, 0.0
        queue = self._queue()
        try:
            while time.monotonic() < deadline:
                with suppress(redis.RedisError), self._client() as client:
                    held = client.zrange(f"{PREFIX}held", 0, -1)
                    await self._repeat(lambda ids=held: queue.unhold_many(ids), "unhold")
                    waiting = sum(client.xlen(stream) for stream in STREAMS.values())
                    calls = client.zcard(f"{GATES}reservations")  # workers book what is not settled
                    messages = client.zrange(f"{PREFIX}outbox:{HOOK}", 0, -1)
                    if messages and time.monotonic() >= send_at:  # not at their next attempts
                        await self._repeat(
                            lambda ids=messages: queue.outbox.redeliver(ids), "redelivering"
                        )
                        send_at = time.monotonic() + SEND_SECONDS
                    waiting += len(messages)
                    if not waiting + len(held) + client.zcard(f"{PREFIX}delayed") + calls:
                        self.history.add("settled")
                        return
                await asyncio.sleep(0.1)
        finally:
            await queue.close()

    def _conclude(self):
        redis_client = self._client()
        for key in redis_client.scan_iter(match=f"{PREFIX}job:*", count=1000):
            job_id = key.removeprefix(f"{PREFIX}job:")
            if ":" not in job_id:
                fields = redis_client.hgetall(key)
                if fields.get("status") == "failed":
                    fields["result"] = json.loads(redis_client.get(f"{key}:result") or "null")
                self.history.add("final", id=job_id, **fields)
                lines = map(json.loads, redis_client.lrange(f"{key}:history", 0, -1))
                for line in lines:
                    if line["cause"] == "crash":
                        self.history.add("crash", id=job_id, **{**line, "at": line["at"] / 1000})
        for group in redis_client.zrange(f"{PREFIX}groups", 0, -1):
            fields = redis_client.hgetall(f"{PREFIX}group:{group}")
            self.history.add("group", group=group, **fields)
        counters = {name: int(n) for name, n in redis_client.hgetall(f"{PREFIX}counters").items()}
        self.history.add("counters", **counters)
        for request in self.receiver.requests:
            message = request.verified(self.receiver.secret)
            data = message["data"]
            self.history.add(
                "message",
                id=request.id,
                type=message["type"],
                subject=data.get("id") or data["name"],
            )
        self.history.add("problems", found=invariants.problems(redis_client, PREFIX))
        if self.deployment.has_money:
            self._conclude_money(redis_client)
        for line in (self.directory / "runs").read_text().splitlines():
            job_id, fence, attempt, pid = line.split()
            self.history.add("run", id=job_id, fence=int(fence), attempt=int(attempt), pid=int(pid))
        for worker in self.workers:
            self.history.add(
                "worker", id=worker.worker_id, alive=worker.is_alive,
                tracebacks=worker.text().count("Traceback"),
                tail=worker.text()[-4000:] if "Traceback" in worker.text() else "",
            )  # fmt: skip
        redis_client.close()

    def _conclude_money(self, redis_client):
        for line in (self.directory / "bills").read_text().splitlines():
            call_id, most, billed, is_known = line.split()
            self.history.add("bill", id=f"debates/{call_id}", most=int(most), billed=int(billed),
                             known=is_known == "1")  # fmt: skip
        for key in redis_client.scan_iter(match=f"{GATES}call:*", count=1000):
            record = json.loads(redis_client.get(key))
            self.history.add(
                "call",
                id=key.removeprefix(f"{GATES}call:"),
                state=record["state"],
                usd=record["usd"],
            )
        for key in redis_client.scan_iter(match=f"{GATES}spent:*", count=1000):
            counters = {name: int(n) for name, n in redis_client.hgetall(key).items()}
            self.history.add("counter", budget=key.removeprefix(f"{GATES}spent:"), **counters)
        rows = [
            list(map(int, row.split()))
            for key in redis_client.scan_iter(match=f"{GATES}spend:????-??-??", count=1000)
            for row in redis_client.hvals(key)
        ]
        calls, *_, usd, _, estimated = map(sum, zip(*rows, strict=True))
        self.history.add("ledger", calls=calls, usd=usd, estimated=estimated)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--history", required=True)
    parser.add_argument("--sentinel", action="store_true", help="fail over instead of restarting")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"nemesis: seed {seed}, {args.seconds:g} s, history {args.history}", flush=True)  # noqa: T201
    with tempfile.TemporaryDirectory(prefix="aq-nemesis-") as directory:
        nemesis = Nemesis(args.seconds, seed, args.history, directory, sentinel=args.sentinel)
        asyncio.run(nemesis.run())


if __name__ == "__main__":
    main()
