"""enqueue: a debate from arguments, any number of jobs from JSON lines."""

import asyncio
import json
import os
import signal
import subprocess

import pytest
from support.wait import wait_until, wait_until_sync

from aragora_q.redis import connection

DEBATE = {"question": "Tea or coffee?", "agents": ["demo:bold", "demo:careful"]}
AGENTS = ("--agents", "demo:bold,demo:careful")


def lines(*objects):
    return "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in objects)


def test_arguments_become_the_debate(run_cli):
    """Every field of a debate and of its job can be given by an option."""
    ended = run_cli(
        "enqueue", "Tea or coffee?", *AGENTS, "--rounds", 2, "--consensus", "unanimous",
        "--job-timeout", 30, "--id", "tea", "--priority", 5, "--delay", "1h", "--max-attempts", 7,
        "--json",
    )  # fmt: skip
    assert (ended.code, ended.object) == (0, {"id": "tea", "created": True})
    job = run_cli("status", "tea", "--json").object
    assert job["payload"] == {
        **DEBATE, "rounds": 2, "consensus": "unanimous", "timeout_seconds": 30.0,
    }  # fmt: skip
    assert (job["priority"], job["max_attempts"]) == (5, 7)
    assert 3590 < (job["due_at"] - job["created_at"]) / 1000 <= 3600


def test_quiet_prints_only_the_id(cli_command, redis_client):
    """`id=$(aragora-q enqueue … --quiet)` works in a shell."""
    ended = cli_command("enqueue", "Tea or coffee?", *AGENTS, "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert (
        redis_client.hget(f"aragora:queue:debates:job:{ended.out.strip()}", "status") == "pending"
    )


def test_a_known_id_changes_nothing(run_cli):
    """Enqueueing again with the same id exits 0, says so, and leaves the first job as it is."""
    run_cli("enqueue", "first", *AGENTS, "--id", "one")
    again = run_cli("enqueue", "second", *AGENTS, "--id", "one", "--json")
    assert (again.code, again.object["created"]) == (0, False)
    assert run_cli("status", "one", "--json").object["payload"]["question"] == "first"


@pytest.mark.parametrize("option", ["", "--quiet", "--json"])
def test_an_enqueue_that_changed_nothing_is_always_reported(run_cli, option):
    """In text, as a field of JSON, and with --quiet: a line says that the job existed, and its status."""
    options = [option] if option else []
    run_cli("enqueue", "first", *AGENTS, "--id", "one")
    one = run_cli("enqueue", "first", *AGENTS, "--id", "one", *options)
    assert one.code == 0
    assert "one already exists (pending): not changed" in one.out + one.err
    many = run_cli("enqueue", "-", *options, stdin=lines({**DEBATE, "id": "one"}))
    assert (many.code, many.err) == (0, "0 jobs enqueued, 1 existed (not changed)\n")


def test_waiting_for_a_job_that_existed_is_reported(run_cli):
    """Also with --quiet: its result may be an old one."""
    args = ("enqueue", "x", *AGENTS, "--id", "one", "--wait", "--timeout", 0.1, "--quiet")
    assert "already exists" not in run_cli(*args).err
    assert "job one already exists (pending): not changed; waiting" in run_cli(*args).err


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named(run_cli, encoding):
    """JSON lines that an editor or a shell saved as UTF-16: one line says so, exit 65."""
    ended = run_cli("enqueue", "-", stdin=lines(DEBATE).encode(encoding))
    assert (ended.code, ended.out) == (65, "")
    name = encoding.upper()[:6]
    assert f"the input is {name}: JSON must be UTF-8" in ended.err
    assert f"iconv -f {name} -t UTF-8" in ended.err


def test_byte_order_marks_within_the_input_are_accepted(run_cli):
    """As `cat a.jsonl b.jsonl` makes them from files that begin with one."""
    line = b"\xef\xbb\xbf" + lines(DEBATE).encode()
    assert run_cli("enqueue", "-", stdin=2 * line).code == 0


def test_files_and_unquoted_questions_get_a_hint(run_cli, tmp_path, redis_client):
    """The name of an existing file is not debated; a question in several arguments needs quotes."""
    (tmp_path / "jobs.txt").write_text(lines(DEBATE))
    ended = run_cli("enqueue", tmp_path / "jobs.txt", *AGENTS)
    assert ended.code == 2
    assert (
        f"is a file: to enqueue its JSON lines, use aragora-q enqueue - < {tmp_path}" in ended.err
    )
    ended = run_cli("enqueue", "Tea", "or", "coffee?", *AGENTS)
    assert ended.code == 2
    assert "hint: put a text with blanks in quotes" in ended.err
    assert redis_client.dbsize() == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["x", *AGENTS, "--id", "a", "--id-from-content"], 2, "exclude each other"),
        (["", *AGENTS], 65, "question is empty"),
        (["x"], 65, "--agents"),
        (["x", "--agents", "demo"], 65, "number of agents"),
        (["x", *AGENTS, "--rounds", "-1"], 65, "rounds is -1"),
        (["x", *AGENTS, "--consensus", "majorty"], 65, "did you mean 'majority'"),
        (["x", *AGENTS, "--id", "a b"], 65, "job id 'a b'"),
        (["x", *AGENTS, "--priority", "5000"], 65, "priority is 5000"),
        (
            ["x", *AGENTS, "--delay", "1 hour"],
            2,
            "invalid duration '1 hour': use 90s, 15m, 36h or 7d",
        ),
        (["x", *AGENTS, "--rounds", "two"], 2, "--rounds"),
        (["x", *AGENTS, "--timeout", "5"], 2, "--timeout requires --wait"),
        (["-", "--wait"], 2, "--wait and --id require a QUESTION"),
        (["missing.jsonl"], 2, "cannot read missing.jsonl"),
        ([], 2, "QUESTION"),
    ],
)
def test_a_bad_argument_is_one_clear_line(run_cli, redis_client, args, code, message):
    """The message names what is wrong, the exit code its kind; nothing is enqueued, stdout stays empty."""
    ended = run_cli("enqueue", *args)
    assert (ended.code, ended.out) == (code, "")
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert redis_client.dbsize() == 0


def test_each_line_has_a_result_and_valid_lines_are_enqueued(run_cli):
    """One result per line with its number; bad lines get an error; exit 3; a summary on stderr."""
    text = lines(
        {**DEBATE, "id": "a"},
        {**DEBATE, "rounds": -1},
        "not json",
        "",
        {**DEBATE, "question": ""},
        {**DEBATE, "consenus": "majority"},
        {"payload": {"any": 1}, "id": "b", "priority": 1},
        {**DEBATE, "delay_seconds": "soon"},
        {"payload": [1]},
        {"payload": {}, "rounds": 1},
        "7",
        {**DEBATE, "id": 7},
    ).encode() + b'{"question": "\xff"}\n{"question": "unfinished'  # fmt: skip
    ended = run_cli("enqueue", "-", stdin=text)
    assert ended.code == 3
    answers = {line["line"]: line.get("error", line.get("id")) for line in ended.objects}
    assert list(answers) == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    assert (answers[1], answers[7]) == ("a", "b")
    for line, message in {
        2: "rounds is -1", 3: "invalid JSON", 5: "question is empty", 6: "did you mean 'consensus'",
        8: "delay_seconds is 'soon'", 9: "payload is not a JSON object", 10: "unknown field 'rounds'",
        11: "not a JSON object: 7", 12: "job id 7", 13: "invalid unicode", 14: "EOF",
    }.items():  # fmt: skip
        assert message in answers[line], line
    assert "2 jobs enqueued, 11 refused; the first: line 2: rounds is -1" in ended.err
    assert run_cli("status", "b", "--json").object["payload"] == {"any": 1}


def test_too_long_lines_are_refused_and_skipped(run_cli):
    """A line of 2 MiB, and a payload past the limit, are refused by size; the next line is enqueued."""
    huge = {**DEBATE, "metadata": {"x": "x" * 2**21}}
    large = {"payload": {"x": "x" * 300_000}}
    ended = run_cli("enqueue", "-", stdin=lines(huge, large, {**DEBATE, "id": "fits"}, huge))
    errors = [line.get("error", "") for line in ended.objects]
    assert ended.code == 3
    assert "longer than" in errors[0]
    assert "max_payload_bytes is 262144" in errors[1]
    assert ended.objects[2] == {"line": 3, "id": "fits", "created": True}
    assert "longer than" in errors[3]


def test_the_same_line_on_another_day_is_another_job(run_cli, redis_client):
    """A cron job that pipes the same line, or a file with two equal lines: every line is a job."""
    first = run_cli("enqueue", "-", "-q", stdin=lines(DEBATE, DEBATE))
    again = run_cli("enqueue", "-", "-q", stdin=lines(DEBATE))
    assert (first.code, again.code, first.err + again.err) == (0, 0, "")
    assert len({*first.lines, *again.lines}) == 3
    assert redis_client.xlen("aragora:queue:debates:stream") == 3


def test_ids_from_content_enqueue_nothing_twice(run_cli, redis_client):
    """With --id-from-content, the id depends on the payload only, however it is written."""
    text = lines(DEBATE, {**DEBATE, "question": "Cake or pie?"})
    first = run_cli("enqueue", "-", "--id-from-content", stdin=text)
    spelled = (
        '{ "agents":["demo:bold","demo:careful"], "rounds": 3, "question":"Tea or \\u0063offee?"}\n'
    )
    again = run_cli("enqueue", "-", "--id-from-content", stdin=text + spelled)
    assert "0 jobs enqueued, 3 existed (not changed)" in again.err
    one = run_cli("enqueue", DEBATE["question"], *AGENTS, "--id-from-content", "--json").object
    assert one == {"id": first.objects[0]["id"], "created": False}
    assert [line["created"] for line in again.objects] == [False] * 3
    assert [line["id"] for line in again.objects[:2]] == [line["id"] for line in first.objects]
    assert again.objects[2]["id"] == first.objects[0]["id"]
    assert redis_client.xlen("aragora:queue:debates:stream") == 2


@pytest.mark.parametrize("text", [json.dumps([{"question": "A?"}, {"question": ""}]),
                                  json.dumps([{"question": "A?"}, {"question": ""}], indent=2)])  # fmt: skip
def test_an_array_is_read_item_by_item(run_cli, text):
    """A JSON array, on one line or many, is read like lines; options supply what items omit."""
    ended = run_cli("enqueue", "-", *AGENTS, stdin=text)
    assert ended.code == 3
    assert ended.objects[0]["created"]
    assert ended.objects[1]["line"] == 2
    assert "question is empty" in ended.objects[1]["error"]


def test_no_item_of_a_document_is_too_long_to_read(run_cli):
    """Lines and documents have different limits; every item gets a result, whatever the layout."""
    huge = json.dumps({**DEBATE, "metadata": {"x": "x" * 1_300_000}})
    fits = json.dumps({**DEBATE, "id": "third"})
    ended = run_cli("enqueue", "-", stdin=f"[{json.dumps(DEBATE)},\n{huge},\n{fits}]\n")
    assert (ended.code, [line["line"] for line in ended.objects]) == (3, [1, 2, 3])
    assert "max_payload_bytes" in ended.objects[1]["error"]
    assert ended.objects[2]["id"] == "third"


@pytest.mark.parametrize("text", ['{"payload": {}, "id": "a"}\r\n', '[{"payload": {}, "id": "a"}]'])
def test_byte_order_marks_and_cr_lf_are_accepted(run_cli, text):
    """Files with a byte order mark, or with lines that end in CR LF."""
    ended = run_cli("enqueue", "-", stdin=b"\xef\xbb\xbf" + text.encode())
    assert (ended.code, ended.object) == (0, {"line": 1, "id": "a", "created": True})


def test_an_array_of_many_jobs_on_one_line(run_cli, redis_client):
    """12,000 jobs as `jq -c` writes them."""
    jobs = [{"payload": {"n": n, "text": "x" * 100}} for n in range(12_000)]
    ended = run_cli("enqueue", "-", "--quiet", stdin="\n \n" + json.dumps(jobs))
    assert (ended.code, len(ended.lines)) == (0, 12_000)
    assert redis_client.xlen("aragora:queue:debates:stream") == 12_000


def test_a_question_may_end_like_a_file_name(run_cli, tmp_path):
    """With a space in it and no such file, it is a question; without a space, a missing file."""
    asked = run_cli("enqueue", "What belongs in tsconfig.json", *AGENTS, "--json")
    assert (asked.code, asked.object["created"]) == (0, True)
    assert "cannot read" in run_cli("enqueue", "missing.json").err
    file = tmp_path / "my jobs.jsonl"
    file.write_text(json.dumps({**DEBATE, "id": "of-file"}))
    assert run_cli("enqueue", file).object["id"] == "of-file"


def test_one_object_over_several_lines_in_a_file(run_cli, tmp_path):
    """`jq . | aragora-q enqueue -` and FILE.json work."""
    file = tmp_path / "job.json"
    file.write_text(json.dumps({**DEBATE, "id": "pretty"}, indent=2))
    assert run_cli("enqueue", str(file)).object == {"line": 1, "id": "pretty", "created": True}


def test_bulk_quiet_prints_ids_only(run_cli):
    """Refused lines print no id; stderr reports them."""
    ended = run_cli("enqueue", "-", "--quiet", stdin=lines({**DEBATE, "id": "a"}, "x"))
    assert (ended.code, ended.lines) == (3, ["a"])
    assert "1 refused" in ended.err


@pytest.mark.slow
def test_a_slow_producer_is_not_kept_waiting(start_command):
    """A line is enqueued and its result printed as it arrives, while the input stays open."""
    process = start_command("enqueue", "-", stdin=subprocess.PIPE)
    for name in ("one", "two"):
        process.stdin.write(lines({**DEBATE, "id": name}).encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == name
    process.stdin.close()
    assert process.wait(20) == 0


def test_ctrl_c_reports_the_progress(start_command):
    """SIGINT ends a bulk run by the signal, after a line that says what was done."""
    process = start_command("enqueue", "-", stdin=subprocess.PIPE)
    process.stdin.write(lines(DEBATE).encode())
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT
    message = process.stderr.read().decode()
    assert "stopped after line 1: 1 job enqueued; to enqueue the rest, begin with line 2" in message
    assert "Traceback" not in message


def test_an_outage_reports_the_progress(own_server, start_command):
    """Redis stops during a bulk run: exit 69, after results for all enqueued lines."""
    server = own_server()
    process = start_command("enqueue", "-", env={"REDIS_URL": server.url}, stdin=subprocess.PIPE)
    process.stdin.write(lines(DEBATE).encode())
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["created"]
    server.kill()
    process.stdin.write(lines({**DEBATE, "question": "Cake?"}).encode())
    process.stdin.close()
    assert process.wait(30) == 69
    message = process.stderr.read().decode()
    assert "stopped after line 1: 1 job enqueued; line 2 may be in the queue, too" in message
    assert "begin with line 2: a line without id that is enqueued twice becomes two jobs" in message


def test_bulk_memory_does_not_grow_with_the_input(start_command, tmp_path):
    """Twenty times as many lines take no more memory."""

    def peak_kib(count):
        file = tmp_path / f"{count}.jsonl"
        file.write_text(
            "".join(lines({**DEBATE, "question": f"Is {n} good?"}) for n in range(count))
        )
        process = start_command("enqueue", str(file), stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        assert status == 0
        return usage.ru_maxrss

    assert peak_kib(20_000) < peak_kib(1_000) + 4_096


@pytest.mark.slow
async def test_wait_exits_with_the_outcome(harness, start_command):
    """`--wait` ends when the job does: 0 with the result if it completed, 1 if it failed."""
    from aragora_q.contracts import Completed, Failed

    session = await harness.worker()
    for outcome, code in ((Completed(b'{"answer": 42}'), 0), (Failed("no use"), 1)):
        process = start_command("enqueue", "x", *AGENTS, "--wait", "--json")
        job = await wait_until(lambda: _started(session))
        await harness.report(session, job, outcome)
        shown, _ = await asyncio.to_thread(process.communicate)
        assert (process.returncode, json.loads(shown)["id"]) == (code, job.id)


async def _started(session):
    return next(iter((await session.start(1)).jobs), None)


def test_wait_stops_at_its_time_limit(run_cli):
    """Without a worker, `--wait --timeout` exits 124 and names the job, which stays queued."""
    ended = run_cli("enqueue", "x", *AGENTS, "--id", "slow", "--wait", "--timeout", 0.1, "--quiet")
    assert ended.code == 124
    assert "not ended after 0.1 s: slow" in ended.err
    assert run_cli("status", "slow", "--json").object["status"] == "pending"


@pytest.mark.slow
def test_missing_confirmation_prints_the_id_and_exits_75(own_server, run_cli, monkeypatch):
    """A replica that does not confirm: the job is enqueued, `durable` is false, exit 75."""
    monkeypatch.setitem(connection._CONFIRM, "replica", ("WAIT", 1, 200))
    primary, replica = own_server(), own_server()
    with replica.client() as client:
        client.replicaof("127.0.0.1", primary.port)
    with primary.client() as client:
        wait_until_sync(lambda: client.info("replication")["connected_slaves"] == 1)
        wait_until_sync(
            lambda: client.info("replication").get("slave0", {}).get("state") == "online"
        )
        replica.process.send_signal(signal.SIGSTOP)
        args = ("--durability", "replica", "--redis-url", primary.url)
        one = run_cli("enqueue", "x", *AGENTS, "--id", "one", *args, "--json")
        many = run_cli("enqueue", "-", *args, stdin=lines({**DEBATE, "id": "two"}))
    assert one.code == many.code == 75
    assert one.object == {"id": "one", "created": True, "durable": False}
    assert many.object == {"line": 1, "id": "two", "created": True, "durable": False}


def test_an_unknown_agent_is_refused_at_enqueue(run_cli, monkeypatch):
    """With the nearest known name; other lines are enqueued, and so are payloads that are not debates."""
    ended = run_cli("enqueue", "Tea?", "--agents", "demo,cluade")
    assert ended.code == 65
    assert "unknown agent 'cluade'" in ended.err
    assert "did you mean 'claude'?" in ended.err
    unknown = {"question": "Tea?", "agents": ["demo", "cluade"]}
    ended = run_cli(
        "enqueue", "-", stdin=lines(DEBATE, unknown, {"payload": {"question": 1, "agents": 3}})
    )
    assert ended.code == 3
    assert "unknown agent 'cluade'" in ended.objects[1]["error"]
    assert [line.get("created") for line in ended.objects] == [True, None, True]
    monkeypatch.setenv("ARAGORA_AGENT_MINE", "demo")
    assert run_cli("enqueue", "Tea?", "--agents", "demo,mine").code == 0
