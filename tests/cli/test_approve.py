"""`enqueue --approve-above USD`, and limits that no debate could keep."""

import json

import pytest

PRICED = """
default_agents = ["ann", "bob"]
[agents]
ann = "openai:m1"
bob = "openai:m2"
cyd = "openai:m3"
[prices]
"openai:m1" = { input_usd_per_million = 3, output_usd_per_million = 15 }
"openai:m2" = { input_usd_per_million = 1, output_usd_per_million = 5 }
"""


@pytest.fixture
def run(run_cli, tmp_path):
    """Runs a command with agents whose prices are known, except for that of `cyd`."""
    config = tmp_path / "priced.toml"
    config.write_text(PRICED)

    def start(command, *args, **options):
        return run_cli(command, *args, "--config", config, **options)

    return start


def test_a_job_that_may_cost_more_is_held_until_it_is_approved(run, run_cli):
    """Atomically: no worker can start it in between. The reason names the quote; unhold lets it run."""
    result = run("enqueue", "Tea or coffee?", "--approve-above", "5", "--id", "job1", "--json")
    line = result.object
    assert (line["id"], line["created"], line["held"]) == ("job1", True, True)
    assert line["most_usd"] > 5
    worst = f"may cost up to ${line['most_usd']:.2f} in the worst case"
    quote = f"{worst}, above the $5.00 that need no approval"
    assert result.err.strip() == f"job job1 {quote}; to approve it: aragora-q unhold job1"
    status = run_cli("status", "job1", "--json").object
    assert (status["status"], status["hold"]["cause"]) == ("held", "approval")
    assert status["hold"]["reason"] == quote
    assert run_cli("list", "--status", "held", "--jsonl").object["id"] == "job1"
    stats = run_cli("stats", "--json").object
    assert (stats["stream_length"], stats["held"]) == (0, 1)
    assert run_cli("unhold", "job1").code == 0
    assert run_cli("status", "job1", "--json").object["status"] == "pending"


@pytest.mark.parametrize(
    ("args", "held"),
    [
        (["--approve-above", "1000"], None),
        (["--approve-above", "5", "--max-cost", "4.5"], None),  # it cannot cost more
        (["--approve-above", "5", "-a", "demo,demo:bold"], None),
        (["--approve-above", "0"], "may cost up to"),
        (["--approve-above", "5", "-a", "ann,cyd"], "cannot be priced: the price of agent cyd is not known"),
    ],
)  # fmt: skip
def test_only_a_job_that_may_cost_more_needs_an_approval(run, args, held):
    """A job without a known price does: unknown is not cheap."""
    result = run("enqueue", "Tea or coffee?", *args, "--json")
    line = result.object
    assert ("held" in line) == (held is not None)
    assert (held or "") in result.err
    if held and "priced" in held:
        assert line["most_usd"] is None


def test_lines_may_have_their_own_threshold(run, run_cli):
    """The option applies to lines that lack the field. A delay, labels and a priority are kept."""
    lines = [
        {"question": "a?", "id": "a"},
        {"question": "b?", "id": "b", "approve_above_usd": 1000},
        {"question": "c?", "id": "c", "delay_seconds": 3600, "group": "g", "priority": 2},
        {"payload": {"x": 1}, "id": "d"},
        {"question": "e?", "id": "e", "approve_above_usd": "much"},
    ]
    result = run("enqueue", "-", "--approve-above", "5", stdin="\n".join(map(json.dumps, lines)))
    assert result.code == 3
    found = result.objects
    assert [row.get("held", False) for row in found] == [True, False, True, True, False]
    assert "approve_above_usd must be US dollars from 0 to 100,000,000" in found[4]["error"]
    assert "3 jobs are held until approved with unhold; the first, line 1: a may cost" in result.err
    run_cli("unhold", "c", "d")
    status = run_cli("status", "c", "--json").object
    assert (status["status"], status["priority"], status["group"]) == ("pending", 2, "g")
    assert status["due_at"] is not None
    counts = run_cli("group", "show", "g", "--json").object["counts"]
    assert (counts["pending"], counts["held"]) == (1, 0)


def test_a_job_that_exists_is_not_held(run):
    """Enqueueing it again changes nothing."""
    run("enqueue", "Tea or coffee?", "--id", "job1")
    result = run("enqueue", "Tea or coffee?", "--id", "job1", "--approve-above", "0", "--json")
    assert result.object == {"id": "job1", "created": False}
    assert "unhold" not in result.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--max-tokens", "500"], "max_tokens is 500, but this debate needs at least "),
        (["--max-cost", "0.0001"], "max_cost_usd is 0.0001, but this debate needs at least 0.0"),
        (
            ["--max-cost", "9", "-a", "ann,cyd"],
            "max_cost_usd is 9, but the price of agent cyd is not known",
        ),
        (["--approve-above", "-1"], "approve_above_usd must be US dollars from 0 to 100,000,000"),
        (["--approve-above", "nan"], "approve_above_usd must be US dollars from 0 to 100,000,000"),
        (["--approve-above", "1e30"], "approve_above_usd must be US dollars from 0 to 100,000,000"),
    ],
)  # fmt: skip
def test_a_limit_that_no_such_debate_could_keep_is_refused(run, args, message):
    """With the value, the rule, and what to do; in JSON lines, per line."""
    result = run("enqueue", "Tea or coffee?", *args)
    assert (result.code, result.out) == (65, "")
    assert message in result.err
    assert result.err.count("\n") <= 2
    if "tokens" in message:
        line = json.dumps({"question": "Tea or coffee?", "max_tokens": 500})
        result = run("enqueue", "-", stdin=line)
        assert result.code == 3
        assert message in result.object["error"]
