"""Fill a queue with what pages show: debates in every state, other jobs, and texts that try to break a page."""

from support import sample_debates
from support.gates import Gates, new_call
from support.queue_harness import QueueHarness

from aragora_q import codec
from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed, Failed, Held, Identity, Report
from aragora_q.redis.keys import SAMPLED_COUNTERS

HOSTILE = {
    "script": "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><b>",
    "template": "{{ 7 * 7 }}{% raw %}${7*7}",
    "rtl": "\u202eevil\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u2066x\u2069",
    "invisible": "a\u200bb\u200dc\ufeffd\u00ade\u2060f",
    "control": "a\x00b\x1b[31mred\x07\x9bc",
    "emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f4\u200d\u2620\ufe0f " * 3,
    "word": "supercalifragilistic" * 60,
    "url": "https://example.com/" + "a-long-path/" * 60 + "?q=" + "x" * 300,
    "question": ("Why does a question of ten thousand characters not break the page? " * 150)[:10_000],
}  # fmt: skip
"""Texts that clients and models may write."""

BUDGETS = {
    "month": {"limit_usd": 10, "window": "month"},
    "tenants": {"limit_usd": 4, "window": "total", "scope": "tenant"},
}


async def start(queue, session, job_id):
    """Start jobs until this one is started, and return it."""
    while True:
        jobs = (await session.start(1)).jobs
        if not jobs or jobs[0].id == job_id:
            return jobs[0]


async def add_debate(queue, session, name, job_id, **labels):
    """Add a sample debate as a worker left it, or leaves it while it runs; return its id."""
    sample, journal = sample_debates.SAMPLES[name]()
    await queue.enqueue(Job(sample.payload, id=job_id, **labels))
    job = await start(queue, session, job_id)
    for key, entry in journal.items():
        await session.checkpoint(job, key, entry)
    if sample.status is JobStatus.COMPLETED:
        await session.report([Report(job, Completed(codec.encode(sample.result)))])
    elif sample.status is JobStatus.FAILED:
        await session.report([Report(job, Failed(sample.error, codec.encode(sample.result)))])
    else:
        await session.report_progress(job, sample.progress)
    return job_id


async def add_hostile(queue, session, name, text=""):
    """Add debates with one hostile text everywhere: one that failed, one that completed, one that is held."""
    text = text or HOSTILE[name]
    payload = {
        "question": text, "agents": [text, text], "judge": text, "options": [text], "consensus": text,
        text[:60]: text,
    }  # fmt: skip
    [failed, completed, held] = [f"{name}-{end}" for end in ("failed", "completed", "held")]
    for job_id in (failed, completed):
        await queue.enqueue(Job(payload, id=job_id))
        job = await start(queue, session, job_id)
        value = {"answer": text, "reasons": text, "changed": True, "confidence": text}
        for seat in (0, 1):
            for step, phase in enumerate(("propose", "revise")):
                key, entry = sample_debates.call(
                    phase, seat, value, step=step, number=step, agent=text, fault=text, said=text
                )
                await session.checkpoint(job, key, entry | {"model": text, "answered_by": text})
        await session.report_progress(
            job, {"phase": text[:300], "round": 1, "rounds": 1, "said": text[:300]}
        )
        result = sample_debates.result(
            text, [(text, [0]), (f"{text}!", [1])], [(0, 5), (1, 5)], reasons=text, error=text
        )
        outcome = Completed(codec.encode(result)) if job_id == completed else Failed(text)
        await session.report([Report(job, outcome)])
    await queue.enqueue(Job({"prompt": text, "list": [text]}, id=held))
    job = await start(queue, session, held)
    await session.report_progress(job, {"note": text[:300]})
    await session.report([Report(job, Held("executor", text, text[:20]))])
    return failed, completed, held


async def worker(queue):
    """The session of a worker."""
    session = queue.session(Identity("web1-1"))
    await session.register({"host": "web1", "pid": "41", "concurrency": "8"})
    return session


async def fill(queue, session):
    """Fill a queue with one job of every kind."""
    tags = {"env": "prod", "team": "search"}
    await add_debate(
        queue, session, "agreeing", "agreeing", group="nightly", tenant="acme", tags=tags
    )
    await add_debate(queue, session, "disagreeing", "disagreeing", group="nightly", tenant="acme")
    await add_debate(queue, session, "choice", "choice", tenant="globex")
    await add_debate(queue, session, "dropped", "dropped", group="nightly")
    await add_debate(queue, session, "failed", "failed", group="nightly", tags={"env": "prod"})
    await add_debate(queue, session, "running", "running", group="nightly", tags={"env": "dev"})
    await queue.enqueue(
        Job({"command": "resize", "files": ["a.png", "b.png"]}, id="command", priority=5)
    )
    await session.report(
        [Report(await start(queue, session, "command"), Completed(b'{"resized": 2}'))]
    )
    agents = ["ann", "bob"]
    await queue.enqueue(Job({"question": "Is it settled?", "agents": agents}, id="waiting"))
    later = Job({"question": "And tomorrow?", "agents": agents}, id="delayed", delay_seconds=9_000)
    await queue.enqueue(later)
    await queue.enqueue(Job({"question": "May this wait?", "agents": agents}, id="held"))
    await queue.hold("held", reason="prices changed", by="ann@desk")
    await queue.enqueue(Job({"question": "Never mind?", "agents": agents}, id="cancelled"))
    await queue.cancel("cancelled")


async def spend(queue):
    """Book a paid call of a tenant under two budgets; another call is under way as its worker dies."""
    harness = QueueHarness(queue.config.redis_url)
    gates = Gates(harness, BUDGETS)
    try:
        paid = Job({}, id="paid", tenant="acme", group="nightly")
        await gates.acquire(new_call("c1", 2.0), paid)
        await gates.settle(new_call("c1", 2.0), 1.5, job=paid, input_tokens=30, output_tokens=10)
        await gates.acquire(new_call("c2", 1.0), Job({}, id="paying", tenant="acme"))
    finally:
        for client in gates._made:
            # Its declaration stays, as that of a worker that was killed.
            await client._connection.close()
        await harness.close()


async def add_samples(queue):
    """Write the samples of two hours with a gap; counters grow as in a queue with changing load."""
    connection = queue.connection
    now = int((await connection.execute("TIME"))[0]) // 60 * 60
    totals, buckets, spent = [1_000] * len(SAMPLED_COUNTERS), [0] * 12, 0
    for minute in range(125):
        load = 6 + minute % 7
        totals = [total + (load if n < 3 else minute % 9 == n) for n, total in enumerate(totals)]
        buckets[4], buckets[8] = load, load // 5
        spent += load * 8_000
        if 60 < minute < 80:
            continue
        counts = " ".join(map(str, (*totals, 2 * load, load, 3, 2, 4, spent, 0)))
        text = "0 " + " ".join(map(str, buckets))
        await connection.execute(
            "XADD",
            connection.keys.samples_minute,
            f"{(now - (124 - minute) * 60) * 1000}-0",
            "counts",
            counts,
            "run",
            text,
            "total",
            text,
        )
