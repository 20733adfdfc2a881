"""Debates of an experiment as its group holds them: what a sweep enqueues, and results made by hand."""

from support import sample_debates

from aragora_q import codec
from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed
from aragora_q.experiments.notes import Note
from aragora_q.experiments.rows import row_of

OPTIONS = ["Mars", "Jupiter", "Saturn"]


def job(arm, number, *, question=None, expected=("Jupiter",), place=0, job_id=None, **payload):
    """A debate of an arm in the group `trivia`: by default, a choice among planets."""
    note = Note(arm, number, expected, place)
    return Job(
        {
            "question": question or f"Question {number}: which planet?",
            "agents": ["ann", "bob", "cyd"],
            "answer_form": "choice",
            "options": OPTIONS,
            "metadata": {"experiment": note.to_dict()},
            **payload,
        },
        id=job_id or f"{arm}-{number}",
        group="trivia",
        tags={"arm": arm},
    )


def result(verdict="Jupiter", **fields):
    """The result of a debate of three seats that all hold the verdict."""
    votes = [(0, None)] * 3
    found = sample_debates.result(verdict, [(verdict, [0, 1, 2])], votes)
    return found | {"cost_usd": 0.03, "quote_usd": 0.04} | fields


def row(
    arm, number, verdict="Jupiter", *, status=JobStatus.COMPLETED, error=None, fields=None, **more
):
    """The row of such a debate that has ended; of a completed one, with its result."""
    made = job(arm, number, **more)
    made.status, made.error = status, error
    if status is JobStatus.COMPLETED:
        made.result = result(verdict, **(fields or {}))
    return row_of(made)


async def fill(harness, outcomes):
    """Enqueue jobs in one call, and report the outcome of each; None: the job waits.

    `outcomes` are pairs of a job and an outcome, or a verdict.
    """
    worker = await harness.worker("sweeper")
    ended = [(job, outcome) for job, outcome in outcomes if outcome is not None]
    await harness.queue.enqueue_many([job for job, _ in ended])
    started = {job.id: job for job in (await worker.start(len(ended))).jobs} if ended else {}
    for job, outcome in ended:
        if isinstance(outcome, str):
            outcome = Completed(codec.encode(result(outcome)))  # noqa: PLW2901 - a verdict
        await harness.report(worker, started[job.id], outcome)
    await harness.queue.enqueue_many([job for job, outcome in outcomes if outcome is None])
