"""Fill a group with the debates of an experiment whose results are made up, as workers leave them."""

import random

from aragora_q import codec
from aragora_q.base import Job
from aragora_q.contracts import Completed, Failed, Report
from aragora_q.experiments.notes import ARM_TAG, NOTE, Note
from aragora_q.redis.scripts import BATCH_LIMIT

ARMS = {
    "one": (0.6, 0.0008, 1),
    "samples": (0.66, 0.0041, 5),
    "vote": (0.7, 0.0042, 5),
    "debate": (0.8, 0.0044, 8),
}
"""By name: the share of right verdicts, US dollars and calls of a debate."""

OPTIONS = ["Paris", "Rome", "Oslo"]


def payload(arm, number, question, *, place=0, expected=("Paris",), options=OPTIONS):
    """The payload of a debate, as `sweep` makes it."""
    note = Note(arm, number, tuple(expected), place).to_dict()
    return {
        "question": question, "agents": ["ann", "bob", "cyd"], "answer_form": "choice", "options": options,
        "metadata": {NOTE: note},
    }  # fmt: skip


def result(verdict, *, dissent=(), usd=0.001, calls=3, agreement=1.0, changed=()):
    """The result of a debate of three seats."""
    seats = [
        {"seat": n, "agent": name, "model": "m"} for n, name in enumerate(("ann", "bob", "cyd"))
    ]
    votes = [
        {"seat": n, "agent": "ann", "answers": 3, "place": 1 + n % 3, "label": 1, "self": n == 0}
        for n in range(3)
    ]
    return {
        "final_answer": f"{verdict}, because it is.", "verdict": verdict, "consensus_reached": agreement > 0.5,
        "confidence": agreement, "dissent": [{"verdict": each, "seats": [2]} for each in dissent],
        "seats": seats, "first_votes": [{"seat": n, "verdict": verdict} for n in range(3)],
        "changed": list(changed), "votes": votes, "rounds_used": 2, "cost_usd": usd, "quote_usd": usd,
        "unpriced_calls": 0, "abstentions": 0, "duration_seconds": 1.5 * calls,
        "token_usage": {"requests": calls, "input_tokens": 900, "output_tokens": 300},
    }  # fmt: skip


async def fill(queue, session, group, questions=50, arms=ARMS, *, pad=0, live=0):
    """Add the debates of arms and report their results; the last `live` of them are not due yet.

    `pad`: bytes of transcript in each result.
    """
    chance = random.Random(7)
    jobs = [
        Job(
            payload(arm, n, f"Question {n}: which of these cities is meant?", place=place),
            id=f"{group}-{arm}-{n}", group=group, tags={ARM_TAG: arm},
        )
        for n in range(1, questions + 1)
        for place, arm in enumerate(arms, 1)
    ]  # fmt: skip
    for start in range(0, len(jobs) - live, BATCH_LIMIT):
        await queue.enqueue_many(jobs[start : min(start + BATCH_LIMIT, len(jobs) - live)])
        started = (await session.start(BATCH_LIMIT)).jobs
        await session.report([Report(job, _outcome(job, arms, chance, pad)) for job in started])
    for job in jobs[len(jobs) - live :]:
        job.delay_seconds = 9_000
        await queue.enqueue(job)


def _outcome(job, arms, chance, pad):
    share, usd, calls = arms[job.tags[ARM_TAG]]
    if chance.random() < 0.02:
        return Failed("model m: no answer after 3 attempts")
    is_right = chance.random() < share
    verdict = "Paris" if is_right else chance.choice(OPTIONS[1:])
    dissent = [] if chance.random() < 0.5 else ["Oslo" if verdict != "Oslo" else "Paris"]
    changed = [{"seat": 1, "before": "Rome", "after": verdict}] if chance.random() < 0.3 else []
    found = result(
        verdict, dissent=dissent, usd=usd * chance.uniform(0.7, 1.3), calls=calls,
        agreement=2 / 3 if dissent else 1.0, changed=changed,
    )  # fmt: skip
    return Completed(codec.encode({**found, "transcript": "x" * pad} if pad else found))
