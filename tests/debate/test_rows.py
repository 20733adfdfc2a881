"""Rows of real debates: what the engine writes is what a row reads."""

import pytest
from support.experiments import job as swept_job
from support.scripted_agents import THREE, saying

from aragora_q.base import JobStatus
from aragora_q.experiments.rows import Change, row_of

OPTIONS = {"answer_form": "choice", "options": ["Mars", "Jupiter", "Saturn"]}


@pytest.fixture
def row_of_debate(run_debate, seat_scripted_agents):
    """Runs a debate of three agents, of whom one follows the others, and returns its row and its result."""

    async def run(**fields):
        seat_scripted_agents(
            ann=saying("Jupiter"),
            bob=saying("Jupiter"),
            cyd=saying("Mars", choice="Mars"),
            dan=saying("Jupiter"),
        )
        _, _, result = await run_debate(agents=THREE, **fields)
        made = swept_job("debate", 1, **{"options": [], "answer_form": "text", **fields})
        made.status, made.result = JobStatus.COMPLETED, result
        return row_of(made), result

    return run


async def test_a_vote(row_of_debate):
    """Agreement, dissent, calls and tokens are those of the debate."""
    row, result = await row_of_debate(debate="never", **OPTIONS)
    assert (row.verdict, row.is_right, row.is_consensus) == ("Jupiter", True, True)
    assert (row.agreement, row.dissent) == (pytest.approx(2 / 3, abs=1e-4), ["Mars"])
    assert row.changes == [Change(True, True), Change(True, True), Change(False, False)]
    usage = result["token_usage"]
    assert (row.calls, row.tokens) == (
        usage["requests"],
        usage["input_tokens"] + usage["output_tokens"],
    )
    assert row.calls > 0
    assert row.models == ["scripted:ann", "scripted:bob", "scripted:cyd"]


async def test_all_answers_without_a_vote(row_of_debate):
    """With consensus mode none, a row has the answers of all seats, and no numbers of a vote."""
    row, _ = await row_of_debate(consensus="none", rounds=1)
    assert (row.verdict, row.agreement, row.is_consensus, row.is_right) == (None,) * 4
    assert row.answer.count("\n\n") >= 2
    assert (row.dissent, row.cast, row.error) == ((), (), "")


async def test_a_written_answer(row_of_debate):
    """With consensus mode synthesis, the verdict is that of the vote, and the answer is the text."""
    row, _ = await row_of_debate(consensus="synthesis", judge="dan", rounds=1)
    assert (row.verdict, row.is_right) == ("Jupiter", True)
    assert row.answer == "In short: Jupiter"
