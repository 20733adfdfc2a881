"""The queues that are compared: how each is installed and run, and what it does by its own documentation.

Settings are the fastest of those that its documentation has, as long as a job is acknowledged after it has run,
where the queue can do that. Results and status are kept, or not, as by default.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.installing import Install, debian, npm, pip, project


@dataclass(frozen=True)
class Facts:
    """What a queue does for a job, in the words of the page; `sources` are addresses in its documentation."""

    acknowledged: str
    kept: str
    retries: str
    lacks: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Peer:
    """A queue. Commands run in benchmarks/peers/programs; `{url}` is the server's address.

    `client` is followed by an operation and a number of jobs. `look` is the command nearest to a look at the
    queue, or, where there is none that talks to Redis and ends at once, a program that enqueues one job; it
    ends with `look_exit`. `settings` are what differs from the defaults, in the words of the page.
    """

    install: Install
    client: str
    worker: str
    look: str
    drain_jobs: int
    settings: str
    facts: Facts | None
    bulk: bool = True
    look_exit: int = 0


BASELINE = "baseline"
NO_BULK = "a call that sends many jobs in one round trip"
PEERS = {
    BASELINE: Peer(
        install=project,
        client="python client.py with_baseline",
        worker="python with_baseline.py",
        look="python client.py with_baseline one 1",
        drain_jobs=40_000,
        settings="batches of 100; uvloop",
        facts=None,
    ),
    "aragora-q": Peer(
        install=project,
        client="python client.py with_aragora_q",
        worker="python -m aragora_q worker --redis-url {url} --executor with_aragora_q:executor "
        "--concurrency 100",
        look="python -m aragora_q stats --redis-url {url}",
        drain_jobs=40_000,
        settings="100 slots; uvloop",
        facts=Facts(
            acknowledged="yes; a killed worker's job runs again when its lease (60 s) ends",
            kept="status and result, 7 days",
            retries="yes, by default",
            lacks="functions as jobs: one executor per worker gets a JSON object; workers that are not asyncio",
            sources=("reliability.md", "how-it-works.md"),
        ),
    ),
    "RQ": Peer(
        install=pip("rq==3.0.0", "hiredis==3.5.0"),
        client="python client.py with_rq",
        worker="rq worker --url {url} --worker-class rq.worker.SimpleWorker --quiet",
        look="rq info --url {url}",
        drain_jobs=2_000,
        settings="`SimpleWorker`, which does not fork; RQ recommends it only for short, trusted jobs; "
        "one job at a time",
        facts=Facts(
            acknowledged="yes, but a killed worker's job fails; it runs again if enqueued with `retry`",
            kept="status and result, 500 s",
            retries="with `retry`",
            lacks="several jobs at once in a process",
            sources=(
                "https://python-rq.org/docs/results/",
                "https://python-rq.org/docs/workers/",
                "https://python-rq.org/docs/exceptions/",
            ),
        ),
    ),
    "arq": Peer(
        install=pip("arq==0.28.0", "uvloop==0.23.0"),
        client="python client.py with_arq",
        worker="arq with_arq.Worker",
        look="arq --check with_arq.Worker",
        look_exit=1,  # no worker is there
        drain_jobs=2_000,
        settings="100 jobs at once, polls every 10 ms (0.5 s), jobs not logged; uvloop in the client",
        bulk=False,
        facts=Facts(
            acknowledged="yes; a killed worker's job runs again after its `timeout` (300 s)",
            kept="status and result, 1 hour",
            retries="if the job raises `Retry`, or the worker stops",
            lacks=f"{NO_BULK}; waiting for jobs without polling",
            sources=("https://arq-docs.helpmanual.io/",),
        ),
    ),
    "SAQ": Peer(
        install=pip("saq[redis,hiredis]==0.26.4", "typing-extensions==4.16.0", "uvloop==0.23.0"),
        client="python client.py with_saq",
        worker="saq with_saq.settings --quiet",
        look="saq --check with_saq.settings",
        look_exit=1,  # no worker is there
        drain_jobs=4_000,
        settings="100 jobs at once, not logged; uvloop in the client",
        bulk=False,
        facts=Facts(
            acknowledged="yes, but a killed worker's job is aborted; it runs again with `retries` above 1",
            kept="status and result, 600 s",
            retries="with `retries`",
            lacks=NO_BULK,
            sources=("https://saq-py.readthedocs.io/en/latest/job.html",),
        ),
    ),
    "huey": Peer(
        install=pip("huey[redis]==3.5.4", "hiredis==3.5.0"),
        client="python client.py with_huey",
        worker="huey_consumer with_huey.huey --workers 4 --quiet",
        look="python client.py with_huey one 1",
        drain_jobs=8_000,
        settings="4 threads, jobs not logged",
        bulk=False,
        facts=Facts(
            acknowledged="**no**: a killed worker's job is lost",
            kept="result until it is read; None is not kept",
            retries="with `retries`",
            lacks=f"{NO_BULK}; the status of a running job",
            sources=("https://huey.readthedocs.io/en/latest/consumer.html#consumer-shutdown",),
        ),
    ),
    "Celery": Peer(
        install=pip("celery[redis]==5.7.0", "hiredis==3.5.0"),
        client="python client.py with_celery",
        worker="celery --app with_celery worker --pool threads --concurrency 10 --loglevel WARNING "
        "--without-gossip --without-mingle --without-heartbeat",
        look="python client.py with_celery one 1",
        drain_jobs=2_000,
        settings="`task_acks_late`, `task_reject_on_worker_lost`, `worker_prefetch_multiplier=100`; "
        "`--pool threads --concurrency 10 --without-gossip --without-mingle --without-heartbeat`; "
        "jobs not logged (`--loglevel WARNING`)",
        bulk=False,
        facts=Facts(
            acknowledged="**not by default**; measured with `task_acks_late`: a killed worker's job runs again "
            "after the visibility timeout (1 hour)",
            kept="nothing; with a result backend, both",
            retries="with `autoretry_for`, or if the job calls `retry`",
            lacks=NO_BULK,
            sources=(
                "https://docs.celeryq.dev/en/stable/userguide/tasks.html#Celery.app.task.Task.acks_late",
                "https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html",
            ),
        ),
    ),
    "dramatiq": Peer(
        install=pip("dramatiq[redis]==2.2.1", "hiredis==3.5.0"),
        client="python client.py with_dramatiq",
        worker="env dramatiq_queue_prefetch=100 dramatiq with_dramatiq --processes 1 --threads 8",
        look="python client.py with_dramatiq one 1",
        drain_jobs=4_000,
        settings="one process of 8 threads, `dramatiq_queue_prefetch=100`",
        bulk=False,
        facts=Facts(
            acknowledged="yes; a killed worker's job runs again after 60 s",
            kept="nothing; with the middleware `Results`, the result",
            retries="yes, by default",
            lacks=f"{NO_BULK}; status; waiting for jobs without polling",
            sources=(
                "https://dramatiq.io/advanced.html#message-persistence",
                "https://dramatiq.io/guide.html#message-retries",
            ),
        ),
    ),
    "taskiq": Peer(
        install=pip("taskiq==0.13.0", "taskiq-redis==1.2.4", "hiredis==3.5.0", "uvloop==0.23.0"),
        client="python client.py with_taskiq",
        worker="taskiq worker with_taskiq:broker --workers 1 --max-async-tasks 100 --max-prefetch 100 "
        "--log-level WARNING",
        look="python client.py with_taskiq one 1",
        drain_jobs=8_000,
        settings="`RedisStreamBroker`, one process, 100 jobs at once, prefetch of 100, jobs not logged; "
        "uvloop",
        bulk=False,
        facts=Facts(
            acknowledged="yes; a killed worker's job runs again after 10 minutes",
            kept="nothing; with a result backend, the result",
            retries="with a middleware",
            lacks=f"{NO_BULK}; deleting finished jobs: the stream grows, unless `maxlen` cuts it",
            sources=(
                "https://github.com/taskiq-python/taskiq-redis",
                "https://taskiq-python.github.io/guide/cli.html",
            ),
        ),
    ),
    "streaQ": Peer(
        install=pip("streaq==7.2.0", "uvloop==0.23.0"),
        client="python client.py with_streaq",
        worker="streaq run with_streaq:worker",
        look="python client.py with_streaq one 1",
        drain_jobs=4_000,
        settings="100 jobs at once, not logged; uvloop; `coredis.Config.optimized`",
        facts=Facts(
            acknowledged="yes; a killed worker's job runs again after 60 s",
            kept="status and result, 5 minutes",
            retries="if the job raises `StreaqRetry`",
            lacks="-",
            sources=("https://streaq.readthedocs.io/en/latest/task.html",),
        ),
    ),
    "docket": Peer(
        install=pip("pydocket==0.27.0", "hiredis==3.5.0"),
        client="python client.py with_docket",
        worker="docket worker --url {url}?max_connections=500 --tasks with_docket:tasks --concurrency 100 "
        "--logging-level WARNING",
        look="docket snapshot --url {url}",
        drain_jobs=2_000,
        settings="100 jobs at once, not logged, up to 500 connections",
        facts=Facts(
            acknowledged="yes; a killed worker's job runs again after 5 minutes",
            kept="status and result, 15 minutes",
            retries="with the dependency `Retry`",
            lacks="-",
            sources=(
                "https://docket.lol/en/latest/getting-started/",
                "https://docket.lol/en/latest/production/",
            ),
        ),
    ),
    "BullMQ": Peer(
        install=npm("bullmq@6.7.0", "ioredis@5.11.1"),
        client="node with_bullmq.mjs",
        worker="node with_bullmq.mjs worker",
        look="node with_bullmq.mjs one 1",
        drain_jobs=8_000,
        settings="Node.js; 100 jobs at once",
        facts=Facts(
            acknowledged="yes; a killed worker's job runs again after 30 s, once by default",
            kept="status and result, until removed",
            retries="with `attempts`",
            lacks="a command line",
            sources=(
                "https://docs.bullmq.io/guide/workers/stalled-jobs",
                "https://docs.bullmq.io/guide/queues/auto-removal-of-jobs",
            ),
        ),
    ),
    "Sidekiq": Peer(
        install=debian("ruby-sidekiq"),
        client="ruby with_sidekiq.rb",
        worker="sidekiq --require ./with_sidekiq.rb --concurrency 10 --environment production",
        look="sidekiqmon",
        drain_jobs=8_000,
        settings="Ruby; an old release, which Debian has; 10 threads, jobs not logged",
        facts=Facts(
            acknowledged="**no**: a killed worker's job is lost (the paid Pro edition keeps it)",
            kept="nothing of a job that succeeds",
            retries="yes, by default",
            lacks="results; status",
            sources=("https://github.com/sidekiq/sidekiq/wiki/Reliability",),
        ),
    ),
}
