"""`aragora-q eval`: asks questions with known answers in four arms of equal cost, waits, and reports."""

import json
import re

import pytest
from support.paths import ROOT

from aragora_q import codec
from aragora_q.contracts import Completed, Failed
from aragora_q.experiments import inference

PAGE = ROOT / "docs/reference/cli-json.md"
CONFIG = """
[agents]
ann = "openai:m1"
bob = "openai:m2"
[prices]
"openai:m1" = { input_usd_per_million = 3, output_usd_per_million = 15 }
"openai:m2" = { input_usd_per_million = 3, output_usd_per_million = 15 }
"""
QUESTIONS = [{"question": f"Is {n} prime?", "expected": n in (2, 3, 5, 7)} for n in range(2, 10)]


@pytest.fixture
def run(run_cli, tmp_path):
    """Runs `eval` in group `g`; with `questions`, they are asked."""
    config = tmp_path / "priced.toml"
    config.write_text(CONFIG)

    def start(*args, questions=None, **options):
        file = tmp_path / "questions.jsonl"
        file.write_text("\n".join(map(json.dumps, questions or ())))
        given = [file] if questions else []
        return run_cli("eval", *given, "--group", "g", "--config", config, *args, **options)

    return start


@pytest.fixture
def end(on_queue):
    """Ends all waiting debates: `answer(payload)` returns the verdict, or None for a debate that fails."""

    def work(answer):
        async def run(harness):
            worker = await harness.worker("w1")
            while jobs := (await worker.start(100)).jobs:
                for job in jobs:
                    payload = codec.decode(job.raw_payload)
                    verdict, seats = answer(payload), range(len(payload["agents"]))
                    found = {"verdict": verdict, "confidence": 1.0, "cost_usd": 0.01,
                             "token_usage": {"requests": 1, "input_tokens": 20, "output_tokens": 10},
                             "duration_seconds": 2.0,
                             "first_votes": [{"seat": n, "verdict": verdict} for n in seats]}  # fmt: skip
                    outcome = Failed("no") if verdict is None else Completed(codec.encode(found))
                    await harness.report(worker, job, outcome)

        on_queue(run)

    return work


def right_in(*arms):
    """Debates of these arms are right; those of others say that nothing is prime."""

    def answer(payload):
        note = payload["metadata"]["experiment"]
        return note["expected"][0] if note["arm"] in arms else False

    return answer


def agents_of(on_queue, group="g"):
    """The number of agents of each arm in the group."""
    found = {}

    async def read(harness):
        for job_id in harness.redis.zrange(harness.keys.members(f"group:{group}"), 0, -1):
            job = await harness.queue.get_job(job_id)
            found.setdefault(job.tags["arm"], set()).add(tuple(job.payload["agents"]))

    on_queue(read)
    return {arm: agents for arm, [agents] in ((arm, [*each]) for arm, each in found.items())}


def test_questions_are_asked_then_waited_for_then_reported(run, end, on_queue):
    """Four arms of equal cost; a run that was interrupted continues, and buys no debate twice."""
    fields = ("-a", "ann,bob", "--yes")
    asked = run(*fields, "--timeout", "0.05", questions=QUESTIONS)
    assert asked.code == 124, asked.err
    seated = agents_of(on_queue)
    assert sorted(seated) == ["debate", "one", "samples", "vote"]
    assert seated["one"] == ("ann",)
    assert seated["debate"] == ("ann", "bob")
    assert set(seated["samples"]) == {"ann"}
    assert len(seated["samples"]) >= 2
    assert seated["vote"][:2] == ("ann", "bob")
    assert len(seated["vote"]) == len(seated["samples"])  # at the same price
    end(right_in("debate", "vote"))
    done = run(*fields, questions=QUESTIONS)
    assert done.code == 0, done.err
    assert "32 completed, 0 to enqueue" in done.out
    assert "not sealed" not in asked.err + done.err  # all of it is enqueued
    assert agents_of(on_queue) == seated
    assert re.search(
        r"^debate +8/8 +100% +63 to 100% +\$0\.01 +1\.0 +2\.0 s", done.out, re.MULTILINE
    )
    assert re.search(r"^one +4/8 +50%", done.out, re.MULTILINE)
    assert re.search(r"^debate .* 8 +240 +\$0\.08$", done.out, re.MULTILINE)  # calls, tokens, cost
    assert "interval: exact binomial where all" in " ".join(done.out.split())
    assert "8 questions do not separate" in " ".join(done.out.split())
    assert max(map(len, done.lines)) <= 80


def test_seats_of_an_arm_stay_though_quotes_change(run, on_queue, end):
    """Finished debates are history that changes quotes: another number of seats would be another arm."""
    run("-a", "ann,bob", "--yes", "--timeout", "0.05", questions=QUESTIONS[:2])
    seated = agents_of(on_queue)
    end(right_in())
    more = run("-a", "ann,bob", "--rounds", "1", "--dry-run", questions=QUESTIONS[:2])
    assert f"arm samples: {', '.join(seated['samples'])}" in more.err


def test_a_corrected_expected_verdict_counts_without_another_debate(run, end):
    """The file wins over what was noted when the debates were enqueued; verdicts are judged again."""
    run("--arm", "solo agents=ann", "--yes", "--timeout", "0.05", questions=QUESTIONS[:2])
    end(lambda _payload: True)
    corrected = [{**QUESTIONS[0], "expected": False}, QUESTIONS[1]]
    done = run("--arm", "solo agents=ann", "--yes", "--json", questions=corrected).object
    [arm] = done["arms"]
    assert (arm["debates"], arm["counted"], arm["right"]) == (2, 2, 1)
    assert arm["flips"]["first_right"] == 1
    assert run("--json").object["arms"][0]["right"] == 2  # as it was noted


def test_json_has_the_documented_fields(run, end):
    """As docs/reference/cli-json.md lists them; the API sends the same."""
    run("-a", "ann,bob", "--yes", "--timeout", "0.05", questions=QUESTIONS)
    end(lambda payload: "Is 2" not in payload["question"] or None)
    found = run("--json").object
    section = PAGE.read_text().partition("\n## eval\n")[2].partition("\n## ")[0]
    parts = {}
    for names in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE):
        for name in re.findall(r"`([\w.\[\]]+)`", names):
            parent, _, own = name.rpartition(".")
            parts.setdefault(parent, set()).add(own)
    arm = found["arms"][-1]
    assert {*found} == parts[""]
    assert {*arm} == parts["arms[]"]
    assert {*arm["interval"]} == parts["interval"]
    assert {*arm["calibration"]} == parts["calibration"]
    assert {*arm["calibration"]["bins"][0]} == parts["bins[]"]
    assert {*arm["flips"]} == parts["flips"]
    assert {*found["pairs"][0]} == parts["pairs[]"]
    assert (found["group"], found["debates"], found["questions"]) == ("g", 32, 8)
    assert [each["failed"] for each in found["arms"]] == [1] * 4


def test_what_is_not_known_yet_is_blank(run, end):
    """Before a debate has ended, there is no accuracy, no cost, no pair to test, and no voter to judge."""
    run("-a", "ann,bob", "--yes", "--timeout", "0.05", questions=QUESTIONS[:1])
    early = run()
    assert early.code == 0, early.err
    assert "not ended: the numbers will change" in early.out
    for text in ("0/0", "unknown", "Differences of accuracy", "Biases"):
        assert text not in early.out
    end(right_in("one"))
    late = run().out
    assert "Differences of accuracy" in late
    assert "Biases" in late


def test_markdown(run, end):
    """For a page: tables without alignment by blanks, and nothing else on stdout."""
    run("-a", "ann,bob", "--yes", "--timeout", "0.05", questions=QUESTIONS[:1])
    end(right_in("one"))
    done = run("-a", "ann,bob", "--yes", "-f", "md", questions=QUESTIONS[:1])
    assert done.code == 0, done.err
    assert done.lines[0] == "# Evaluation of group g"
    assert any(line.startswith("| one | 1/1 | 100% |") for line in done.lines)


def test_without_prices_calls_count(run, on_queue):
    """An agent whose price is not known has as many samples as a debate has calls."""
    shown = run("-a", "openai:m9,openai:m9", "--rounds", "1", "--dry-run", questions=QUESTIONS)
    assert shown.code == 0, shown.err
    [samples] = re.findall(r"^arm samples: (.*)$", shown.err, re.MULTILINE)
    assert 2 <= len(samples.split(", ")) <= 4  # two proposals, and a round of two if they differ


def test_the_questions_of_the_package(run, on_queue):
    """50 of them, in arms of one's choice."""
    shown = run("--builtin", "--arm", "solo agents=ann", "--dry-run")
    assert shown.code == 0, shown.err
    assert shown.lines[0] == "Experiment g: 50 questions in 1 arm: 50 debates"
    assert agents_of(on_queue) == {}


@pytest.mark.parametrize(
    ("args", "questions", "code", "text"),
    [
        ((), None, 3, "group g not found"),
        (("--yes",), None, 2, "without QUESTIONS or --builtin nothing is asked"),
        (("--arm", "a rounds=1"), None, 2, "without QUESTIONS or --builtin nothing is asked"),
        (("--builtin", "--yes"), QUESTIONS, 2, "are alternatives"),
        (("-a", "ann,bob"), QUESTIONS, 2, "add --yes to confirm"),
        (("--yes",), QUESTIONS, 65, "agents are missing"),
        (
            ("-a", "ann,bob", "--yes"),
            [QUESTIONS[0], {"question": "Why?"}],
            65,
            "line 2: expected is missing",
        ),
        (("-a", "ann,bob", "--yes", "--max-quote", "0"), QUESTIONS, 65, "--max-quote is 0"),
        (("-a", "ann,nope", "--yes"), QUESTIONS, 65, "nope"),
    ],
)
def test_refusals(run, on_queue, args, questions, code, text):
    """Each says what is wrong, and nothing is enqueued."""
    done = run(*args, questions=questions)
    assert (done.code, done.out if code == 2 else "") == (code, "")
    assert text in done.err
    assert agents_of(on_queue) == {}


def test_without_scipy_nothing_is_bought(run, on_queue, monkeypatch):
    """It is refused at once, and the error names the extra."""
    monkeypatch.setattr(inference, "find_spec", lambda _name: None)
    done = run("-a", "ann,bob", "--yes", questions=QUESTIONS)
    assert (done.code, done.out) == (78, "")
    assert "pip install 'aragora-q[eval]'" in done.err
    assert "apt-get install python3-scipy" in done.err
    assert agents_of(on_queue) == {}
