"""The course of a debate: seats by phases."""

import pytest
from support import sample_debates

from aragora_q.base import JobStatus
from aragora_q.report.calls import read_calls
from aragora_q.report.grid import CellState, build_grid


def grid_of(name, **changes):
    """The grid of a sample debate."""
    job, journal = sample_debates.SAMPLES[name]()
    for field, value in changes.items():
        setattr(job, field, value)
    return build_grid(job, read_calls(journal, None))


def states(grid):
    return [[cell.state.value for cell in row.cells] for row in grid.rows]


def test_a_debate_that_ended():
    """Every phase is a column, the vote the last; who changed its mind is marked where it did."""
    grid = grid_of("disagreeing")
    assert grid.columns == [
        "Answers", "Round 1: reviews", "Round 1: revisions", "Round 2: reviews", "Round 2: revisions", "Vote",
    ]  # fmt: skip
    assert [row.name for row in grid.rows] == [
        "seat 1, ann", "seat 2, bob", "seat 3, cyd", "seat 4, dan", "seat 5, eve",
    ]  # fmt: skip
    assert [[cell.has_changed for cell in row.cells] for row in grid.rows][4] == [
        False, False, True, False, False, False,
    ]  # fmt: skip
    assert [row.cost_usd for row in grid.rows] == pytest.approx([0.0155] * 5)


def test_a_phase_that_is_under_way():
    """A seat that has not answered in the phase that is under way is waited for."""
    grid = grid_of("running")
    assert grid.columns[-1] == "Round 2: reviews"
    assert {row[-1] for row in states(grid)} == {CellState.ASKED}
    assert grid.cost_usd == pytest.approx(5 * 0.0093)


def test_a_debate_that_has_just_begun():
    """Before the first report, all seats are asked for their answers."""
    job, _ = sample_debates.SAMPLES["running"]()
    job.progress = None
    assert states(build_grid(job, read_calls({}, None))) == [["asked"]] * 5


def test_a_debate_that_does_not_run():
    """A debate that waits, or was cancelled before its first reply, has no phase."""
    for status in (JobStatus.PENDING, JobStatus.HELD, JobStatus.CANCELLED):
        job, _ = sample_debates.SAMPLES["running"]()
        job.status = status
        assert build_grid(job, read_calls({}, None)).columns == []


def test_a_seat_that_dropped_out():
    """A seat that dropped out is marked, and absent from the phases after that."""
    grid = grid_of("dropped")
    assert [row.is_dropped for row in grid.rows] == [False, False, True]
    assert states(grid)[2][1] == "dropped"


def test_replies_that_could_not_be_used():
    """A phase in which a seat gave no usable reply says why."""
    grid = grid_of("failed")
    assert grid.columns == ["Answers", "Round 1: reviews", "Ballots", "Vote"]
    assert states(grid)[0][2:] == ["failed", "absent"]
    assert "choice must be one of KQTR, BXLM" in str(grid.rows[0].cells)


def test_a_reply_that_was_taken_over_is_marked():
    """Its price of 0 has a reason next to it; no other reply is marked."""
    job, journal = sample_debates.SAMPLES["disagreeing"]()
    taken = {
        name: entry | {"from": "source", "usd": 0}
        for name, entry in journal.items()
        if name.startswith("call/propose.")
    }
    assert taken
    marked = [
        ["taken over" in cell.notes for cell in row.cells]
        for row in build_grid(job, read_calls(journal | taken, None)).rows
    ]
    assert marked == [[True] + [False] * 5] * 5


def test_foreign_values_do_no_harm():
    """Values that another program wrote are read as far as they can be."""
    job, journal = sample_debates.SAMPLES["disagreeing"]()
    odd = {
        "value": {"answer": [1], "changed": 1, "confidence": {}},
        "phase": 7,
        "round": "x",
        "usd": "much",
    }
    journal["call/propose.0.0"] = odd
    job.payload |= {"agents": [None, 3], "judge": 5}
    job.result |= {"votes": [{"seat": "x", "group": 99}, 5], "changed": [None], "groups": "x"}
    for joining in ("x", "two", 2, True, {"n": 1}):
        job.payload["escalate"] = joining
        assert build_grid(job, read_calls(journal, None)).rows
