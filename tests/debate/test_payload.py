"""What a debate may ask for: every refusal names field, value and rule."""

from dataclasses import MISSING, asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        ({"agents": []}, "number of agents is 0, must be a whole number from 1 to 16", ""),
        ({"agents": ["demo"], "escalate": ["demo"]}, "escalate requires two agents", ""),
        ({"agents": ["demo"] * 17}, "agents is 17, must be", ""),
        ({"agents": "claude,gpt"}, "agents must be a list of names", ""),
        ({"agents": ["claude", ""]}, "agents must be a list of names", ""),
        ({"rounds": -1}, "rounds is -1, must be a whole number from 0 to 20", ""),
        ({"rounds": 21}, "rounds is 21", ""),
        ({"rounds": True}, "rounds is True, must be a whole number", ""),
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
        ({"answer_form": "numbr"}, "answer_form is 'numbr', must be one of text, choice", "number"),
        ({"answer_form": ["text"]}, "answer_form is ['text'], must be", ""),
        ({"answer_form": None}, "answer_form is None, must be", ""),
        ({"answer_form": {}}, "answer_form: a JSON schema needs a type", "properties"),
        ({"answer_form": {"$ref": "#"}}, "answer_form: a JSON schema needs a type", ""),
        ({"answer_form": {"type": "object", "$ref": "#"}}, "$ref is '#', must be #/$defs/NAME", ""),
        (
            {"answer_form": {"type": "object", "$ref": "https://h"}},
            "$ref is 'https://h', must be",
            "",
        ),
        (
            {"answer_form": {"type": "string", "pattern": "a"}},
            "keyword pattern is not supported",
            "",
        ),
        ({"answer_form": {"type": "number", "minimum": float("nan")}}, "not finite", ""),
        ({"answer_form": {"enum": ["x" * 20] * 1_000}}, "at most 10000 are allowed", ""),
        ({"options": ["a", "b"]}, "options require answer_form choice, not text", ""),
        ({"options": "ab", "answer_form": "choice"}, "options must be a list of 2 to 50 texts", ""),
        ({"options": {"a": 1, "b": 2}, "answer_form": "choice"}, "options must be a list", ""),
        ({"options": ["a", "A"], "answer_form": "choice"}, "options: 'A' occurs twice", ""),
        ({"answer_form": "choice"}, "answer_form choice requires options", "2 to 50 texts"),
        (
            {"answer_form": {"type": "object", "properties": {"s": {"type": "strin"}}}},
            "answer_form is not a JSON schema: $.properties.s.type: 'strin' is not valid",
            "",
        ),
        ({"debate": "alway"}, "debate is 'alway', must be one of auto, always, never", "always"),
        ({"debate": True}, "debate is True, must be one of", ""),
        ({"resume": "strickt"}, "resume is 'strickt', must be one of continue, strict", "strict"),
        ({"resume": None}, "resume is None, must be", ""),
        ({"escalate": "demo"}, "escalate must be a list of names of agents, got 'demo'", ""),
        ({"escalate": [1]}, "escalate must be a list of names of agents", ""),
        ({"escalate": {"demo": 1}}, "escalate must be a list of names of agents", ""),
        ({"escalate": ["demo"] * 15}, "number of agents with escalate is 17", ""),
        ({"escalate": ["demo"], "debate": "never"}, "escalate requires a round", ""),
        ({"escalate": ["demo"], "rounds": 0}, "escalate requires a round", ""),
        (
            {"max_answer_words": 19},
            "max_answer_words is 19, must be a whole number from 20 to 5000",
            "",
        ),
        ({"max_answer_words": True}, "max_answer_words is True", ""),
        ({"max_answer_words": "200"}, "max_answer_words is '200'", ""),
        ({"max_answer_words": None}, "max_answer_words is None", ""),
        ({"consensus": "judge"}, "consensus judge requires a judge", "none of the agents"),
        ({"consensus": "synthesis"}, "consensus synthesis requires a judge", "none of the agents"),
        ({"consensus": "judge", "judge": "demo"}, "judge 'demo' is one of the agents", ""),
        (
            {"consensus": "synthesis", "judge": "mine", "escalate": ["mine"]},
            "judge 'mine' is one of the agents",
            "",
        ),
        (
            {"consensus": "synthesis", "judge": "mine", "answer_form": "number"},
            "consensus synthesis requires answer_form text",
            "",
        ),
        ({"weights": {"demo": True}}, "weights: demo must have a number above 0, got True", ""),
        ({"weights": {"demo": 10**400}}, "weights: demo must have a number above 0, got 1000", ""),
        ({"weights": []}, "weights must be a JSON object", ""),
        ({"weights": {"demo": 2}}, "weights require consensus weighted, not majority", ""),
        ({"judge": "mine"}, "judge requires consensus judge or synthesis, not majority", ""),
        (
            {"max_cost_usd": float("nan")},
            "max_cost_usd must be a number above 0 and at most 100,000,000, got nan",
            "",
        ),
        ({"max_cost_usd": 1e30}, "and at most 100,000,000, got 1e+30", ""),
        ({"max_cost_usd": 10**400}, "and at most 100,000,000, got 1000", ""),
        ({"max_tokens": 1e9}, "max_tokens is 1000000000.0, must be a whole number", ""),
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
    judge = {"judge": "demo:bold"} if mode in ("judge", "synthesis") else {}
    _, _, result = await run_debate(agents=["demo"] * 3, rounds=1, consensus=mode, **judge)
    assert DebateResult.from_dict(result).debate_id == "job"


@pytest.mark.parametrize("field", [each.name for each in fields(DebateJobPayload)])
@pytest.mark.parametrize("value", [
    None, True, 0, -1, 1e400, float("nan"), 10**400, "", "x", "\0", [], [[]], [None], {}, {"": None},
    ["demo"] * 2, {"demo": {}}, b"x", (), {1},
], ids=repr)  # fmt: skip
def test_any_value_is_accepted_or_refused_by_name(field, value):
    """Whatever a client sends in a field: a valid payload, or InvalidPayload; nothing else is raised."""
    try:
        payload = DebateJobPayload.from_dict({**GOOD, field: value})
    except InvalidPayload as error:
        fault = str(error)
    else:
        fault = ""
        assert DebateJobPayload.from_dict(payload.to_dict()) == payload
    assert len(fault) < 500


def test_a_payload_comes_back_as_it_went_in():
    """Empty fields are omitted; zero rounds are not empty."""
    job = create_debate_job(
        "Tea?", ["demo", "mine"], 1, "weighted", weights={"mine": 2.5}, transcript=True,
        max_tokens=100, max_cost_usd=0.5, timeout_seconds=9, metadata={"a": 1},
        answer_form="choice", options=["a", "b"], debate="always", escalate=["other"], resume="strict",
        max_answer_words=50, service_tier="flex", forked_from="a",
    )  # fmt: skip
    assert set(job.payload) == {each.name for each in fields(DebateJobPayload)} - {"judge"}
    judged = create_debate_job("Tea?", ["demo", "mine"], 1, "judge", judge="other").payload
    assert DebateJobPayload.from_dict(judged).to_dict() == judged
    assert DebateJobPayload.from_dict(job.payload).to_dict() == job.payload
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    job = create_debate_job("Where?", ["demo", "mine"], 0, answer_form=schema)
    assert job.payload["answer_form"] == schema
    assert DebateJobPayload.from_dict(job.payload).to_dict() == job.payload
    assert job.payload["rounds"] == 0
    small = create_debate_job("Tea?", ["demo", "demo"]).payload
    assert set(small) == {"question", "agents", "rounds", "consensus"}


@pytest.mark.parametrize("name", ["metadata", "weights", "answer_form", "options", "escalate"])
def test_an_argument_of_another_type_is_an_invalid_payload(name):
    """Also from Python: the rule is in the message, not in a TypeError of the interpreter."""
    for value in ([1], 7):
        with pytest.raises(InvalidPayload, match=name):
            create_debate_job("Tea?", ["demo", "demo"], **{name: value})


async def test_a_job_with_a_bad_payload_is_a_dead_letter_that_says_why(run_debate):
    """A payload that was enqueued without checks gets the same error from the worker."""
    from aragora_q import codec as wire
    from aragora_q.base import Job

    for wrong, message in (
        ({"agents": ["demo", "nemo"]}, "unknown agent 'nemo'"),
        ({"escalate": ["nemo"]}, "unknown agent 'nemo'"),
        ({"consensus": "judge", "judge": "nemo"}, "unknown agent 'nemo'"),
        ({"rounds": -1}, "rounds is -1"),
    ):
        job = Job({}, id="job", raw_payload=wire.encode({**GOOD, **wrong}))
        outcome, _, _ = await run_debate(job=job)
        assert isinstance(outcome, Failed)
        assert message in outcome.error


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
names = st.lists(st.text(max_size=3), max_size=3)
UNCHECKED = {
    "question": st.text(max_size=3),
    "agents": names,
    "rounds": st.integers(2, 4),
    "consensus": st.sampled_from(CONSENSUS_MODES),
    "answer_form": st.just("text") | st.dictionaries(st.text(max_size=3), json_data, max_size=3),
    "options": names,
    "escalate": names,
    "weights": st.dictionaries(st.text(max_size=3), st.floats(1, 2), max_size=2),
    "judge": st.none() | st.just("j"),
    "max_tokens": st.none() | st.integers(1, 9),
    "transcript": st.booleans(),
    "metadata": st.dictionaries(st.text(max_size=3), json_data, max_size=3),
}


def containers(value):
    """The ids of all lists and objects in JSON data."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = {id(value)} if isinstance(value, dict | list) else set()
    return own.union(*map(containers, inner))


@given(st.fixed_dictionaries(UNCHECKED))
def test_a_payload_is_sent_as_a_copy_without_its_defaults(given_fields):
    """As the dataclass says: what is not at its default, and four fields always; nothing of it is shared."""
    payload = DebateJobPayload(**given_fields)
    sent = payload.to_dict()
    copy = asdict(payload)
    defaults = {
        each.name: each.default if each.default_factory is MISSING else each.default_factory()
        for each in fields(DebateJobPayload)
    }
    always = ("question", "agents", "rounds", "consensus")
    expected = {name: copy[name] for name in copy if name in always or copy[name] != defaults[name]}
    assert sent == expected
    assert list(sent) == list(expected)
    assert containers(sent).isdisjoint(containers(vars(payload)))


def test_what_a_job_was_made_from_may_change_later():
    """A caller may use its lists and objects for the next job: this one has its own."""
    agents, options, weights = ["demo:a", "demo:b"], ["tea", "coffee"], {"demo:a": 2.0}
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    metadata = {"tags": ["a"], "of": {"day": [1, 2]}}
    tags = {"env": "prod"}
    choice = create_debate_job(
        "Tea?",
        agents,
        3,
        "weighted",
        answer_form="choice",
        options=options,
        weights=weights,
        tags=tags,
    )
    free = create_debate_job(
        "Where?", tuple(agents), answer_form=schema, metadata=metadata, escalate=iter(["demo"])
    )
    before = repr((choice, free))
    agents.append("x")
    options.clear()
    weights["demo:b"] = 1.0
    schema["properties"]["city"]["type"] = "number"
    metadata["tags"].append("b")
    metadata["of"]["day"][0] = 9
    tags["env"] = "test"
    assert repr((choice, free)) == before


def test_payloads_share_no_default():
    """What one payload has by default, another one has not."""
    made = [DebateJobPayload.from_dict(GOOD) for _ in range(2)]
    assert made[0] == made[1] == DebateJobPayload(**GOOD)
    for name in ("options", "escalate", "weights", "metadata"):
        assert getattr(made[0], name) is not getattr(made[1], name)
