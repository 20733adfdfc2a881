"""`aragora-q table` and `compare`: the debates of a group as a table, and its arms side by side."""

import csv
import io
import json

import pytest
from support import experiments

from aragora_q import codec
from aragora_q.base import Job
from aragora_q.contracts import Completed, Failed
from aragora_q.formats import columns

HEAD = (
    "number,question,arm,status,verdict,expected,right,agreement,consensus,dissent,rounds,cost_usd,"
    "unpriced_calls,calls,taken_over,tokens,seconds,error,id,tags,answer"
)


@pytest.fixture
def fill(on_queue):
    """Fills the group `trivia` with jobs and their outcomes."""
    return lambda *outcomes: on_queue(lambda harness: experiments.fill(harness, outcomes))


@pytest.fixture
def trivia(fill):
    """Two questions by two arms; of `vote`, one debate failed and one waits."""
    fill(
        (experiments.job("vote", 2, place=1), Failed("no seat could vote")),
        (experiments.job("debate", 2, place=2), "Jupiter"),
        (experiments.job("debate", 1, place=2), "Mars"),
        (experiments.job("vote", 1, place=1), "Jupiter"),
    )


def read_csv(text):
    """The rows of CSV, as a program reads them."""
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_csv(run_cli, trivia):
    """By default, CSV: names of the columns, and a row per question and arm; no byte order mark for a pipe."""
    found = run_cli("table", "trivia")
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith(f"{HEAD}\r\n")
    rows = read_csv(found.out)
    assert [(row["number"], row["arm"], row["status"], row["verdict"], row["right"]) for row in rows] == [
        ("1", "vote", "completed", "Jupiter", "true"),
        ("1", "debate", "completed", "Mars", "false"),
        ("2", "vote", "failed", "", "false"),
        ("2", "debate", "completed", "Jupiter", "true"),
    ]  # fmt: skip
    assert rows[0]["question"] == "Question 1: which planet?"
    assert (rows[0]["cost_usd"], rows[0]["expected"]) == ("0.03", "Jupiter")
    assert (rows[2]["error"], rows[2]["cost_usd"], rows[2]["id"]) == (
        "no seat could vote",
        "",
        "vote-2",
    )


def test_json_lines(run_cli, trivia):
    """JSON lines have the same fields; what is not known is null."""
    rows = run_cli("table", "trivia", "-f", "jsonl", "--arm", "vote").objects
    assert ",".join(rows[0]) == HEAD
    assert [(row["id"], row["right"], row["error"]) for row in rows] == [
        ("vote-1", True, None),
        ("vote-2", False, "no seat could vote"),
    ]
    assert rows[0]["tags"] == {"arm": "vote"}


def test_markdown(run_cli, trivia):
    """Markdown is a table alone, without columns that are blank in every row."""
    found = run_cli("table", "trivia", "-f", "md")
    head, rule, first, *_ = found.lines
    shown = (
        "No. Question Arm Status Verdict Expected Right Agreement Rounds Cost Calls Time Problem"
    )
    assert head == f"| {' | '.join(shown.split())} |"
    assert rule.count("|") == head.count("|")
    assert first.startswith(
        "| 1 | Question 1: which planet? | vote | completed | Jupiter | Jupiter | yes | 100% | 1 |"
    )
    assert len(found.lines) == 6


def test_a_file(run_cli, trivia, tmp_path):
    """`-o` writes a file, in the format of its ending, and replaces it; nothing goes to stdout."""
    for ending, beginning in (
        ("csv", "\ufeffnumber,"),
        ("jsonl", '{"number":1'),
        ("md", "| No."),
        ("txt", "\ufeff"),
    ):
        file = tmp_path / f"t.{ending}"
        file.write_text("before")
        assert run_cli("table", "trivia", "-o", file).out == ""
        assert file.read_bytes().decode().startswith(beginning)
    assert run_cli("table", "trivia", "-o", tmp_path).code == 78
    assert run_cli("table", "trivia", "-o", "-", "-f", "jsonl").lines[0].startswith('{"number":1')


def test_only_a_file_has_a_byte_order_mark(run_cli, trivia, tmp_path):
    """It makes Excel read UTF-8; a program at the other end of a pipe, or a person, has no use for it."""
    for args in ((), ("-o", "-")):
        assert run_cli("table", "trivia", *args).out.startswith("number,")
    run_cli("table", "trivia", "-o", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_bytes().startswith("\ufeffnumber,".encode())


def test_what_is_expected_and_taken_over(run_cli, fill):
    """One right verdict stands as it is, several as a list, none as a blank; calls taken over are marked."""
    result = experiments.result("Mars", token_usage={}, forked_from="other", taken_over=12)
    fill(
        (experiments.job("vote", 1, expected=["Mars"]), Completed(codec.encode(result))),
        (experiments.job("vote", 2, expected=["Mars", "Jupiter"]), "Mars"),
        (experiments.job("vote", 3, expected=[]), "Mars"),
    )
    rows = read_csv(run_cli("table", "trivia").out)
    assert [row["expected"] for row in rows] == ["Mars", '["Mars", "Jupiter"]', ""]
    _, _, first, second, third = run_cli("table", "trivia", "-f", "md").lines
    assert "| Mars | Mars | yes |" in first
    assert "| 0 (12 taken over) |" in first
    assert '| ["Mars", "Jupiter"] |' in second.replace("\\", "")
    assert third.startswith("| 3 |")
    assert "| Mars |  |  |" in third


def test_hostile_texts(run_cli, fill):
    """Texts of clients and models are no formulas, no Markdown, and control no terminal."""
    text = "=1+1|<b>\x1b[31m\r\n@x"
    fill((experiments.job("vote", 1, question=text, answer_form="text", options=[]), text))
    [row] = read_csv(run_cli("table", "trivia").out)
    assert row["question"] == row["verdict"] == "'=1+1|<b>\\u001b[31m\n@x"
    marked = run_cli("table", "trivia", "-f", "md").out
    assert "<b>" not in marked
    assert marked.count("\n") == 3
    for command in (["table", "trivia"], ["table", "trivia", "-f", "md"], ["compare", "trivia"]):
        assert "\x1b" not in run_cli(*command).out


def test_a_group_that_is_running(run_cli, fill, on_queue):
    """What is there so far, exit code 0; stderr says how many jobs have not ended, and how many are deleted."""
    fill(
        (experiments.job("vote", 1), "Mars"),
        (experiments.job("vote", 2), "Mars"),
        (experiments.job("vote", 3), None),
        (experiments.job("vote", 4), None),
    )

    async def change(harness):
        await harness.queue.hold("vote-3", reason="prices")
        assert await harness.queue.purge_many(["vote-2"]) == ["purged"]

    on_queue(change)
    for command in ("table", "compare"):
        found = run_cli(command, "trivia")
        assert found.code == 0
        assert found.err == (
            "group trivia: 2 of 3 jobs have not ended, 1 of them held: this is what is there so far\n"
            "group trivia: 1 job not counted: deleted by retention or purge\n"
        )
    rows = run_cli("table", "trivia", "-f", "jsonl").objects
    assert [row["status"] for row in rows] == ["completed", "held", "pending"]


def test_other_jobs_and_corrupted_ones(run_cli, fill, redis_client):
    """A job that is not a debate has a row; so has one whose data is corrupted, and the exit code is 65."""
    fill(
        (experiments.job("vote", 1), "Mars"),
        (experiments.job("vote", 2), "Mars"),
        (experiments.job("vote", 3), "Mars"),
        (Job({"n": 1}, id="other", group="trivia"), Completed(b"{}")),
    )
    found = run_cli("compare", "trivia", "--json")
    assert (found.code, found.object["not_counted"]) == (0, 1)
    prefix = "aragora:queue:debates:job:"
    assert redis_client.exists(f"{prefix}vote-2:result")
    redis_client.set(f"{prefix}vote-2:result", b"{")
    redis_client.hset(f"{prefix}vote-3", "status", b"strange")
    found = run_cli("table", "trivia", "-f", "jsonl")
    assert found.code == 65
    assert "data of job vote-2 in Redis is corrupted" in found.err
    assert [(row["id"], row["arm"], row["status"]) for row in found.objects] == [
        ("vote-1", "vote", "completed"),
        ("other", None, "completed"),
        ("vote-2", "vote", "completed"),
        ("vote-3", "vote", "failed"),
    ]
    assert found.objects[0]["error"] is None
    assert "corrupted" in found.objects[2]["error"]
    assert run_cli("compare", "trivia").code == 65


@pytest.mark.parametrize("command", ["table", "compare"])
def test_what_is_refused(run_cli, command, trivia):
    """An unknown group, a name that is none, an arm that is not there, another format."""
    assert run_cli(command, "nope").code == 3
    assert run_cli(command, "not a name").code == 65
    found = run_cli(command, "trivia", "--arm", "votes")
    assert found.code == 65
    assert "no arm 'votes' in the group; its arms are vote, debate" in found.err
    assert run_cli(command, "trivia", "-f", "pdf").code == 2


def test_the_order_of_rows(run_cli, fill):
    """By number, not as text; arms that were enqueued together stand as they were written."""
    jobs = [
        experiments.job(arm, number, place=place)
        for number in (10, 2)
        for place, arm in enumerate(("zeta", "alpha", "mid"), 1)
    ]
    fill(*((job, None) for job in jobs))
    rows = run_cli("table", "trivia", "-f", "jsonl").objects
    arms = ["zeta", "alpha", "mid"]
    assert [(row["number"], row["arm"]) for row in rows] == [
        (n, arm) for n in (2, 10) for arm in arms
    ]


def test_compare(run_cli, trivia):
    """Arms side by side, how far they agree, and the questions for which they differ, in 80 columns."""
    found = run_cli("compare", "trivia")
    assert (found.code, found.err) == (0, "")
    assert "4 debates, 2 arms, 2 questions." in found.out
    lines = [" ".join(line.split()) for line in found.lines]
    for line in (
        "vote debate",
        "debates 2 2",
        "failed 1",
        "with a verdict 1 (50%) 2 (100%)",
        "right 1 (50%) 1 (50%)",
        "cost $0.03 $0.06",
        "vote, debate 1 0 (0%) 0.00",
        "Where they differ: 1 of 2 questions",
        "1 Question 1: which planet? Jupiter yes vote",
        "Mars debate",
    ):
        assert line in lines
    assert "by their words" not in found.out


def test_compare_in_markdown(run_cli, trivia):
    """The same as Markdown."""
    found = run_cli("compare", "trivia", "-f", "md")
    assert found.lines[0] == "# Group trivia"
    assert "| right | 1 (50%) | 1 (50%) |" in found.lines
    assert "| 1 | Question 1: which planet? | Jupiter | yes | vote |" in found.lines


def test_compare_as_json(run_cli, trivia):
    """Arms, pairs and differences, as one object."""
    found = run_cli("compare", "trivia", "--json", "--arm", "debate", "--arm", "vote").object
    assert (found["group"], found["questions"]) == ("trivia", 2)
    assert [arm["arm"] for arm in found["arms"]] == ["debate", "vote"]
    assert found["pairs"][0]["arms"] == ["debate", "vote"]
    assert [each["number"] for each in found["differences"]] == [1]


def test_many_arms_with_long_names(run_cli, fill):
    """Arms that do not fit next to each other go on below, and no line is wider than 80 columns."""
    names = [f"a-very-long-name-of-an-arm-that-is-number-{n}" for n in range(7)]
    text = {"answer_form": "text", "options": [], "question": "Why? " * 100}
    fill(*((experiments.job(name, 1, **text), f"{'Since ' * 40}{name[-1]}") for name in names))
    found = run_cli("compare", "trivia")
    assert max(map(columns, found.lines)) <= 80
    assert found.out.count("cost per debate") == 3
    assert "compared by their words" in found.out


def test_rows_go_to_a_pipe(cli_command, trivia):
    """As a process: bytes are UTF-8, and lines of JSON are whole."""
    assert json.loads(cli_command("table", "trivia", "-f", "jsonl").lines[0])["id"] == "vote-1"
