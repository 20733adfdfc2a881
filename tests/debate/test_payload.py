"""What a debate may ask for: every refusal names field, value and rule."""

import pytest

from aragora_q.contracts import Failed
from aragora_q.errors import InvalidPayload
from aragora_q.job import CONSENSUS_MODES, DebateJobPayload, DebateResult, create_debate_job

GOOD = {"question": "Tea or coffee?", "agents": ["demo", "demo"]}


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"question": ""}, "question is empty", "pass the question"),
        ({"question": " \n"}, "question is empty", "pass the question"),
        ({"question": "x" * (2 << 20)}, "question has 2097152 characters, at most 20000", ""),
        ({"agents": ["demo"]}, "number of agents is 1, must be a whole number from 2 to 16", ""),
        ({"agents": ["demo"] * 17}, "agents is 17, must be", ""),
        ({"agents": "claude,gpt"}, "agents must be a list of names", ""),
        ({"agents": ["claude", ""]}, "agents must be a list of names", ""),
        ({"rounds": -1}, "rounds is -1, must be a whole number from 0 to 20", ""),
        ({"rounds": 21}, "rounds is 21", ""),
        ({"rounds": True}, "rounds must be a whole number", ""),
        ({"consensus": "majorty"}, "consensus is 'majorty', must be one of", "majority"),
        ({"timeout_seconds": 0}, "timeout_seconds must be a number above 0", ""),
        ({"max_tokens": 0}, "max_tokens is 0, must be", ""),
        ({"max_cost_usd": 0}, "max_cost_usd must be a number above 0", ""),
        ({"judge": ""}, "judge must be the name of an agent", ""),
        ({"weights": {"dmeo": 2}}, "weights: 'dmeo' is not one of the agents", "demo"),
        ({"weights": {"demo": -1}}, "weights: demo must have a number above 0, got -1", ""),
        (
            {"weights": {"demo": float("inf")}},
            "weights: demo must have a number above 0, got inf",
            "",
        ),
        ({"transcript": "yes"}, "transcript must be true or false", ""),
        ({"metadata": []}, "metadata must be a JSON object", ""),
        ({"qestion": "x"}, "unknown field 'qestion'", "question"),
    ],
)
def test_a_bad_field_is_refused_by_name_value_and_rule(fields, message, hint):
    """As a ValueError, so that an executor that meets one fails the job permanently."""
    with pytest.raises(InvalidPayload) as caught:
        DebateJobPayload.from_dict({**GOOD, **fields})
    assert message in str(caught.value)
    assert hint in caught.value.hint
    assert len(str(caught.value)) < 500
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("mode", CONSENSUS_MODES)
async def test_every_mode_runs_to_a_result(run_debate, mode):
    """All modes that a job may name are modes that the executor knows."""
    _, _, result = await run_debate(
        agents=["demo"] * 3, rounds=1, consensus=mode, judge="demo:bold"
    )
    assert DebateResult.from_dict(result).debate_id == "job"


def test_a_payload_comes_back_as_it_went_in():
    """Empty fields are omitted; zero rounds are not empty."""
    job = create_debate_job(
        "Tea?", ["demo", "mine"], 0, "weighted", weights={"mine": 2.5}, transcript=True,
        max_tokens=100, max_cost_usd=0.5, judge="mine", timeout_seconds=9, metadata={"a": 1},
    )  # fmt: skip
    assert DebateJobPayload.from_dict(job.payload).to_dict() == job.payload
    assert job.payload["rounds"] == 0
    small = create_debate_job("Tea?", ["demo", "demo"]).payload
    assert set(small) == {"question", "agents", "rounds", "consensus"}


async def test_a_job_with_a_bad_payload_is_a_dead_letter_that_says_why(run_debate):
    """A payload that was enqueued without checks gets the same error from the worker."""
    from aragora_q import codec as wire
    from aragora_q.base import Job

    for fields, message in (
        ({"agents": ["demo", "nemo"]}, "unknown agent 'nemo'"),
        ({"rounds": -1}, "rounds is -1"),
    ):
        job = Job({}, id="job", raw_payload=wire.encode({**GOOD, **fields}))
        outcome, _, _ = await run_debate(job=job)
        assert isinstance(outcome, Failed)
        assert message in outcome.error
