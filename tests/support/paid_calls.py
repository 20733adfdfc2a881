"""Paid calls through the gates, without an executor."""

from aragora_q.base import Job
from aragora_q.context import Call, Settlement


def call(call_id="j/1/a", **fields):
    """A call of one dollar at most, to a provider that no test reaches."""
    return Call(
        **{
            "id": call_id,
            "agent": "claude",
            "provider": "anthropic",
            "account": "anthropic@0a1b2c3d",
            "model": "anthropic:opus",
            "max_input_tokens": 100,
            "max_output_tokens": 100,
            "max_cost_usd": 1.0,
            **fields,
        }
    )


def ok(usd, **fields):
    """Fields of the settlement of a call that was answered."""
    return {"outcome": "ok", "input_tokens": 100, "output_tokens": 20, "cost_usd": usd, **fields}


async def book(queue, *calls):
    """Acquire calls of as many jobs, and settle them.

    Each is the fields of a job, of its call and of its settlement (None: it is not settled).
    """
    gates = queue.gates("booker")
    for number, (labels, fields, settlement) in enumerate(calls):
        job = Job(payload={}, **{"id": f"j{number}", **labels})
        asked = call(f"{job.id}/1/a", **fields)
        await gates.acquire(job, asked)
        if settlement is not None:
            await gates.settle(job, asked, Settlement(**settlement))
    await gates.close()
