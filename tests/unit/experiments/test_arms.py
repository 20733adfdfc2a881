"""Arms, from TOML and from options; and what an experiment makes of them and its questions."""

import pytest

from aragora_q.errors import InvalidPayload
from aragora_q.experiments import sweep
from aragora_q.experiments.arms import Arm, arms_of, parse_arm, read_toml
from aragora_q.experiments.questions import Question
from aragora_q.experiments.sweep import Agents, Changes, Experiment

FILE = b"""
[defaults]
agents = ["claude", "gpt"]
rounds = 1
[arms.quick]
debate = "never"
[arms.long]
rounds = 5
"""


def test_arms_of_file_and_options():
    """Options for all arms win over the file's defaults; the arms are those of both."""
    arms = arms_of({"rounds": 2}, read_toml(FILE), ["one agents=gpt,gpt"])
    assert [(arm.name, arm.as_written) for arm in arms] == [
        ("quick", {"agents": ["claude", "gpt"], "rounds": 2, "debate": "never"}),
        ("long", {"agents": ["claude", "gpt"], "rounds": 5}),
        ("one", {"agents": ["gpt", "gpt"], "rounds": 2}),
    ]
    assert arms_of({"rounds": 2}) == [Arm("debate", {}, {"rounds": 2})]


def test_an_arm_of_an_option():
    """Split as a shell does; values are JSON where the field is not a text, lists may have commas."""
    assert parse_arm(
        "a agents=x,y options='[\"a, b\", \"c\"]' weights='{\"x\": 2}' consensus=any "
        "answer_form='{\"type\": \"string\"}' transcript=true max_cost_usd=0.5 judge=3"
    ) == (
        "a",
        {
            "agents": ["x", "y"], "options": ["a, b", "c"], "weights": {"x": 2}, "consensus": "any",
            "answer_form": {"type": "string"}, "transcript": True, "max_cost_usd": 0.5, "judge": "3",
        },
    )  # fmt: skip
    assert parse_arm("a weights=x=2,y=0.5")[1] == {"weights": {"x": 2, "y": 0.5}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "arm '': it has no name"),
        ("rounds=2", "arm 'rounds=2' has no name"),
        ("a 'b", 'arm "a \'b": no closing quotation'),
        ("a b", "arm a: 'b' is not field=value"),
        ("a round=1", "unknown field of arm a: 'round'"),
        ("a metadata={}", "unknown field of arm a: 'metadata'"),
        ("a question=x", "unknown field of arm a: 'question'"),
        ("a rounds=1 rounds=2", "arm a: rounds is given twice"),
        ("a:b/c\u200b rounds=1", "name of an arm: "),
    ],
)
def test_an_option_that_is_refused(text, reason):
    """The error names the arm and what is wrong with it."""
    with pytest.raises(InvalidPayload) as caught:
        arms_of({}, None, [text])
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"[arms", "not TOML: "),
        (b"\xff", "not TOML: not UTF-8 (line 1)"),
        (b"a = " + b"[" * 100_000, "not TOML: "),
        (b"[arm.a]", "unknown table 'arm'"),
        (b"arms = 1", "[arms] must be a table of fields, got 1"),
        (b"[arms]\na = 1", "[arms.a] must be a table of fields, got 1"),
        (b"[defaults]\nquestion = 'x'", "unknown field of [defaults]: 'question'"),
        (b"[arms.a]\nround = 1", "unknown field of arm a: 'round'"),
        (b"[arms.a]\nrounds = 1979-05-27", "arm a: rounds is not JSON"),
        (b"[arms.a]\nrounds = nan", "arm a: rounds is not JSON"),
        (b"[arms.'a b']", "name of an arm: "),
        (b"[arms.b]", "two arms are named b"),
        (b"[arms]\n", "there are no arms and no defaults"),
        (b"", "there are no arms and no defaults"),
    ],
)
def test_a_file_that_is_refused(file, reason):
    """Not a traceback of TOML or JSON."""
    with pytest.raises(InvalidPayload) as caught:
        arms_of({}, read_toml(file), ["b"])
    assert str(caught.value).startswith(reason)


def question(text="Tea?", number=1, **fields):
    return Question(number, number, {"question": text, **fields})


def test_the_nearest_fields_win():
    """Those of the arm over those of the question, these over options and the configuration's agents."""
    arm = Arm("a", {"rounds": 5}, {"rounds": 1, "consensus": "any", "max_tokens": 9})
    asked = question(rounds=3, consensus="none")._replace(
        expected=(True,), tags={"t": "q"}, metadata={"x": 1}
    )
    experiment = Experiment("g", [asked], [arm], ["demo"], {"tags": {"t": "o", "u": "o"}})
    [debate] = experiment
    assert experiment.line(debate) == {
        "question": "Tea?",
        "agents": ["demo"],
        "rounds": 5,
        "consensus": "none",
        "max_tokens": 9,
        "answer_form": "boolean",
        "tags": {"t": "q", "u": "o", "arm": "a"},
        "metadata": {
            "x": 1,
            "experiment": {"arm": "a", "number": 1, "place": 1, "expected": [True]},
        },
        "group": "g",
        "id": debate.id,
    }


def test_an_id_is_of_group_arm_and_question_as_written():
    """What is corrected in the file besides the debate itself changes no id."""
    arm, asked = Arm("a", {"rounds": 1}), question(rounds=3)

    def job_id(group="g", arm=arm, asked=asked, **fields):
        [debate] = Experiment(group, [asked], [arm], **fields)
        return debate.id

    corrected = asked._replace(
        number=7, line=9, expected=(1,), tags={"t": "x"}, metadata={"x": 1}, tenant="t"
    )
    assert job_id(asked=corrected, agents=["x"], job_fields={"priority": 1}) == job_id()
    others = [
        job_id(group="h"),
        job_id(arm=arm._replace(name="b")),
        job_id(arm=arm._replace(fields={"rounds": 2})),
        job_id(arm=arm._replace(defaults={"consensus": "any"})),
        job_id(asked=question("Coffee?", rounds=3)),
        job_id(asked=question(rounds=4)),
    ]
    assert len({job_id(), *others}) == 7


def test_an_experiment_that_is_refused(monkeypatch):
    """A tag `arm` would hide the arm, and too many debates would not fit one group."""
    with pytest.raises(InvalidPayload, match="tag arm is set by the experiment"):
        Experiment("g", [question()], [Arm("a", {})], job_fields={"tags": {"arm": "b"}})
    monkeypatch.setattr(sweep, "MAX_DEBATES", 3)
    with pytest.raises(InvalidPayload, match="2 questions in 2 arms are 4 debates"):
        Experiment("g", [question(), question("B?", 2)], [Arm("a", {}), Arm("b", {})])


def test_changed_agents_are_counted_by_arm_and_agent():
    """Before and after are readable; what is not shown, such as an address, is named as the rest."""

    def agents(model, rest="r", names=("ann", "bob"), **settings):
        ann = {"model": model, "settings": settings, "rest": rest}
        return Agents(list(names), {"ann": ann, "bob": {"model": "m", "settings": {}, "rest": ""}})

    changes = Changes()
    now = agents("m2", effort="high")
    for before in (agents("m1"), agents("m1"), agents("m2", "s", effort="high"), now):
        changes.note("a", before._asdict(), now)
    changes.note("b", agents("m2", effort="high", names=("bob", "ann"))._asdict(), now)
    changes.note("b", {}, now)
    assert [(*change, n) for change, n in changes.to_list()] == [
        ("a", "ann", "m1", "m2, effort high", 2),
        ("a", "ann", "m2, effort high as configured then", "m2, effort high as configured now", 1),
        ("b", "", "bob, ann", "ann, bob", 1),
    ]
