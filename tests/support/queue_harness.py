"""A queue on a real server, with what tests need around it: sessions, waiting, and direct access to Redis."""

import asyncio
from contextlib import suppress

from support import invariants
from support.servers import connect
from support.wait import wait_until

from aragora_q.base import TERMINAL, Job, lane_of
from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import Identity, Report
from aragora_q.errors import RedisUnreachable
from aragora_q.redis.keys import GROUP
from aragora_q.streams.queue import RedisStreamsQueue

LEASE_MS = 60_000
"""Long enough that no lease expires on a busy machine; tests of expiry set a shorter one."""

PREFIX = "aragora:queue:debates:"
"""Key prefix of the default queue on a single server."""


class QueueHarness:
    """One queue (`queue`), and a client with every right on its server (`redis`)."""

    def __init__(self, url, *, client=None, **settings):
        settings = {"claim_idle_ms": LEASE_MS, "retry_base_delay": 0.01, **settings}
        self.config = QueueConfig(redis_url=url, **settings)
        self.queue = RedisStreamsQueue(self.config)
        self.keys = self.queue.connection.keys
        self.redis = client or connect(url)
        self._other_clients = []

    @classmethod
    def on(cls, backend, **settings):
        """A queue on a backend or topology, with the credentials that this one needs."""
        settings = {**backend.settings, **settings}
        return cls(backend.url, client=backend.admin_client(), **settings)

    async def close(self):
        await self.close_queues()
        self.redis.close()

    async def close_queues(self):
        for queue in (self.queue, *self._other_clients):
            await queue.close()

    def other_client(self, **settings):
        """The same queue, opened by a process with other settings; closed with the harness."""
        config = QueueConfig(**{**self.config.model_dump(exclude_unset=True), **settings})
        self._other_clients.append(RedisStreamsQueue(config))
        return self._other_clients[-1]

    # -- jobs and sessions

    async def enqueue(self, job_id=None, **fields):
        job = Job(payload={"n": 1}, **({"id": job_id} if job_id else {}), **fields)
        await self.queue.enqueue(job)
        return job

    async def enqueue_steps(self, job_id, *steps, **fields):
        """Enqueue a job that runs these steps of `support.executors`."""
        await self.queue.enqueue(Job(payload={"do": list(steps)}, id=job_id, **fields))

    async def enqueue_payload(self, job_id, payload, **fields):
        await self.queue.enqueue(Job(payload=payload, id=job_id, **fields))

    async def worker(self, worker_id="w1", **options):
        """The session of a registered worker."""
        session = self.queue.session(Identity(worker_id), **options)
        assert await session.register({"host": "here", "pid": "1"}) == 0
        return session

    async def start_one(self, session, limit=1, **options):
        """Start jobs for `session`, and return the only one that there was."""
        [job] = (await session.start(limit, **options)).jobs
        return job

    async def start_delayed(self, session):
        """Make the only delayed job due, promote it and start it."""
        [job_id] = self.redis.zrange(self.keys.delayed, 0, -1)
        self.redis.zadd(self.keys.delayed, {job_id: 0})
        assert (await self.queue.promote()).promoted == 1
        return await self.start_one(session)

    async def report(self, session, job, outcome):
        """Report one outcome, and return the queue's answer."""
        [result] = await session.report([Report(job, outcome)])
        return result

    async def renew(self, session, *jobs):
        """Send the session's heartbeat, renew the leases of jobs, and return the queue's answer.

        Again if Redis does not answer within a quarter of a short lease.
        """
        renewer = session.lease_renewer()

        async def renewal():
            with suppress(RedisUnreachable):
                return await renewer.renew([(job.id, job.fence) for job in jobs])
            return None

        try:
            return await wait_until(renewal, 60, "a renewal")
        finally:
            await renewer.close()

    # -- waiting

    async def wait_for_status(self, job_id, *statuses, timeout=60):
        """Wait until the job has one of these statuses; return it. Errors are retried until then."""

        async def is_reached():
            with suppress(Exception):
                return await self.queue.get_status(job_id) in statuses
            return False

        await wait_until(is_reached, timeout, f"{job_id} to be {statuses}")
        return await self.queue.get_job(job_id)

    async def wait_for_end(self, *job_ids, timeout=60):
        """Wait until all these jobs have ended; return the one job, or a list of them."""
        jobs = [
            await self.wait_for_status(job_id, *TERMINAL, timeout=timeout) for job_id in job_ids
        ]
        return jobs[0] if len(jobs) == 1 else jobs

    async def wait_for_completed(self, count, timeout=90):
        """Wait until the queue has completed so many jobs. Errors are retried until then."""

        async def are_completed():
            with suppress(Exception):
                return (await self.queue.get_queue_stats())["completed"] == count
            return False

        await wait_until(are_completed, timeout, f"{count} jobs to be completed")

    # -- what Redis holds

    def fields(self, job_id):
        return self.redis.hgetall(self.keys.job(job_id))

    def entries(self, priority=0):
        return self.redis.xrange(self.keys.stream_of(priority))

    def pending(self, priority=0):
        stream = self.keys.stream_of(priority)
        return self.redis.xpending_range(stream, GROUP, "-", "+", 1000)

    def counters(self):
        return {name: int(n) for name, n in self.redis.hgetall(self.keys.counters).items()}

    def events(self):
        """Published events in order: name and job ids."""
        return [(e["event"], e.get("ids", "")) for _, e in self.redis.xrange(self.keys.events)]

    def lane(self, job_id):
        return lane_of(int(self.fields(job_id).get("priority", 0)))

    # -- faults

    def backdate(self, job_id, idle_ms=100_000_000):
        """Make a started job's entry as idle as if its worker had died that long ago.

        The worker has sent no heartbeat since it registered.
        """
        fields = self.fields(job_id)
        worker = fields.get("lease_owner", "").partition("@")[0]
        if registered_at := self.redis.hget(self.keys.worker(worker), "registered_at"):
            self.redis.zadd(self.keys.workers, {worker: registered_at}, xx=True, lt=True)
        stream, entry = self.keys.stream_of(int(fields.get("priority", 0))), fields["entry"]
        self.backdate_entry(stream, entry, idle_ms)

    def backdate_entry(self, stream, entry, idle_ms=100_000_000):
        [row] = self.redis.xpending_range(stream, GROUP, entry, entry, 1)
        self.redis.xclaim(stream, GROUP, row["consumer"], 0, [entry], idle=idle_ms, justid=True)

    def stop_heartbeat(self, worker_id, seconds):
        """Make a worker's last heartbeat that much older."""
        self.redis.zincrby(self.keys.workers, -seconds * 1000, worker_id)

    def deliver(self, worker_id, priority=0, count=1):
        """Read entries for a worker without starting them, as an interrupted script would."""
        stream = self.keys.stream_of(priority)
        reply = self.redis.xreadgroup(GROUP, worker_id, {stream: ">"}, count=count)
        return [entry for _, rows in (reply or []) for entry, _ in rows]

    def write_raw(self, fields, priority=0):
        """Add an entry to a lane without the queue's checks, as another program might."""
        return self.redis.xadd(self.keys.stream_of(priority), fields)


def decisions(reclaimed):
    """Ids and decisions of what `reclaim` returned."""
    return [(job.id, job.decision) for job in reclaimed]


async def check_and_close(*harnesses):
    """Check invariant Z on each queue, then close them all."""
    try:
        for harness in harnesses:
            invariants.check(harness.redis, harness.keys.queue_prefix)
    finally:
        for harness in harnesses:
            await harness.close()


def run_on_queue(url, work, **settings):
    """Run `await work(harness)` on a queue that exists for this call: for tests without a loop."""

    async def on_queue():
        harness = QueueHarness(url, **settings)
        try:
            return await work(harness)
        finally:
            await harness.close_queues()
            if "client" not in settings:
                harness.redis.close()

    return asyncio.run(on_queue())


def enqueue_debate(url, job_id, **fields):
    payload = {"question": "To be or not to be?", "agents": ["a", "b"], **fields}
    return run_on_queue(url, lambda harness: harness.queue.enqueue(Job(payload, id=job_id)))


def get_job(url, job_id):
    return run_on_queue(url, lambda harness: harness.queue.get_job(job_id))
