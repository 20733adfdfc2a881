"""A debate as a job: breaking a rule is an error that names field and rule."""

import math
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aragora_q import codec
from aragora_q.answer_form import is_blank
from aragora_q.base import Job, is_job_id, new_job_id
from aragora_q.errors import InvalidPayload
from aragora_q.job import (
    CONSENSUS_MODES,
    MAX_QUESTION_CHARS,
    ROUNDS_RANGE,
    DebateJobPayload,
    DebateResult,
    create_debate_job,
)
from aragora_q.job_rules import AGENTS_RANGE, check_job


def debate(**changed):
    return {"question": "Why?", "agents": ["claude", "gpt"], **changed}


def test_the_specified_job():
    """The specification's arguments make a job with exactly those fields, a random id, and nothing delayed."""
    job = create_debate_job(
        question="Should we use microservices?",
        agents=["claude", "gpt"],
        rounds=3,
        consensus="majority",
    )
    assert job.payload == {
        "question": "Should we use microservices?",
        "agents": ["claude", "gpt"],
        "rounds": 3,
        "consensus": "majority",
    }
    assert re.fullmatch("[0-9A-Za-z]{18}", job.id)
    assert (job.priority, job.max_attempts, job.delay_seconds) == (0, None, 0.0)
    assert create_debate_job("Why?", ["a", "b"]).id != job.id


def test_defaults_are_as_specified():
    """Three rounds and a majority, unless asked otherwise."""
    payload = DebateJobPayload.from_dict(debate())
    assert (payload.rounds, payload.consensus) == (3, "majority")


payloads = st.fixed_dictionaries(
    {
        "question": st.text(min_size=1, max_size=50).filter(lambda text: not is_blank(text)),
        "agents": st.lists(st.sampled_from(["claude", "gpt", "demo:a"]), min_size=2, max_size=16),
    },
    optional={
        "rounds": st.integers(*ROUNDS_RANGE),
        "consensus": st.sampled_from(CONSENSUS_MODES),
        "timeout_seconds": st.integers(1, 10_000) | st.floats(0.1, 1e6),
        "metadata": st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)),
    },
).map(lambda data: data | ({"judge": "eve"} if data.get("consensus") in JUDGED else {}))
JUDGED = ("judge", "synthesis")


@given(payloads)
def test_payload_survives_encoding(data):
    """An executor reads what a client enqueued, including duplicate agents and zero rounds."""
    payload = DebateJobPayload.from_dict(data)
    assert DebateJobPayload.from_dict(codec.decode(codec.encode(payload.to_dict()))) == payload
    for name, value in data.items():
        assert getattr(payload, name) == value


LOW, HIGH = AGENTS_RANGE

REFUSED = {
    "empty question": (debate(question=""), "question is empty"),
    "blank question": (debate(question=" \n\t"), "question is empty"),
    "question is a number": (debate(question=7), "question must be a text, got 7"),
    "long question": (
        debate(question="x" * (MAX_QUESTION_CHARS + 1)),
        f"question has {MAX_QUESTION_CHARS + 1} characters, at most {MAX_QUESTION_CHARS}",
    ),
    "no question": ({"agents": ["a", "b"]}, "question is missing"),
    "no agents": ({"question": "Why?"}, "agents is missing"),
    "no agent": (debate(agents=[]), "agents is 0, must be a whole number from 1 to 16"),
    "one agent with others to join": (
        debate(agents=["a"], escalate=["b"]),
        "escalate requires two agents: one has no other to disagree with",
    ),
    "many agents": (debate(agents=["a"] * (HIGH + 1)), f"agents is {HIGH + 1}, must be"),
    "agents are a text": (debate(agents="claude"), "agents must be a list of names"),
    "empty agent": (debate(agents=["a", ""]), "agents must be a list of names"),
    "agent is a number": (debate(agents=["a", 1]), "agents must be a list of names"),
    "rounds below": (debate(rounds=-1), "rounds is -1, must be a whole number from 0 to 20"),
    "rounds above": (debate(rounds=21), "rounds is 21, must be a whole number from 0 to 20"),
    "rounds is a fraction": (
        debate(rounds=1.5),
        "rounds is 1.5, must be a whole number from 0 to 20",
    ),
    "rounds is a truth": (
        debate(rounds=True),
        "rounds is True, must be a whole number from 0 to 20",
    ),
    "rounds is a text": (debate(rounds="3"), "rounds is '3', must be a whole number from 0 to 20"),
    "unknown consensus": (debate(consensus="most"), "consensus is 'most', must be one of majority"),
    "consensus is a list": (debate(consensus=["majority"]), "consensus is"),
    "no time": (debate(timeout_seconds=0), "timeout_seconds must be a number above 0"),
    "time is not a number": (debate(timeout_seconds=math.nan), "timeout_seconds must be a number"),
    "endless time": (debate(timeout_seconds=math.inf), "timeout_seconds must be a number above 0"),
    "huge time": (debate(timeout_seconds=10**400), "timeout_seconds must be a number above 0"),
    "metadata is a list": (debate(metadata=[1]), "metadata must be a JSON object"),
    "unknown field": (debate(round=3), "unknown field 'round'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_payload_names_field_and_rule(case):
    """One line that says which field, which value, which rule; never a TypeError."""
    data, message = REFUSED[case]
    with pytest.raises(InvalidPayload) as refused:
        DebateJobPayload.from_dict(data)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 500
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (debate(consensus="majorty"), "did you mean 'majority'?"),
        (debate(agent=["a"]), "did you mean 'agents'?"),
        (debate(qestion="x"), "did you mean 'question'?"),
    ],
)
def test_near_miss_is_named(data, hint):
    """A typing mistake is answered with the nearest known name."""
    with pytest.raises(InvalidPayload) as refused:
        DebateJobPayload.from_dict(data)
    assert refused.value.hint == hint


def test_agents_as_one_text_are_refused():
    """`agents="claude,gpt"` is not ten agents with one letter each."""
    with pytest.raises(InvalidPayload, match="agents must be a list of names"):
        create_debate_job("Why?", "claude,gpt")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("id", "", "invalid job id '': use 1 to 64 letters, digits"),
        ("id", "a:b", "invalid job id 'a:b': use"),
        ("id", "-rf", "invalid job id '-rf': use"),
        ("id", 7, "invalid job id 7: use"),
        ("id", "x" * 65, "xxx': use 1 to 64"),
        ("payload", [1], "payload must be a JSON object, got [1]"),
        ("payload", None, "payload must be a JSON object, got None"),
        ("priority", 1001, "priority is 1001, must be a whole number from -1000 to 1000"),
        ("priority", 0.5, "priority is 0.5, must be a whole number"),
        ("priority", "high", "priority is 'high', must be a whole number"),
        ("priority", True, "priority is True, must be a whole number"),
        ("max_attempts", 0, "max_attempts is 0, must be a whole number from 1 to 1000"),
        ("max_attempts", "3", "max_attempts is '3', must be a whole number"),
        ("delay_seconds", -1, "delay_seconds is -1, must be"),
        ("delay_seconds", math.nan, "delay_seconds is nan, must be"),
        ("delay_seconds", math.inf, "delay_seconds is inf, must be"),
        ("delay_seconds", "10", "delay_seconds is '10', must be"),
        ("delay_seconds", None, "delay_seconds is None, must be"),
    ],
)
def test_invalid_job_is_refused(field, value, message):
    """Id, payload, priority, attempts and delay are checked before anything is sent."""
    job = Job({})
    setattr(job, field, value)
    with pytest.raises(InvalidPayload) as refused:
        check_job(job)
    assert message in str(refused.value)


def test_result_survives_encoding():
    """A result that is read back from JSON equals the original."""
    result = DebateResult(
        debate_id="d1",
        consensus_reached=True,
        final_answer="yes",
        confidence=0.75,
        rounds_used=2,
        participants=["claude", "gpt"],
        duration_seconds=12.5,
        token_usage={"total": 10},
    )
    assert DebateResult.from_dict(codec.decode(codec.encode(result.to_dict()))) == result


def _itself():
    metadata = {}
    metadata["self"] = metadata
    return metadata


def _nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "metadata", [_itself(), {"a": _nested(100_000)}], ids=["contains itself", "nested deeply"]
)
def test_metadata_without_end(metadata):
    """Metadata that cannot be copied is refused when the job is created, by either function."""
    with pytest.raises(InvalidPayload, match="nested too deeply"):
        create_debate_job("Why?", ["a", "b"], metadata=metadata)
    with pytest.raises(InvalidPayload, match="nested too deeply"):
        DebateJobPayload.from_dict(debate(metadata=metadata)).to_dict()


@pytest.mark.parametrize(
    "change",
    [{"transcript": 0}, {"max_answer_words": 200.0}, {"escalate": ""}, {"consensus": "judge"}],
    ids=lambda change: next(iter(change)),
)
def test_almost_a_default(change):
    """A value that equals a default without being of its type is refused; so is a judge that is missing."""
    with pytest.raises(InvalidPayload, match=next(iter(change))):
        create_debate_job("Why?", ["a", "b"], **change)


def test_ids_of_forks_differ():
    """Ids are made in advance; a child does not have those of its parent."""
    new_job_id()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, new_job_id().encode())
        os._exit(0)
    os.waitpid(child, 0)
    others = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)
    assert is_job_id(others)
    assert others != new_job_id()


def test_new_ids():
    """They differ, and are letters and digits."""
    ids = [new_job_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert all(len(each) == 18 and each.isascii() and each.isalnum() for each in ids)
