"""A queue on a real server with everything a test wants at hand: sessions, raw reads, ageing."""

import redis
from topologies import RAW

from aragora_q.base import Identity, Job, Report
from aragora_q.config import QueueConfig
from aragora_q.keys import GROUP, lane_of
from aragora_q.streams import RedisStreamsQueue

LEASE_MS = 400


def raw_client(url):
    """A plain synchronous client on one server; bytes that are no text survive decoding."""
    return redis.Redis.from_url(url, **RAW)


class Stage:
    """One queue, and what lies in Redis for it."""

    def __init__(self, url, *, raw=None, **settings):
        settings = {"claim_idle_ms": LEASE_MS, "retry_base_delay": 0.01, **settings}
        self.config = QueueConfig(redis_url=url, **settings)
        self.queue = RedisStreamsQueue(self.config)
        self.keys = self.queue.connection.keys
        self.raw = raw or raw_client(url)
        self._others = []

    @classmethod
    def on(cls, backend, **settings):
        """A queue on a backend or topology, told all that it takes to get there."""
        return cls(backend.url, raw=backend.raw(), **{**backend.settings, **settings})

    async def close(self):
        for queue in (self.queue, *self._others):
            await queue.close()
        self.raw.close()

    def other(self, **settings):
        """The same queue, seen by a process with other settings; closed with the stage."""
        config = QueueConfig(**{**self.config.model_dump(exclude_unset=True), **settings})
        self._others.append(RedisStreamsQueue(config))
        return self._others[-1]

    async def enqueue(self, job_id=None, **fields):
        job = Job(payload={"n": 1}, **({"id": job_id} if job_id else {}), **fields)
        await self.queue.enqueue(job)
        return job

    async def worker(self, worker_id="w1", **options):
        """A session of a worker that has signed on."""
        session = self.queue.session(Identity(worker_id), **options)
        assert await session.register({"host": "here", "pid": "1"}) == 0
        return session

    async def started(self, session, limit=1, **options):
        """The one job that `session` starts."""
        [job] = (await session.start(limit, **options)).jobs
        return job

    async def end(self, session, job, outcome):
        """The queue's verdict on one report."""
        [verdict] = await session.report([Report(job, outcome)])
        return verdict

    def renew(self, session, *jobs):
        renewer = session.lease_renewer()
        try:
            return renewer.renew([(job.id, job.fence) for job in jobs])
        finally:
            renewer.close()

    def fields(self, job_id):
        return self.raw.hgetall(self.keys.job(job_id))

    def entries(self, priority=0):
        return self.raw.xrange(self.keys.stream_of(priority))

    def pending(self, priority=0):
        return self.raw.xpending_range(self.keys.stream_of(priority), GROUP, "-", "+", 1000)

    def counters(self):
        return {name: int(n) for name, n in self.raw.hgetall(self.keys.counters).items()}

    def age(self, job_id, idle_ms=100_000_000):
        """Make the entry of a delivered job look idle, as if its worker had long been silent."""
        fields = self.fields(job_id)
        stream, entry = self.keys.stream_of(int(fields.get("priority", 0))), fields["entry"]
        self.age_entry(stream, entry, idle_ms)

    def age_entry(self, stream, entry, idle_ms=100_000_000):
        [row] = self.raw.xpending_range(stream, GROUP, entry, entry, 1)
        self.raw.xclaim(stream, GROUP, row["consumer"], 0, [entry], idle=idle_ms, justid=True)

    def deliver(self, worker_id, priority=0, count=1):
        """Read entries for a worker without starting them, as a script that broke off would."""
        stream = self.keys.stream_of(priority)
        reply = self.raw.xreadgroup(GROUP, worker_id, {stream: ">"}, count=count)
        return [entry for _, rows in (reply or []) for entry, _ in rows]

    def forge(self, fields, priority=0):
        """Put an entry into a lane as a stranger would, past the queue."""
        return self.raw.xadd(self.keys.stream_of(priority), fields)

    def silence(self, worker_id, seconds):
        """Make a worker's last heartbeat so old."""
        self.raw.zincrby(self.keys.workers, -seconds * 1000, worker_id)

    def events(self):
        """What was announced so far: event and ids, in order."""
        return [(e["event"], e.get("ids", "")) for _, e in self.raw.xrange(self.keys.events)]

    def lane(self, job_id):
        return lane_of(int(self.fields(job_id).get("priority", 0)))
