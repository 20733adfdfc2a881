"""Row 40: versions side by side. A newer queue is refused, no loss in a rolling restart or an upgrade."""

import asyncio
import os
import shutil
import signal

import pytest
from support.paths import ROOT, TESTS
from support.wait import wait_until

from aragora_q.base import Job, JobStatus
from aragora_q.errors import UnsupportedServer

pytestmark = pytest.mark.slow


async def test_a_newer_queue_is_refused(new_harness):
    """A worker that does not understand the queue's schema exits 78 before it takes anything."""
    harness = new_harness()
    await harness.enqueue("a")
    await harness.worker("w1")
    assert harness.redis.hget(harness.keys.control, "schema") == "1"
    harness.redis.hset(harness.keys.control, "schema", "2")
    with pytest.raises(UnsupportedServer, match="schema 2") as refused:
        await harness.worker("w2")
    assert refused.value.exit_code == 78


async def test_a_rolling_restart_under_load(redis_url, new_harness, worker_process):
    """Every worker is replaced, one after the other: nothing lost, nothing charged, nothing crashed."""
    harness = new_harness(claim_idle_ms=2000)
    workers = [worker_process(redis_url, f"w{n}", lease_ms=2000) for n in range(3)]
    for worker in workers:
        worker.wait_until_started()
    enqueued, is_over = [], asyncio.Event()

    async def load():
        while not is_over.is_set():
            job = Job(payload={"do": [["sleep", 0.2]]})
            await harness.queue.enqueue(job)
            enqueued.append(job.id)
            await asyncio.sleep(0.02)

    loading = asyncio.create_task(load())
    for worker in workers:
        before = len(enqueued)
        await wait_until(lambda n=before: len(enqueued) > n + 15, 60, "some load")
        await asyncio.to_thread(worker.stop)
        worker.start()
    await wait_until(lambda: len(enqueued) > 90, 60, "some load")
    is_over.set()  # a call that is cancelled may have enqueued its job
    await loading

    async def all_done():
        return (await harness.queue.get_queue_stats())["completed"] == len(enqueued)

    await wait_until(all_done, 60, "all jobs to be completed")
    jobs = [harness.fields(job_id) for job_id in enqueued]
    assert {job.get("attempts", "1") for job in jobs} == {"1"}
    assert not [job for job in jobs if "crashes" in job]
    assert harness.counters().get("crashed", 0) == 0


class Installation:
    """A copy of the package, from which workers are started, that is replaced and removed under them."""

    def __init__(self, directory):
        self._directory = directory
        self.environment = {
            "PYTHONPATH": os.pathsep.join(map(str, (TESTS, directory))),
            "ARAGORA_QUEUE_DRAIN_TIMEOUT_SECONDS": "0.5",
            "IMPORTS_FILE": str(directory.parent / "imports"),
        }
        self.install()

    def install(self):
        shutil.copytree(ROOT / "aragora_q", self._directory / "aragora_q", dirs_exist_ok=True)

    def upgrade(self):
        """Replace the files by a version whose scripts of every outcome take one more argument."""
        self.install()
        package = self._directory / "aragora_q"
        for name in ("release", "retry", "fail", "complete", "renew"):
            script = package / f"redis/lua/{name}.lua"
            text = script.read_text()
            assert "-- args: " in text
            script.write_text(text.replace("-- args: ", "-- args: new_in_this_version ", 1))
        loader = package / "redis/scripts.py"
        text = loader.read_text()
        old = "arguments: list[Value] = ["
        assert old in text
        more = f'args = {{"new_in_this_version": 1, **args}}\n        {old}'
        loader.write_text(text.replace(old, more))

    def remove(self):
        shutil.rmtree(self._directory)


@pytest.fixture
def installation(tmp_path):
    return Installation(tmp_path / "site")


async def all_in(harness, status, ids):
    return all([await harness.queue.get_status(job_id) is status for job_id in ids])


async def test_an_upgrade_under_running_workers(
    new_harness, worker_process, redis_url, installation, tmp_path
):
    """Old workers keep their scripts, new ones work next to them: nothing is lost, charged, or crashes."""
    harness = new_harness(claim_idle_ms=3000)
    options = {"environment": installation.environment, "lease_ms": 3000}
    old = worker_process(redis_url, "old", slots=8, **options).wait_until_started()
    ids = [f"j{n}" for n in range(40)]
    may_end = tmp_path / "may-end"
    await harness.enqueue_steps("long", ["until", str(may_end)])
    for n, job_id in enumerate(ids):
        await harness.enqueue_steps(job_id, ["sleep", 0.2], *([["fail", 1]] if n % 3 == 0 else []))
    await harness.wait_for_status("long", JobStatus.PROCESSING)
    installation.upgrade()  # before `old` needed the scripts of most outcomes
    new = worker_process(redis_url, "new", **options).wait_until_started()
    await wait_until(lambda: all_in(harness, JobStatus.COMPLETED, ids), 60, "the jobs to end")
    assert old.stop() == -signal.SIGTERM, old.text()
    may_end.touch()
    job = await harness.wait_for_end("long")
    assert (job.status, job.attempts, job.crashes, job.worker_id) == (
        JobStatus.COMPLETED,
        1,
        0,
        "new",
    )
    assert new.stop() == -signal.SIGTERM
    assert {harness.fields(job_id).get("attempts", "1") for job_id in ids} == {"1", "2"}
    assert harness.counters().get("crashed", 0) == 0
    for worker in (old, new):
        assert "Traceback" not in worker.text()


async def test_the_package_goes_away_under_a_running_worker(
    new_harness, worker_process, redis_url, installation, tmp_path
):
    """Everything that a worker needs later is loaded: failures, releases, reload, reconnection, drain."""
    harness = new_harness(claim_idle_ms=3000)
    worker = worker_process(
        redis_url, environment=installation.environment, lease_ms=3000
    ).wait_until_started()
    await harness.enqueue_steps("watch", ["watch imports"])
    await harness.wait_for_status("watch", JobStatus.COMPLETED)
    installation.remove()
    steps = {
        "retried": (["fail", 1],),
        "later": (["later", 2],),
        "dead": (["permanent"],),
        "no payload": (["unknown step"],),
        "slow": (["sleep", 0.3],),
    }
    for job_id, each in steps.items():
        await harness.enqueue_steps(job_id.replace(" ", "-"), *each)
    await harness.queue.enqueue(
        Job({"timeout_seconds": 0.1, "do": [["sleep", 9]]}, id="late", max_attempts=1)
    )
    for job_id in (*(name.replace(" ", "-") for name in steps), "late"):
        await harness.wait_for_end(job_id)
    harness.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    worker.signal(signal.SIGHUP)
    await wait_until(lambda: "settings reloaded" in worker.text(), what="the reload")
    # The harness's own connection is dead, too: a call on it may fail.
    await harness.other_client().enqueue(Job({"do": [["sleep", 60]]}, id="released"))
    await harness.wait_for_status("released", JobStatus.PROCESSING)
    assert worker.stop() == -signal.SIGTERM, worker.text()
    job = await harness.queue.get_job("released")
    assert (job.status, job.attempts, job.crashes) == (JobStatus.PENDING, 0, 0)
    assert "Traceback" not in worker.text()
    late = (tmp_path / "imports").read_text().split()
    assert not [name for name in late if name.partition(".")[0] in OWN_AND_REQUIRED], late


OWN_AND_REQUIRED = {
    "aragora_q",
    "redis",
    "hiredis",
    "pydantic",
    "pydantic_settings",
    "prometheus_client",
}
"""The package and what it requires; the standard library belongs to another package."""
