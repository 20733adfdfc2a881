"""`aragora-q wait`: ends with the jobs or their group, or with the time limit."""

import asyncio

import pytest
from support.jobs import numbered_job

from aragora_q.base import Job
from aragora_q.contracts import Completed, Failed
from aragora_q.errors import GroupNotFound


async def test_waiting_for_many_jobs_takes_few_connections(harness, run_cli):
    """1,000 ids take several round trips, but not a connection each."""
    await harness.queue.enqueue_many([numbered_job(n) for n in range(1000)])
    before = harness.redis.info("stats")["total_connections_received"]
    ended = run_cli("wait", *(f"j{n}" for n in range(1000)), "--timeout", 0)
    assert ended.code == 124
    assert harness.redis.info("stats")["total_connections_received"] - before <= 5


@pytest.fixture
async def group(harness):
    """Group g: one job waits, one runs. Returns what ends the running one."""
    await harness.enqueue("runs", group="g")
    worker = await harness.worker("w1")
    job = await harness.start_one(worker)
    await harness.enqueue("waits", group="g")

    async def end(outcome):
        await harness.report(worker, job, outcome)

    return end


async def test_a_group_is_waited_for_by_its_counts(harness, run_cli, group):
    """It ends with the last job, prints the group once, and exits by the outcomes; purged jobs do not count."""
    waiting = asyncio.create_task(asyncio.to_thread(run_cli, "wait", "--group", "g", "--json"))
    await asyncio.sleep(0.3)
    await harness.queue.cancel("waits")
    assert not waiting.done()
    await group(Completed(b"{}"))
    ended = await asyncio.wait_for(waiting, 30)
    assert (ended.code, ended.object["name"], ended.object["counts"]["cancelled"]) == (1, "g", 1)
    assert ended.err.count("group g is not sealed: jobs that are enqueued after") == 1
    assert run_cli("purge", "--group", "g", "-s", "cancelled", "-y").code == 0
    await harness.queue.seal_group("g")
    again = run_cli("wait", "--group", "g")
    assert (again.code, again.err) == (0, "")
    assert again.lines[0].split() == ["group", "g"]


async def test_a_group_of_many_costs_one_read(harness, run_cli):
    """Whatever its size: the group's counts are read, never its members or their statuses."""
    await harness.queue.enqueue_many([Job({}, id=f"j{n}", group="g") for n in range(300)])
    harness.redis.config_resetstat()
    assert run_cli("wait", "--group", "g", "--timeout", 0).code == 124
    calls = harness.redis.info("commandstats")
    assert "cmdstat_hget" not in calls
    assert calls["cmdstat_hgetall"]["calls"] <= 2


async def test_a_group_that_fails_or_is_not_there(harness, run_cli, group):
    """Exit 1 if a job failed, 3 if the group is not found, 124 at the time limit with what is left."""
    await group(Failed("no"))
    late = run_cli("wait", "--group", "g", "--timeout", 0)
    assert (late.code, "1 job of group g had not ended" in late.err) == (124, True)
    await harness.queue.cancel("waits")
    assert run_cli("wait", "--group", "g", "-q").code == 1
    missing = run_cli("wait", "--group", "none")
    assert (missing.code, "group none not found in queue debates" in missing.err) == (3, True)


@pytest.mark.parametrize("is_name_used_again", [False, True])
async def test_a_group_that_is_purged_meanwhile_has_ended(harness, group, is_name_used_again):
    """Its last job is purged between two looks: the wait ends by the outcomes seen last.

    It does not wait for a new group that has the name by then.
    """
    from aragora_q.cli import waiting

    await group(Completed(b"{}"))
    tracker, looks = harness.queue.tracker, []
    get_group = tracker.get_group

    async def get_then_purge(name):
        found = await get_group(name)
        if not looks:
            await harness.queue.cancel("waits")
            assert await harness.queue.purge_many(["runs", "waits"]) == ["purged", "purged"]
            if is_name_used_again:
                await harness.enqueue("next", group="g")
        looks.append(found)
        return found

    tracker.get_group = get_then_purge
    ended = await waiting.ended_group(harness.queue, "g", 30, quiet=True)
    assert (len(looks), looks[-1] is not None) == (2, is_name_used_again)
    assert (ended, waiting.group_exit_code(ended)) == (looks[0], 0)


async def test_a_group_that_is_lost_meanwhile_is_not_a_success(harness, group):
    """Another program deleted its hash: its jobs may still run and fail, so it is not found."""
    from aragora_q.cli import waiting

    get_group = harness.queue.tracker.get_group

    async def get_then_delete(name):
        found = await get_group(name)
        harness.redis.delete(harness.keys.group("g"))
        return found

    harness.queue.tracker.get_group = get_then_delete
    with pytest.raises(GroupNotFound):
        await waiting.ended_group(harness.queue, "g", 30, quiet=True)


async def test_a_filter_waits_for_what_matches_now(harness, run_cli, group):
    """--group with another option waits for the jobs themselves; nothing that matches is not an error."""
    ended = run_cli("wait", "--group", "g", "--status", "processing", "--timeout", 0)
    assert (ended.code, ended.err.count("runs"), "waits" in ended.err) == (124, 1, False)
    await group(Completed(b"{}"))
    assert run_cli("wait", "--group", "g", "--status", "completed", "-q").lines == ["runs"]
    nothing = run_cli("wait", "--tenant", "nothing")
    assert (nothing.code, nothing.out) == (0, "")
    assert nothing.err.startswith("no jobs match in queue debates at redis://")


async def test_ids_from_stdin(run_cli, group):
    """Ids, or JSON lines with an id; a line without one is an error, empty input is not."""
    await group(Completed(b"{}"))
    assert run_cli("wait", "-", "-q", stdin='runs\n{"id": "runs", "created": true}\n').lines == [
        "runs"
    ]
    assert run_cli("wait", "-", stdin="missing\n").code == 3
    assert run_cli("wait", "-", stdin="{}\n").code == 65
    nothing = run_cli("wait", "-", stdin="")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "")
