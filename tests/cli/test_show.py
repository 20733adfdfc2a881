"""`aragora-q show`: a debate for a person, from what its job and its journal hold."""

import json
import os
import re
import stat

import pytest
from support.sample_debates import SAMPLES

from aragora_q import codec
from aragora_q.contracts import Completed, Failed

ID = "5c1d0e9a"


@pytest.fixture
def store(harness):
    """Leaves a sample as a worker does: checkpoints, then the job's end, if it has ended."""

    async def leave(name, *, checkpoints=True):
        made, entries = SAMPLES[name]()
        await harness.enqueue_payload(ID, made.payload)
        session = await harness.worker()
        job = await harness.start_one(session)
        for entry in entries.items() if checkpoints else ():
            await session.checkpoint(job, *entry)
        if made.progress:
            await session.report_progress(job, made.progress)
        if made.error:
            await harness.report(session, job, Failed(made.error))
        elif made.result:
            await harness.report(session, job, Completed(codec.encode(made.result)))
        return made

    return leave


async def test_a_completed_debate(store, run_cli):
    """Verdict, votes and every round, from the journal, without a transcript."""
    await store("agreeing")
    shown = run_cli("show", ID)
    assert (shown.code, shown.err) == (0, "")
    assert shown.lines[0] == "What is the capital of Australia?"
    order = ["Consensus (majority)", "Verdict", "Votes", "Independent answers", "Round 1", "Seats"]
    places = [shown.out.index(title) for title in order]
    assert places == sorted(places)
    assert "chosen in 1908" in shown.out


async def test_colors_on_a_terminal_only(store, run_cli, monkeypatch):
    """Styles on a terminal, unless NO_COLOR is set; never in a pipe or a file."""
    await store("agreeing")
    monkeypatch.setenv("COLUMNS", "80")
    shown = run_cli("show", ID, terminal=True)
    assert "\x1b[1m" in shown.out
    assert max(len(re.sub(r"\x1b\[\d+m", "", line)) for line in shown.lines) <= 80
    assert "\x1b" not in run_cli("show", ID).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run_cli("show", ID, terminal=True).out


async def test_the_width_of_the_terminal(store, run_cli, monkeypatch):
    """Three seats are side by side at 130 columns, not at 60."""
    await store("agreeing")
    heads = {}
    for columns in (60, 130):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
        lines = run_cli("show", ID, terminal=True).lines
        heads[columns] = max(line.count("Seat ") for line in lines if line.startswith("Seat 1,"))
    assert heads == {60: 1, 130: 3}


async def test_running_and_failed_debates(store, run_cli, harness):
    """What is there so far; of a failed debate, why, and its answers."""
    await store("running")
    shown = run_cli("show", ID)
    assert (shown.code, "Running: round 2 of 3, review" in shown.out) == (0, True)
    assert "Round 1: revised answers" in shown.out
    assert "Verdict" not in shown.out
    await harness.queue.cancel(ID)
    assert "Cancelled." in run_cli("show", ID).out


async def test_a_failed_debate(store, run_cli):
    """The error, and the answers that were paid for."""
    made = await store("failed")
    shown = " ".join(run_cli("show", ID).out.split())
    assert f"Failed: {made.error}" in shown
    assert "chosen in 1908" in shown


async def test_a_debate_that_waits(harness, run_cli):
    """It has the question and no replies."""
    await harness.enqueue_payload(ID, {"question": "Tea?", "agents": ["a", "b"]})
    assert "No replies yet." in run_cli("show", ID).out


@pytest.mark.parametrize(
    ("name", "begins"),
    [("r.html", "<!DOCTYPE html>"), ("r.MD", "# What"), ("r.json", '{"job"'), ("r.txt", "What")],
)
async def test_a_file_gets_the_format_of_its_ending(store, run_cli, tmp_path, name, begins):
    """--format decides, then the ending of FILE; the file is complete, plain, and replaced."""
    await store("agreeing")
    path = tmp_path / name
    path.write_text("old")
    shown = run_cli("show", ID, "-o", path)
    assert (shown.code, shown.out, shown.err) == (0, "", "")
    assert path.read_text().startswith(begins)
    assert path.read_text().endswith("\n")
    assert "\x1b" not in path.read_text()
    assert list(tmp_path.iterdir()) == [path]
    run_cli("show", ID, "-o", path, "--format", "md")
    assert path.read_text() == run_cli("show", ID, "--format", "md").out


async def test_a_file_is_written_whole_or_not_at_all(store, run_cli, tmp_path):
    """A link stays a link, a device and a directory are refused, and permissions follow the umask."""
    await store("agreeing")
    target, link = tmp_path / "target.md", tmp_path / "link.md"
    link.symlink_to(target)
    umask = os.umask(0o027)
    try:
        assert run_cli("show", ID, "-o", link).code == 0
    finally:
        os.umask(umask)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    for path in (tmp_path, "/dev/null", tmp_path / "no/such.md"):
        refused = run_cli("show", ID, "-o", path)
        assert (refused.code, refused.out) == (78, "")
        assert f"cannot write {path}" in refused.err
    assert run_cli("show", ID, "-o", "-").out.startswith("What")


async def test_json(store, run_cli):
    """One object: the job, its result, and each call by phase."""
    made = await store("dropped")
    shown = run_cli("show", ID, "--format", "json").object
    assert shown["job"]["payload"] == made.payload
    assert shown["result"] == made.result
    assert [(each["phase"], each["round"]) for each in shown["rounds"]] == [
        ("propose", 0),
        ("review", 1),
    ]
    first, again, _ = shown["rounds"][1]["replies"]
    assert (first["try"], first["value"]) == (0, None)
    assert first["fault"] == "the reply was not a JSON object"
    assert (first["said"], again["said"]) == ("All of them\nname the date.", None)
    assert (again["seat"], again["try"], again["value"]["stop"]) == (0, 1, True)


async def test_a_damaged_journal(store, harness, run_cli):
    """The result is shown, the damage named, and the exit code says so."""
    await store("agreeing")
    harness.redis.hset(harness.keys.journal(ID), "checkpoint:call/propose.0.0", "{")
    shown = run_cli("show", ID)
    assert shown.code == 65
    assert "Canberra" in shown.out
    assert "Not complete: the job's journal cannot be read." in shown.out
    assert f"data of job {ID} in Redis is corrupted" in shown.err


async def test_a_journal_that_is_gone(store, run_cli):
    """Without journal and transcript, the verdict and the votes are there, and a line says what is not."""
    await store("agreeing", checkpoints=False)
    shown = run_cli("show", ID)
    assert (shown.code, "Canberra" in shown.out) == (0, True)
    assert "No replies are kept" in shown.out


@pytest.mark.parametrize("form", ["text", "md", "html", "json"])
async def test_a_job_that_is_not_a_debate(harness, run_cli, form):
    """One line, and the command that shows it."""
    await harness.enqueue_payload(ID, {"text": "to be"})
    shown = run_cli("show", ID, "--format", form)
    assert (shown.code, shown.out) == (65, "")
    first, hint = shown.err.splitlines()
    assert first.endswith(f"job {ID} is not a debate: its payload has no question and agents")
    assert hint == f"  hint: aragora-q status {ID} shows it"


def test_an_unknown_job(run_cli):
    """Exit code 3; an empty id, as a failed command leaves it, is a usage error."""
    assert run_cli("show", "nowhere").code == 3
    assert run_cli("show", "").code == 2
    assert run_cli("show", ID, "--format", "pdf").code == 2


async def test_status_and_wait_say_what_was_decided(store, run_cli):
    """Verdict, agreement, why no further round began, cost, and who dropped out, in full."""
    made = await store("dropped")
    for command in ("status", "wait"):
        shown = " ".join(run_cli(command, ID).out.split())
        for part in (
            "verdict Canberra",
            "agreement 67%, 2 of 3 seats",
            "ended by agreement: the answers agreed",
            "cost $0.0372, price of 1 call not known",
            f"problem {made.result['error']}",
            f"details aragora-q show {ID}",
        ):
            assert part in shown


async def test_progress_of_any_form(harness, run_cli):
    """Progress that another executor reports with a field `phase` is shown, whatever its other fields hold."""
    session = await harness.worker()
    await harness.enqueue_payload(ID, {"question": "Tea?", "agents": ["a", "b"]})
    progress = {
        "phase": [1],
        "agents": "x",
        "agents_done": None,
        "tokens": {},
        "round": {},
        "rounds": [],
    }
    await session.report_progress(await harness.start_one(session), {**progress, "tokens": "many"})
    for command in ("status", "show"):
        assert run_cli(command, ID).code == 0
    assert run_cli("list").code == 0


async def test_status_of_abstentions_and_of_other_jobs(store, harness, run_cli):
    """Abstentions are counted; a result of another executor is JSON, and has no hint."""
    await store("disagreeing")
    assert re.search(r"^abstained +1 seat$", run_cli("status", ID).out, re.MULTILINE)
    session = await harness.worker("w2")
    await harness.enqueue("other")
    result = json.dumps({"verdict": "x", "confidence": "y", "final_answer": None})
    await harness.report(session, await harness.start_one(session), Completed(result.encode()))
    shown = run_cli("status", "other").out
    assert '"confidence": "y"' in shown
    assert "aragora-q show" not in shown


def test_a_real_debate(run_cli, cli_command):
    """What a worker leaves of a debate of demo agents is shown in every format."""
    agents = "demo:bold,demo:careful,demo:curious"
    run_cli("enqueue", "Tea or coffee?", "--agents", agents, "--id", "tea", "--quiet")
    assert cli_command("worker", "--burst", "--metrics-port", "0").code == 0
    shown = {
        form: run_cli("show", "tea", "--format", form) for form in ("text", "md", "html", "json")
    }
    assert {each.code for each in shown.values()} == {0}
    for form in ("text", "md", "html"):
        for part in (
            "Verdict",
            "Votes",
            "Independent answers",
            "Round 1: reviews",
            "Seats",
            "demo:bold",
        ):
            assert part in shown[form].out, (form, part)
    result, rounds = shown["json"].object["result"], shown["json"].object["rounds"]
    assert [reply["seat"] for reply in rounds[0]["replies"]] == [0, 1, 2]
    assert result["verdict"] in shown["text"].out.replace("\n", " ")
