"""`aragora-q status`: one job with its history."""

import json
import re

import pytest
from support.sample_debates import SAMPLES

from aragora_q import codec
from aragora_q.contracts import Completed, Failed, Held

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 vendor=1"


async def test_an_error_is_shown_in_full(harness, run_cli):
    """`status` and `wait` show all of a long error, because the remedy is at its end."""
    session = await harness.worker()
    await harness.enqueue("bad")
    error = "PermanentError: no agent is left: " + "a: no answer; " * 20 + "set ANTHROPIC_API_KEY"
    await harness.report(session, await harness.start_one(session), Failed(error))
    for name in ("status", "wait"):
        shown = " ".join(run_cli(name, "bad").out.split())
        assert f"last error {error}" in shown
        assert shown.count("history") == (name == "status")


@pytest.mark.usefixtures("within_a_day")
async def test_times_of_another_day_have_a_date(harness, run_cli):
    """`status` and `tail` show times of today without, older ones with their date."""
    session = await harness.worker()
    await harness.enqueue("bad")
    await harness.report(session, await harness.start_one(session), Failed("no"))
    today = " ".join(run_cli("status", "bad").lines[-1].split())
    assert re.fullmatch(r"history \d\d:\d\d:\d\d attempt 1 .*: no", today)
    key = f"{harness.keys.job('bad')}:history"
    event = json.loads(harness.redis.lindex(key, 0))
    harness.redis.lset(key, 0, json.dumps({**event, "at": event["at"] - 2 * 86_400_000}))
    older = " ".join(run_cli("status", "bad").lines[-1].split())
    assert re.fullmatch(r"history \d{4}-\d\d-\d\d \d\d:\d\d:\d\d attempt 1 .*: no", older)


async def test_a_failed_job_shows_its_partial_result(harness, run_cli):
    """`status`, `wait` and `list` have it as `result`; the text says that it is partial; `wait` ends with 1."""
    session = await harness.worker()
    for job_id, outcome in (
        ("partly", Failed("no vote", b'{"answers":["tea"]}')),
        ("bad", Failed("no vote")),
        ("done", Completed(b'{"answers":["tea"]}')),
    ):
        await harness.enqueue(job_id)
        await harness.report(session, await harness.start_one(session), outcome)
    for command in (("status", "partly"), ("wait", "partly")):
        code = int(command[0] == "wait")
        shown = run_cli(*command)
        assert shown.code == code
        assert "partial the job failed before its result was complete; to continue: " in _joined(
            shown
        )
        assert "aragora-q requeue partly" in _joined(shown)
        assert 'result {"answers": ["tea"]}' in _joined(shown)
        assert run_cli(*command, "--json").object["result"] == {"answers": ["tea"]}
    assert "partial" not in run_cli("status", "bad").out + run_cli("status", "done").out
    listed = {job["id"]: job["result"] for job in run_cli("list", "--json").objects}
    assert listed == {"partly": {"answers": ["tea"]}, "bad": None, "done": {"answers": ["tea"]}}


async def test_the_trace_is_shown_if_there_is_one(harness, run_cli):
    """`status` has a row for it, JSON `trace_id` and `trace_sampled`: null if there is none."""
    for job_id, trace in (("none", ""), ("odd", "\x1b[31m"), ("some", TRACE)):
        await harness.enqueue(job_id)
        if trace:
            harness.redis.hset(harness.keys.job(job_id), "trace", trace)
    assert "trace      4bf92f3577b34da6a3ce929d0e0e4736" in run_cli("status", "some").lines
    assert "not sampled" not in run_cli("status", "some").out
    harness.redis.hset(harness.keys.job("some"), "trace", f"{TRACE[:53]}00")
    assert f"trace      {TRACE[3:35]} (not sampled)" in run_cli("status", "some").lines
    assert "trace" not in run_cli("status", "none").out + run_cli("status", "odd").out
    assert run_cli("status", "some", "--json").object["trace_id"] == TRACE[3:35]
    await harness.enqueue("sampled")
    harness.redis.hset(harness.keys.job("sampled"), "trace", TRACE)
    listed = run_cli("list", "--json").objects
    assert {job["id"]: (job["trace_id"], job["trace_sampled"]) for job in listed} == {
        "none": (None, None), "odd": (None, None), "some": (TRACE[3:35], False), "sampled": (TRACE[3:35], True),
    }  # fmt: skip


async def test_labels_are_shown_if_there_are_any(harness, run_cli):
    """One row for each of group, tenant and tags."""
    await harness.enqueue("all", group="nightly", tenant="acme", tags={"b": "2", "a": "1"})
    await harness.enqueue("some", tags={f"name-{n}": "x" * 48 for n in range(8)})
    await harness.enqueue("none")
    shown = run_cli("status", "all")
    assert shown.lines[2:5] == ["group      nightly", "tenant     acme", "tags       a=1 b=2"]
    shown = run_cli("status", "some")
    assert " ".join(f"name-{n}={'x' * 48}" for n in range(8)) in _joined(shown)
    assert max(map(len, shown.lines)) <= 80
    assert not {"group", "tenant"} & {line.split()[0] for line in shown.lines}
    shown = run_cli("status", "none").out
    assert "tags" not in shown


def _joined(shown):
    return " ".join(shown.out.split())


async def test_the_quote_of_a_debate(harness, run_cli):
    """Next to what it has cost so far, then next to what it cost; `status --json` has it as `quote_usd`."""
    made, entries = SAMPLES["running"]()
    await harness.enqueue_payload("tea", made.payload)
    assert run_cli("status", "tea", "--json").object["quote_usd"] is None
    session = await harness.worker()
    job = await harness.start_one(session)
    await session.checkpoint(job, "begun", {**entries["begun"], "quote_usd": 0.4})
    assert re.search(r"^quoted +\$0\.40$", run_cli("status", "tea").out, re.MULTILINE)
    await session.report_progress(job, {**made.progress, "cost_usd": 0.1, "quote_usd": 0.4})
    assert "$0.10 (quoted $0.40)" in " ".join(run_cli("status", "tea").out.split())
    assert run_cli("status", "tea", "--json").object["quote_usd"] == 0.4
    assert run_cli("show", "tea", "-f", "json").object["quote_usd"] == 0.4
    ended = SAMPLES["agreeing"]()[0].result | {"cost_usd": 0.42, "quote_usd": 0.4}
    await harness.report(session, job, Completed(codec.encode(ended)))
    for name in ("status", "show"):
        assert "cost $0.42 (quoted $0.40)" in " ".join(run_cli(name, "tea").out.split())
    assert run_cli("status", "tea", "--json").object["quote_usd"] == 0.4


async def test_the_quote_of_a_debate_that_is_held_before_its_first_call(harness, run_cli):
    """The attempt was not charged; who raises the budget sees what the debate is expected to cost."""
    made, entries = SAMPLES["running"]()
    await harness.enqueue_payload("tea", made.payload)
    session = await harness.worker()
    job = await harness.start_one(session)
    await session.checkpoint(job, "begun", {**entries["begun"], "quote_usd": 0.4})
    await harness.report(session, job, Held("budget", "the debate is expected to cost more", "day"))
    held = run_cli("status", "tea", "--json").object
    assert (held["status"], held["attempts"], held["quote_usd"]) == ("held", 0, 0.4)
    assert re.search(r"^quoted +\$0\.40$", run_cli("status", "tea").out, re.MULTILINE)
