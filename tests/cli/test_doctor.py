"""`aragora-q doctor`: each thing that can be wrong is found with evidence and remedy; repair loses nothing."""

import asyncio
import json

import invariants
import pytest
import servers
from stage import Stage

from aragora_q.contracts import Completed
from aragora_q.doctor import checks as diagnosis
from aragora_q.doctor.integrity import PROBLEMS

STEM = "aragora:queue:debates:"


@pytest.fixture
def stage(redis_url, raw):
    """A queue in states that strangers, failovers and restored backups leave behind."""
    return Stage(redis_url, raw=raw)


@pytest.fixture
def on_stage(stage):
    """Runs a coroutine that uses the stage, which is closed afterwards."""

    def run(work):
        async def closing():
            try:
                return await work
            finally:
                await stage.queue.close()

        return asyncio.run(closing())

    return run


async def _jobs(stage):
    """One job of each kind: waits, delayed, runs, ended."""
    await stage.enqueue("waits", priority=-1)
    await stage.enqueue("delayed", delay_seconds=1000)
    await stage.enqueue("ended")
    worker = await stage.worker("w1")
    job = await stage.started(worker)
    assert await stage.end(worker, job, Completed(b"{}")) == "completed"
    await stage.enqueue("runs")
    await stage.started(worker)


def _found(ended, check="data"):
    return [each for each in ended.object["findings"] if each["check"] == check]


def test_a_sound_queue_has_no_finding_about_its_data(invoke, on_stage, stage):
    """Jobs in every state, and nothing is wrong with any of them."""
    on_stage(_jobs(stage))
    ended = invoke("doctor", "--json")
    assert _found(ended) == []
    assert ended.object["jobs_examined"] == 4
    assert ended.object["stopped_at"] is None


def _break_waits_nowhere(raw):
    entry = raw.hget(f"{STEM}job:waits", "entry")
    raw.xdel(f"{STEM}stream:low", entry)
    raw.set(f"{STEM}job:waits:payload", "{}")


def _break_delivered_to_nobody(raw):
    raw.xreadgroup("aragora-workers", "stranger", {f"{STEM}stream:low": ">"})
    raw.xack(f"{STEM}stream:low", "aragora-workers", raw.hget(f"{STEM}job:waits", "entry"))


def _break_payload_lost(raw):
    raw.delete(f"{STEM}job:delayed:payload")


def _break_entry_lost(raw):
    raw.xdel(f"{STEM}stream", raw.hget(f"{STEM}job:runs", "entry"))


def _break_no_hash(raw):
    raw.delete(f"{STEM}job:delayed")
    raw.set(f"{STEM}job:delayed", "a string")


def _left_behind(raw, job_id):
    """An entry that a stranger wrote, read and acknowledged, but did not delete."""
    raw.xadd(f"{STEM}stream:high", {"id": job_id, "payload": "{}"})
    for _, rows in raw.xreadgroup("aragora-workers", "stranger", {f"{STEM}stream:high": ">"}):
        for entry, _ in rows:
            raw.xack(f"{STEM}stream:high", "aragora-workers", entry)


def _break_other_lane(raw):
    raw.hdel(f"{STEM}job:waits", "priority")


BREAKS = {
    "entry-left-behind": lambda raw: _left_behind(raw, "ghost"),
    "copy-left-behind": lambda raw: _left_behind(raw, "ended"),
    "other-lane": _break_other_lane,
    "waits-nowhere": _break_waits_nowhere,
    "delivered-to-nobody": _break_delivered_to_nobody,
    "delayed-without-hash": lambda raw: raw.delete(f"{STEM}job:delayed"),
    "delayed-without-data": lambda raw: raw.zadd(f"{STEM}delayed", {"ghost": 9e12}),
    "waits-twice": lambda raw: raw.zadd(f"{STEM}delayed", {"waits": 9e12}),
    "listed-as-ended": lambda raw: raw.zadd(f"{STEM}failed", {"waits": 1}),
    "expires-while-live": lambda raw: raw.expire(f"{STEM}job:delayed:payload", 1000),
    "payload-twice": lambda raw: raw.set(f"{STEM}job:waits:payload", "{}"),
    "unlisted": lambda raw: raw.zrem(f"{STEM}completed", "ended"),
    "listed-twice": lambda raw: raw.zadd(f"{STEM}failed", {"ended": 1}),
    "keeps-lease": lambda raw: raw.hset(f"{STEM}job:ended", "lease_ms", 1),
    "never-expires": lambda raw: raw.persist(f"{STEM}job:ended:result"),
    "listed-without-data": lambda raw: raw.zadd(f"{STEM}cancelled", {"ghost": 1}),
    "parts-without-hash": lambda raw: raw.set(f"{STEM}job:ghost:result", "{}"),
    "payload-lost": _break_payload_lost,
    "entry-lost": _break_entry_lost,
    "result-lost": lambda raw: raw.delete(f"{STEM}job:ended:result"),
    "no-hash": _break_no_hash,
    "garbled": lambda raw: raw.hset(f"{STEM}job:ended", mapping={"attempts": "abc", "fence": "x"}),
    "unknown-status": lambda raw: raw.hset(f"{STEM}job:waits", "status", "odd"),
}


def test_every_problem_has_a_case_here():
    """The list of problems and the cases below cannot drift apart."""
    assert set(BREAKS) == set(PROBLEMS)


@pytest.mark.parametrize("problem", BREAKS)
def test_each_problem_is_found_and_mended_if_it_can_be(invoke, on_stage, stage, raw, problem):
    """Found with its job and remedy, exit 1; after --repair invariant Z holds, or it is still told."""
    on_stage(_jobs(stage))
    BREAKS[problem](raw)
    is_mendable, meaning, _ = PROBLEMS[problem]
    looked = invoke("doctor", "--json")
    assert looked.code == 1
    [found] = _found(looked)
    assert (found["severity"], meaning in found["detail"]) == ("error", True)
    assert found["remedy"].startswith("--repair would ") == is_mendable

    mended = invoke("doctor", "--repair", "--yes", "--json")
    [found] = _found(mended)
    assert found["severity"] == ("note" if is_mendable else "error")
    assert _found(invoke("doctor", "--json")) == ([] if is_mendable else [found])
    if is_mendable and problem != "parts-without-hash":
        invariants.check(raw, STEM)


@pytest.mark.parametrize("job_id", ["waits", "delayed", "runs", "ended"])
def test_a_copy_is_removed_and_its_job_stays_as_it_was(invoke, on_stage, stage, raw, job_id):
    """Whatever state a job is in: an entry too many is removed, and nothing else changes."""
    on_stage(_jobs(stage))
    before = raw.hgetall(f"{STEM}job:{job_id}")
    _left_behind(raw, job_id)
    ended = invoke("doctor", "--repair", "--yes", "--json")
    [found] = _found(ended)
    assert (job_id in found["detail"], found["remedy"]) == (True, "mended: remove it")
    assert raw.hgetall(f"{STEM}job:{job_id}") == before
    assert raw.xlen(f"{STEM}stream:high") == 0
    invariants.check(raw, STEM)


def test_what_was_left_behind_is_brought_to_an_end(invoke, on_stage, stage, raw):
    """An entry without a job runs, one that is no job becomes a dead letter with its bytes, and a job
    whose payload is nowhere else gets it from there.
    """
    on_stage(_jobs(stage))
    raw.delete(f"{STEM}job:delayed:payload")
    for job_id in ("ghost", "../no-job", "delayed"):
        _left_behind(raw, job_id)
    [found] = [
        each
        for each in _found(invoke("doctor", "--json"))
        if "an entry that was read" in each["detail"]
    ]
    assert "3 jobs" in found["detail"]
    invoke("doctor", "--repair", "--yes", "--json")
    fetched = on_stage(_started_by_another(stage))
    assert {job.id for job in fetched.jobs} == {"ghost", "delayed", "waits"}
    assert raw.zcard(f"{STEM}failed") == 1
    [dead] = raw.zrange(f"{STEM}failed", 0, -1)
    assert json.loads(raw.get(f"{STEM}job:{dead}:payload")) == ["id", "../no-job", "payload", "{}"]


async def _started_by_another(stage):
    session = await stage.worker("w2")
    return await session.start(10)


def test_a_garbled_priority_misleads_nobody(invoke, on_stage, stage, raw):
    """A job of the low lane whose priority is no number: found as that alone, mended, and still there."""
    on_stage(_jobs(stage))
    raw.hset(f"{STEM}job:waits", "priority", "urgent")
    words = [each["detail"] for each in _found(invoke("doctor", "--json"))]
    assert len(words) == 2
    assert all(
        "1 job: has words" in word or "1 job: waits in another lane" in word for word in words
    )
    invoke("doctor", "--repair", "--yes", "--json")
    assert raw.hget(f"{STEM}job:waits", "priority") == "-1"
    assert _found(invoke("doctor", "--json")) == []
    invariants.check(raw, STEM)


@pytest.mark.parametrize("word", ["nonsense", "half an id"])
def test_a_place_that_is_none_stops_no_walk(invoke, on_stage, stage, raw, word):
    """A word where a job names its stream entry is told as a finding, with all the others."""
    on_stage(_jobs(stage))
    if word == "half an id":
        word = raw.hget(f"{STEM}job:waits", "entry").partition("-")[0]
    raw.hset(f"{STEM}job:waits", "entry", word)
    raw.zadd(f"{STEM}failed", {"ended": 1})
    looked = invoke("doctor", "--json")
    assert looked.code == 1
    assert len(_found(looked)) == 2


def test_mended_jobs_run(invoke, redis_url, raw):
    """A job that nobody would ever have run, and one whose hash was deleted: after repair both complete."""

    async def on_a_stage(work):
        stage = Stage(redis_url, raw=raw)
        try:
            return await work(stage)
        finally:
            await stage.queue.close()

    async def run_all(stage):
        await stage.queue.promote()
        worker = await stage.worker("w2")
        jobs = (await worker.start(10)).jobs
        return {job.id: await stage.end(worker, job, Completed(b"{}")) for job in jobs}

    asyncio.run(on_a_stage(_jobs))
    _break_waits_nowhere(raw)
    raw.delete(f"{STEM}job:delayed")
    raw.zadd(f"{STEM}delayed", {"delayed": 1})
    assert len(_found(invoke("doctor", "--repair", "--yes", "--json"))) == 2
    assert asyncio.run(on_a_stage(run_all)) == {"waits": "completed", "delayed": "completed"}


def test_repair_asks_first(invoke, on_stage, stage, raw):
    """Without a terminal to ask on it takes --yes; a plain look changes nothing."""
    on_stage(_jobs(stage))
    BREAKS["unlisted"](raw)
    refused = invoke("doctor", "--repair")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert raw.zscore(f"{STEM}completed", "ended") is None


def test_a_walk_that_ran_out_of_time_goes_on_where_it_stopped(redis_url, raw):
    """Whatever its budget, a walk in pieces sees what one in a piece sees."""
    from aragora_q.doctor import integrity as consistency

    async def walk():
        stage = Stage(redis_url, raw=raw)
        for n in range(30):
            await stage.enqueue(f"job-{n}")
        for n in range(3000):
            raw.sadd(f"{STEM}other:{n}", 1)
        place, steps, jobs, strangers = "", 0, 0, set()
        while True:
            seen = await consistency.examine(
                stage.queue.connection, resume_at=place, budget_seconds=0
            )
            steps, jobs, place = steps + 1, jobs + seen.jobs, seen.stopped_at
            strangers |= set(seen.strangers)
            if not place:
                break
        await stage.queue.close()
        return steps, jobs, len(strangers)

    steps, jobs, strangers = asyncio.run(walk())
    assert steps > 2
    assert (jobs, strangers) == (30, 3000)


def test_a_place_that_no_walk_gave_is_a_usage_error(invoke):
    """--from takes what a walk has printed, nothing else."""
    assert invoke("doctor", "--from", "nowhere:x").code == 2


class TestAround:
    """Server, settings, environment, units, workers."""

    def test_a_server_that_may_delete_jobs_or_forget_them(self, invoke, own_server):
        """Eviction is an error, a missing append-only file a warning; both are gone when mended."""
        server = own_server("--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb")
        url = ("--redis-url", server.url)
        looked = invoke("doctor", "--json", *url)
        assert looked.code == 1
        assert _found(looked, "eviction")[0]["severity"] == "error"
        assert _found(looked, "persistence")[0]["severity"] == "warning"
        with server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("appendonly", "yes")
        assert invoke("doctor", "--json", *url).object["findings"] == []

    def test_a_nearly_full_server(self, invoke, own_server):
        """More than nine tenths of maxmemory is an error: enqueues will soon be refused."""
        server = own_server()
        with server.client() as client:
            client.setrange("ballast", 50_000_000, "x")
            client.config_set("maxmemory", client.info("memory")["used_memory"] * 105 // 100)
        found = _found(invoke("doctor", "--json", "--redis-url", server.url), "memory")
        assert found[0]["severity"] == "error"

    @pytest.mark.parametrize(
        ("name", "remedy"),
        [("REDIS_PASWORD", "REDIS_PASSWORD"), ("ARAGORA_REDIS_URL", "REDIS_URL"),
         ("ARAGORA_Q_X", "config show")],
    )  # fmt: skip
    def test_variables_that_nothing_reads(self, invoke, monkeypatch, name, remedy):
        """A name that looks like one of ours is set, and is none."""
        monkeypatch.setenv(name, "x")
        [found] = _found(invoke("doctor", "--json"), "environment")
        assert name in found["detail"]
        assert remedy in found["remedy"]

    @pytest.mark.parametrize(
        ("text", "is_found"),
        [("TimeoutStopSec=90", True), ("TimeoutStopSec=10min", True), ("TimeoutStopSec=10min 30s", False),
         ("TimeoutStopSec=infinity", False), ("", False)],
    )  # fmt: skip
    def test_a_unit_that_kills_before_the_drain_is_over(
        self, invoke, monkeypatch, tmp_path, text, is_found
    ):
        """TimeoutStopSec, of the unit or a drop-in, must exceed drain_timeout_seconds (600)."""
        monkeypatch.setattr(diagnosis, "UNIT_DIRECTORIES", (tmp_path,))
        (tmp_path / diagnosis.UNIT).write_text("[Service]\nTimeoutStopSec=700\n")
        drop_in = tmp_path / f"{diagnosis.UNIT}.d"
        drop_in.mkdir()
        (drop_in / "mine.conf").write_text(f"[Service]\n{text}\n")
        assert bool(_found(invoke("doctor", "--json"), "unit")) == is_found

    def test_a_password_that_others_may_read(self, invoke, own_server, tmp_path):
        """A configuration file with a password is for its owner alone."""
        url = ("--redis-url", own_server("--requirepass", "hush").url)
        path = tmp_path / "aragora-q.toml"
        path.write_text("redis_password = 'hush'\n")
        path.chmod(0o644)
        assert "chmod 600" in _found(invoke("doctor", "--json", *url), "secrets")[0]["remedy"]
        path.chmod(0o600)
        assert _found(invoke("doctor", "--json", *url), "secrets") == []

    def test_jobs_that_wait_for_nobody(self, invoke, on_stage, stage):
        """A backlog without a live worker is an error; with one it is none."""
        on_stage(stage.enqueue("waits"))
        assert _found(invoke("doctor", "--json"), "workers")[0]["severity"] == "error"
        on_stage(stage.worker("w1"))
        assert _found(invoke("doctor", "--json"), "workers") == []

    def test_a_user_without_rights_is_told_which_it_lacks(self, invoke, own_server, monkeypatch):
        """Asked with ACL DRYRUN where that is allowed: each role the user cannot play, and why."""
        server = own_server()
        with server.client() as client:
            client.execute_command(
                "ACL", "SETUSER", "lame", "on", ">pw", "~*", "+@all", "-xadd", "-zadd"
            )
        monkeypatch.setenv("REDIS_URL", f"redis://lame:pw@127.0.0.1:{server.port}")
        found = _found(invoke("doctor", "--json"), "rights")
        told = " ".join(each["detail"] for each in found)
        assert "cannot be a producer: may not xadd, zadd" in told
        assert "stats" not in told

    def test_a_server_too_old_is_the_last_finding(self, invoke, own_server):
        """What is too old for our scripts is told, with the remedy; the data is not judged."""
        server = own_server(binary=servers.redis62)
        ended = invoke("doctor", "--json", "--redis-url", server.url)
        [found] = ended.object["findings"]
        assert (ended.code, found["severity"], found["check"]) == (1, "error", "server")
        assert "too old" in found["detail"]
        assert "upgrade" in found["remedy"]

    def test_no_server_is_no_finding(self, invoke):
        """There is nothing to examine: exit 69, as everywhere."""
        assert invoke("doctor", "--redis-url", "redis://127.0.0.1:1").code == 69


def test_people_read_it_in_eighty_columns(invoke, on_stage, stage, raw):
    """Severity, check and evidence, then the remedy, in lines that fit any terminal."""
    on_stage(_jobs(stage))
    BREAKS["unlisted"](raw)
    ended = invoke("doctor")
    assert max(map(len, ended.lines)) <= 80
    assert "error   data: 1 job: has ended, but is in no list" in ended.out
