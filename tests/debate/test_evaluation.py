"""The report of an experiment: agents whose truth is known answer 50 questions, and each number shows it."""

import json
from importlib.resources import files
from statistics import fmean

import pytest
from support.scripted_agents import label_of, said

from aragora_q.base import Job, JobStatus
from aragora_q.executors.debate.requests import Discuss, Propose, Vote
from aragora_q.experiments import inference
from aragora_q.experiments.evaluation import evaluate
from aragora_q.experiments.notes import Note
from aragora_q.experiments.rows import row_of
from aragora_q.job import EXPERIMENT_NOTE, create_debate_job

LINES = files("aragora_q.experiments").joinpath("builtin.jsonl").read_text("utf-8").splitlines()


def question(line):
    """A question of the package: its text, form, right verdict and a wrong one."""
    line = json.loads(line)
    right = line["expected"]
    if isinstance(right, bool):
        return line["question"], {"answer_form": "boolean"}, right, not right
    if isinstance(right, int):
        return line["question"], {"answer_form": "number"}, right, right + 1
    options = line.get("options", [right, "another answer"])
    wrong = next(option for option in options if option != right)
    return line["question"], {"answer_form": "choice", "options": options}, right, wrong


QUESTIONS = dict(enumerate(map(question, LINES), start=1))
NUMBERS = frozenset(QUESTIONS)
NUMBER_OF = {text: number for number, (text, *_) in QUESTIONS.items()}

SAGE = {n for n in NUMBERS if n % 5}
"""The questions that sage knows: 40 of 50."""
FICKLE = {n for n in NUMBERS if n % 2}
"""25 of 50."""
FIRM = {n for n in NUMBERS if n % 10 < 7 and n % 10}
"""30 of 50."""


def knowing(known, *, follows=False):
    """An agent that is right on known questions; it keeps to its verdict, or takes what all others say."""

    def reply(task):
        _, _, right, wrong = QUESTIONS[NUMBER_OF[task.topic.question]]
        own = right if NUMBER_OF[task.topic.question] in known else wrong
        if isinstance(task, Propose):
            return said({"answer": own, "reasons": "It is so."}, cost_usd=0.01)
        assert isinstance(task, Discuss)
        verdicts = [answer.verdict for answer in task.answers.values()]
        verdicts.remove(own)
        follow = follows and len(set(verdicts)) == 1
        return said(
            {
                "points": "It is so.",
                "best": label_of(task, own),
                "stop": False,
                "answer": verdicts[0] if follow else own,
                "reasons": "It is so.",
            },
            cost_usd=0.01,
        )

    return reply


@pytest.fixture
def run_arm(run_debate):
    """Runs all questions as the debates of an arm, and returns their rows."""

    async def run(arm, agents, **fields):
        rows = []
        for number in sorted(NUMBERS):
            text, form, right, _ = QUESTIONS[number]
            note = Note(arm, number, (right,))
            made = create_debate_job(
                text,
                agents,
                job_id="job",
                metadata={EXPERIMENT_NOTE: note.to_dict()},
                **{**form, **fields},
            )
            outcome, _, result = await run_debate(
                question=text, agents=agents, **{**form, **fields}
            )
            assert result is not None, outcome
            rows.append(
                row_of(
                    Job(
                        made.payload, id=f"{arm}{number}", status=JobStatus.COMPLETED, result=result
                    )
                )
            )
        return rows

    return run


def assert_calibrated(by_arm, majority):
    """Three seats with two verdicts agree by 2/3 or fully; the same one, asked three times, fully."""
    same = {n for n in NUMBERS if len({n in SAGE, n in FICKLE, n in FIRM}) == 1}
    agreement = [1.0 if n in same else 0.6667 for n in NUMBERS]
    assert by_arm["one"].agreement == by_arm["samples"].agreement == 1.0
    assert by_arm["vote"].agreement == pytest.approx(fmean(agreement))
    calibration, gaps = by_arm["vote"].calibration, 0.0
    for place, group in ((6, NUMBERS - same), (9, same)):
        found, right = calibration.bins[place], len(group & majority)
        assert (found.debates, found.accuracy) == (len(group), right / len(group))
        gaps += len(group) / 50 * abs(found.agreement - right / len(group))
    assert calibration.ece == pytest.approx(gaps)
    assert by_arm["samples"].calibration.ece == pytest.approx(0.5)  # always sure, half of it right


async def test_each_number_is_what_the_agents_were_made_to_do(seat_scripted_agents, run_arm):
    """Four arms on 50 questions: all numbers follow from the sets of questions that the agents know."""
    agents = seat_scripted_agents(
        sage=knowing(SAGE), fickle=knowing(FICKLE, follows=True), firm=knowing(FIRM)
    )
    three = ["sage", "fickle", "firm"]
    rows = [
        *await run_arm("one", ["fickle"]),
        *await run_arm("samples", ["fickle"] * 3, debate="never"),
        *await run_arm("vote", three, debate="never"),
        *await run_arm("debate", three, rounds=1, debate="always"),
    ]
    found = evaluate(rows)
    assert (found.debates, found.questions, found.warnings) == (200, 50, [])
    by_arm = {each.arm: each for each in found.arms}
    assert list(by_arm) == ["one", "samples", "vote", "debate"]

    majority = {n for n in NUMBERS if (n in SAGE) + (n in FICKLE) + (n in FIRM) >= 2}
    followed = {n for n in NUMBERS if n in (SAGE if (n in SAGE) == (n in FIRM) else FICKLE)}
    right = {"one": FICKLE, "samples": FICKLE, "vote": majority, "debate": majority}
    for arm, each in by_arm.items():
        assert (each.debates, each.completed, each.answered, each.counted) == (50, 50, 50, 50)
        assert (each.failed, each.cancelled, each.live, each.abstentions) == (0, 0, 0, 0)
        assert (each.right, each.accuracy) == (len(right[arm]), len(right[arm]) / 50)
        assert each.interval == inference.mean_interval(
            {1: len(right[arm]), 0: 50 - len(right[arm])}, 0, 1
        )
        assert (each.label, each.place, each.own) == (None, None, None)  # known without ballots
    calls = {arm: each.calls for arm, each in by_arm.items()}
    assert calls == {"one": 50, "samples": 150, "vote": 150, "debate": 300}
    assert sum(calls.values()) == sum(len(agent.asked) for agent in agents.values())
    for arm, each in by_arm.items():
        assert each.calls_per_question == calls[arm] / 50
        assert each.cost_usd == pytest.approx(calls[arm] * 0.01)
        assert each.cost_per_question_usd == pytest.approx(calls[arm] * 0.01 / 50)
    cheaper = "17% of that in one, 50% of that in samples, 50% of that in vote"
    assert f"A question costs $0.06 in debate; {cheaper}: " in " ".join(found.findings)
    assert by_arm["debate"].tokens == 300 * 15
    assert_calibrated(by_arm, majority)

    flips = by_arm["debate"].flips
    assert flips.seats == 150
    assert flips.first_right == len(SAGE) + len(FICKLE) + len(FIRM)
    assert flips.right_to_wrong == len(FICKLE - followed)
    assert flips.wrong_to_right == len(followed - FICKLE)
    assert flips.last_accuracy == pytest.approx((len(SAGE) + len(followed) + len(FIRM)) / 150)
    assert (by_arm["vote"].flips.right_to_wrong, by_arm["vote"].flips.wrong_to_right) == (0, 0)

    pairs = {(pair.baseline, pair.arm): pair for pair in found.pairs}
    assert len(pairs) == 6
    pair = pairs["one", "vote"]
    only = len(majority - FICKLE), len(FICKLE - majority)
    assert (pair.only_arm, pair.only_baseline) == only
    assert (pair.both_right, pair.neither) == (
        len(majority & FICKLE),
        len(NUMBERS - majority - FICKLE),
    )
    assert pair.difference == pytest.approx((only[0] - only[1]) / 50)
    assert pair.p == pytest.approx(inference.mcnemar(*only))
    p_values = [each.p for each in found.pairs]
    assert [each.p_adjusted for each in found.pairs] == inference.holm(p_values)


def voting(verdict, choose):
    """An agent that proposes its own verdict, and votes for the label that `choose` returns."""

    def reply(task):
        if isinstance(task, Propose):
            return said({"answer": verdict, "reasons": "It is so."})
        assert isinstance(task, Vote)
        ballot = {"reason": "It is best.", "choice": choose(task, verdict), "confidence": 80}
        return said({"same_as": [], **ballot})

    return reply


BIASES = {
    "label": lambda task, _own: min(task.answers),
    "place": lambda task, _own: next(iter(task.answers)),
    "own": label_of,
}


@pytest.mark.parametrize("bias", BIASES)
async def test_biases_of_voters_are_found(seat_scripted_agents, run_arm, bias):
    """Voters that always choose the first label, the first place or their own answer: that rate is 1.

    The two other rates are as often as the voters happened to do that.
    """
    names = ("ann", "bob", "cyd")
    agents = seat_scripted_agents(**{name: voting(name, BIASES[bias]) for name in names})
    rows = await run_arm("text", list(names), debate="never", answer_form="text", options=None)
    [arm] = evaluate(rows).arms
    asked = [
        (name, task) for name in names for task in agents[name].asked if isinstance(task, Vote)
    ]
    for each, choose in BIASES.items():
        rate = getattr(arm, each)
        chosen = sum(choose(task, name) == BIASES[bias](task, name) for name, task in asked)
        assert (rate.ballots, rate.chosen, rate.rate) == (150, chosen, chosen / 150)
        assert rate.chance == pytest.approx(1 / 3)
    assert getattr(arm, bias).rate == 1.0


async def test_abstentions_are_counted(seat_scripted_agents, run_arm):
    """A voter whose ballots cannot be used abstains in each debate: no ballot of it counts in the rates."""
    names = ("ann", "bob", "cyd")
    seat_scripted_agents(
        ann=voting("ann", BIASES["place"]),
        bob=voting("bob", BIASES["place"]),
        cyd=voting("cyd", lambda _task, _own: "no label"),
    )
    rows = await run_arm("text", list(names), debate="never", answer_form="text", options=None)
    [arm] = evaluate(rows).arms
    assert (arm.completed, arm.abstentions, arm.place.ballots) == (50, 50, 100)
    assert arm.agreement <= 0.6667  # of all seats
