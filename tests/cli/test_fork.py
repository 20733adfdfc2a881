"""`enqueue --from ID` and `requeue --from PHASE`: debates again, without paying again."""

import re

import pytest
import redis

AGENTS = ("--agents", "demo:bold,demo:careful,demo:curious")
BURST = ("worker", "--burst", "--metrics-port", "0")


@pytest.fixture(scope="module")
def saved():
    """The keys of a queue in which a debate has completed, once there is one."""
    return {}


@pytest.fixture
def source(run_cli, cli_command, redis_url, saved):
    """The id of a debate that has completed; a worker ran it for the first test."""
    with redis.Redis.from_url(redis_url) as client:
        for key, data in saved.items():
            client.restore(key, 0, data)
        if not saved:
            ended = run_cli(
                "enqueue", "Tea, coffee or water?", *AGENTS, "--rounds", 1, "--debate", "always",
                "--id", "source", "--metadata", '{"experiment": {"arm": "x"}, "mine": 1}',
                "--priority", 3,
            )  # fmt: skip
            assert ended.code == 0, ended.err
            assert cli_command(*BURST).code == 0
            saved.update({key: client.dump(key) for key in client.scan_iter()})
    return "source"


def test_a_fork_from_the_command_line(run_cli, cli_command, source):
    """Fields of the debate with changes, a quote of what is left, marks in the result, nothing spent."""
    before = run_cli("spend", "--json").out
    quoted = run_cli(
        "enqueue", "--from", source, "--consensus", "unanimous", "--quote", "--json"
    ).object
    assert (quoted["forked_from"], quoted["taken_over"]) == ("source", 12)
    assert quoted["most"]["calls"] == quoted["expected"]["calls"] == 0
    ended = run_cli("enqueue", "--from", source, "--consensus", "unanimous", "--id", "fork")
    assert (ended.code, ended.out, ended.err) == (0, "fork enqueued\n", "")
    job = run_cli("status", "fork", "--json").object
    assert job["payload"] == {
        **run_cli("status", source, "--json").object["payload"],
        "consensus": "unanimous", "forked_from": "source", "metadata": {"mine": 1},
    }  # fmt: skip
    assert job["priority"] == 0
    assert cli_command(*BURST).code == 0
    result = run_cli("status", "fork", "--json").object["result"]
    assert (result["taken_over"], result["token_usage"]["requests"]) == (12, 0)
    assert "12 calls from source" in run_cli("status", "fork").out
    shown = run_cli("show", "fork").out
    assert "12 calls from source" in shown
    assert shown.count("4 replies taken over from source") == 3
    assert re.search(r"^1 .* 0\.0 s +\$0$", shown, re.MULTILINE)  # priced 0
    shown = run_cli("show", "fork", "--format", "json").object
    assert {each["taken_from"] for row in shown["rounds"] for each in row["replies"]} == {"source"}
    assert run_cli("spend", "--json").out == before


def test_a_quote_of_a_part(run_cli, source):
    """What is left of a fork with one more round: that round and the vote, in expected calls."""
    whole = run_cli(
        "enqueue", "Tea, coffee or water?", *AGENTS, "--rounds", 2, "--debate", "always",
        "--quote", "--json",
    ).object  # fmt: skip
    part = run_cli("enqueue", "--from", source, "--rounds", 2, "--quote", "--json").object
    assert part["taken_over"] == 9
    assert part["expected"]["calls"] == pytest.approx(whole["expected"]["calls"] - 9)
    assert "without 9 calls taken over from source" in run_cli(
        "enqueue", "--from", source, "--rounds", 2, "--quote"
    ).out.replace("\n", " ")  # fmt: skip


def test_a_fork_that_takes_over_nothing_is_enqueued_with_a_warning(run_cli, source):
    """Another question: everything is paid for, and `enqueue` says so; so does the quote."""
    ended = run_cli("enqueue", "Milk?", "--from", source)
    assert (ended.code, ended.err) == (
        0, "warning: no call of source matches: everything is paid for\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("--from", "missing"), 3, "job missing not found"),
        (("--from", "a b"), 65, "from must be the id of a debate"),
        (("--from", "source", "-"), 2, "--from excludes JSON lines"),
        ((), 2, "QUESTION, FILE, - or --from ID is required"),
        (("--from", "waiting"), 65, "debate waiting has no finished calls"),
        (("--from", "other"), 65, "job other is not a debate"),
    ],
)
def test_what_cannot_be_forked(run_cli, args, code, text):
    """Refused in one line with what is wrong; nothing is enqueued."""
    run_cli("enqueue", "Tea?", *AGENTS, "--id", "waiting")
    run_cli("enqueue", "-", stdin='{"id": "other", "payload": {"n": 1}}\n')
    ended = run_cli("enqueue", *args)
    assert ended.code == code
    assert text in " ".join(ended.err.split())
    assert "warning" not in ended.err
    assert len(run_cli("list", "-q").lines) == 2


def test_another_executor_takes_no_fork(run_cli, source, monkeypatch):
    """Refused with the setting: the job is a debate, but not to the workers of this queue."""
    monkeypatch.setenv("ARAGORA_QUEUE_EXECUTOR", "command")
    monkeypatch.setenv("ARAGORA_QUEUE_EXEC_COMMAND", "cat")
    ended = run_cli("enqueue", "--from", source)
    text = f"from: job {source} is not a debate: setting executor is command"
    assert (ended.code, text in " ".join(ended.err.split())) == (65, True)


def test_forks_in_json_lines(run_cli, source):
    """A line with `from` has the fields of that debate; its own and the options win; agents stay."""
    lines = '{"from": "source", "id": "a"}\n{"from": "x"}\n{"from": "source", "payload": {}}\n'
    ended = run_cli("enqueue", "-", "--rounds", 2, "--json", stdin=lines)
    assert ended.code == 3
    assert ended.objects[0] == {"line": 1, "id": "a", "created": True}
    assert "from: job x not found" in ended.objects[1]["error"]
    assert "from excludes payload" in ended.objects[2]["error"]
    payload = run_cli("status", "a", "--json").object["payload"]
    assert (payload["rounds"], payload["forked_from"]) == (2, "source")


def test_an_existing_fork_whose_source_is_gone(run_cli, source):
    """The same command again finds the job, as for any id: nothing changes, whatever became of the source."""
    fork = ("enqueue", "--from", source, "--rounds", 2, "--id", "fork", "--json")
    assert run_cli(*fork).object == {"id": "fork", "created": True}
    run_cli("purge", source, "--yes")
    again = run_cli(*fork)
    assert (again.code, again.object) == (0, {"id": "fork", "created": False})
    line = f'{{"from": "{source}", "id": "fork"}}\n{{"from": "{source}", "id": "new"}}\n'
    ended = run_cli("enqueue", "-", "--json", stdin=line)
    assert ended.objects[0] == {"line": 1, "id": "fork", "created": False}
    assert f"from: job {source} not found" in ended.objects[1]["error"]


def test_a_mode_without_a_judge_drops_the_judge(run_cli, source):
    """Fields that the changes make meaningless are left out, so that one option is enough."""
    judged = ("--consensus", "judge", "--judge", "demo")
    assert run_cli("enqueue", "--from", source, *judged, "--id", "judged").code == 0
    ended = run_cli("enqueue", "--from", "judged", "--consensus", "any", "--id", "back")
    assert ended.code == 0, ended.err
    assert "judge" not in run_cli("status", "back", "--json").object["payload"]


def test_what_costs_nothing_is_not_held(run_cli, source):
    """`--approve-above 0` holds a fork only if something is left to be paid for."""
    free = run_cli("enqueue", "--from", source, "--approve-above", 0, "--json").object
    assert "held" not in free


def test_requeue_from_a_phase(run_cli, cli_command, source):
    """Calls of that phase are made again; a phase that was not reached changes nothing: exit 3."""
    run_cli("cancel", run_cli("enqueue", "--from", source, "--id", "fork", "-q").out.strip())
    refused = run_cli("requeue", "fork", "--from", "vote", "--json")
    assert (refused.code, refused.object) == (
        3, {"id": "fork", "requeued": False, "status": None},
    )  # fmt: skip
    assert "did not reach that phase" in refused.err
    assert "without --from" in refused.err
    for name in ("votes", ""):
        wrong = run_cli("requeue", "fork", "--from", name)
        assert (wrong.code, f"'{name}' is not a phase of a debate" in wrong.err) == (65, True)
