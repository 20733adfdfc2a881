"""Debates of an experiment as its group holds them: what a sweep enqueues, and results that are made up."""

import random

from support import sample_debates

from aragora_q import codec
from aragora_q.base import Job, JobStatus
from aragora_q.contracts import Completed, Failed, Report
from aragora_q.experiments.notes import ARM_TAG, Note
from aragora_q.experiments.rows import row_of
from aragora_q.job import EXPERIMENT_NOTE
from aragora_q.redis.scripts import BATCH_LIMIT

OPTIONS = ["Mars", "Jupiter", "Saturn"]
CITIES = ["Paris", "Rome", "Oslo"]

ARMS = {
    "one": (0.6, 0.0008, 1),
    "samples": (0.66, 0.0041, 5),
    "vote": (0.7, 0.0042, 5),
    "debate": (0.8, 0.0044, 8),
}
"""By name: the share of right verdicts, US dollars and calls of a debate."""


def job(
    arm,
    number,
    *,
    question=None,
    expected=("Jupiter",),
    place=0,
    job_id=None,
    group="trivia",
    **payload,
):
    """A debate of an arm: by default, a choice among planets."""
    note = Note(arm, number, expected, place)
    return Job(
        {
            "question": question or f"Question {number}: which planet?",
            "agents": ["ann", "bob", "cyd"],
            "answer_form": "choice",
            "options": OPTIONS,
            "metadata": {EXPERIMENT_NOTE: note.to_dict()},
            **payload,
        },
        id=job_id or f"{arm}-{number}",
        group=group,
        tags={ARM_TAG: arm},
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


async def fill_arms(queue, session, group, questions=50, arms=ARMS, *, live=0):
    """Add the debates of arms and report their results, by chance; the last `live` of them are not due yet."""
    chance = random.Random(7)
    jobs = [
        job(
            arm, n, question=f"Question {n}: which of these cities is meant?", options=CITIES,
            expected=("Paris",), place=place, job_id=f"{group}-{arm}-{n}", group=group,
        )
        for n in range(1, questions + 1)
        for place, arm in enumerate(arms, 1)
    ]  # fmt: skip
    for start in range(0, len(jobs) - live, BATCH_LIMIT):
        await queue.enqueue_many(jobs[start : min(start + BATCH_LIMIT, len(jobs) - live)])
        started = (await session.start(BATCH_LIMIT)).jobs
        await session.report([Report(each, _outcome(each, arms, chance)) for each in started])
    for each in jobs[len(jobs) - live :]:
        each.delay_seconds = 9_000
        await queue.enqueue(each)


def _outcome(made, arms, chance):
    share, usd, calls = arms[made.tags[ARM_TAG]]
    if chance.random() < 0.02:
        return Failed("model m: no answer after 3 attempts")
    verdict = "Paris" if chance.random() < share else chance.choice(CITIES[1:])
    dissent = [] if chance.random() < 0.5 else ["Oslo" if verdict != "Oslo" else "Paris"]
    changed = [{"seat": 1, "before": "Rome", "after": verdict}] if chance.random() < 0.3 else []
    ballots = [
        {"seat": n, "agent": "ann", "answers": 3, "place": 1 + n, "label": 1, "self": n == 0}
        for n in range(3)
    ]
    found = result(
        verdict, dissent=[{"verdict": each, "seats": [2]} for each in dissent], changed=changed, votes=ballots,
        confidence=2 / 3 if dissent else 1.0, cost_usd=usd * chance.uniform(0.7, 1.3), quote_usd=usd,
        duration_seconds=1.5 * calls,
        token_usage={"requests": calls, "input_tokens": 900, "output_tokens": 300},
    )  # fmt: skip
    return Completed(codec.encode(found))
