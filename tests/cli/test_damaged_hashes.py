"""Commands on jobs whose data is damaged: one clear line, and the other jobs are shown."""

import pytest

from aragora_q.contracts import Completed


class TestDamagedHashes:
    """An unexpected value in one job's hash affects that job only."""

    @pytest.mark.parametrize(
        ("field", "value"), [("attempts", "abc"), ("created_at", "9" * 18), ("status", "weird")]
    )
    async def test_list_reports_a_damaged_job_and_shows_the_others(
        self, harness, run_cli, field, value
    ):
        """All other jobs are listed in every format; the error is printed once, exit 65."""
        for name in ("one", "bad", "two"):
            await harness.enqueue(name)
        harness.redis.hset(harness.keys.job("bad"), field, value)
        for args in (("--jsonl",), ("--jsonl", "-s", "pending"), ()):
            ended = run_cli("list", *args)
            assert (ended.code, ended.err.count("error:")) == (65, 1)
            assert "job bad" in ended.err
            assert "one" in ended.out
            assert "two" in ended.out

    async def test_commands_for_one_job_say_what_is_wrong(self, harness, run_cli):
        """One clear line and exit 65, never a traceback."""
        await harness.enqueue("bad")
        harness.redis.hset(harness.keys.job("bad"), "status", "weird")
        for args in (("wait", "bad", "--timeout", "5"), ("status", "bad")):
            ended = run_cli(*args)
            assert (ended.code, "data of job bad in Redis is corrupted" in ended.err) == (65, True)

    async def test_the_next_job_is_shown_and_all_can_be_cancelled(self, harness, run_cli):
        """`status` continues after a damaged job; `cancel` ends even that one."""
        await harness.enqueue("bad")
        await harness.enqueue("good")
        harness.redis.hset(harness.keys.job("bad"), "status", "weird")
        shown = run_cli("status", "bad", "good", "--json")
        assert (shown.code, shown.ids) == (65, ["good"])
        ended = run_cli("cancel", "bad", "good", "--json")
        assert (ended.code, ended.ids) == (0, ["bad", "good"])

    @pytest.mark.parametrize("part", ["history", "journal", "result"])
    async def test_damaged_parts(self, harness, run_cli, part):
        """History, progress or result that is not JSON: one clear line, exit 65."""
        await harness.enqueue("bad")
        session = await harness.worker()
        await harness.report(session, await harness.start_one(session), Completed(b"{}"))
        key = f"{harness.keys.job('bad')}:{part}"
        harness.redis.delete(key)
        {
            "history": lambda: harness.redis.rpush(key, "garbled"),
            "journal": lambda: harness.redis.hset(key, "progress", "garbled"),
            "result": lambda: harness.redis.set(key, "{}\ngarbled"),
        }[part]()
        ended = run_cli("status", "bad")
        assert (ended.code, "data of job bad in Redis is corrupted" in ended.err) == (65, True)

    async def test_reasons_and_errors_that_are_no_texts(self, harness, run_cli):
        """They are shown as JSON, and the list of jobs has all jobs."""
        await harness.enqueue("bad")
        await harness.queue.hold("bad", reason="r")
        harness.redis.rpush(
            harness.keys.history("bad"), '{"cause": "held", "reason": 1.5, "error": ["x"]}'
        )
        for args, found in [(("status", "bad"), "1.5"), (("list",), "bad")]:
            shown = run_cli(*args)
            assert (shown.code, found in shown.out) == (0, True), shown

    @pytest.mark.parametrize("at", ["inf", "-1", "1e18"])
    async def test_times_that_are_none(self, harness, run_cli, at):
        """An end that is not a time is corrupted data; in the history, it is a question mark."""
        await harness.enqueue("bad")
        await harness.queue.cancel("bad")
        harness.redis.rpush(harness.keys.history("bad"), '{"at": "x"}', f'{{"at": {10**30}}}')
        shown = run_cli("status", "bad")
        assert (shown.code, shown.out.count("? attempt ?")) == (0, 2)
        harness.redis.zadd(harness.keys.cancelled, {"bad": at})
        ended = run_cli("status", "bad")
        assert (ended.code, "data of job bad in Redis is corrupted" in ended.err) == (65, True)
