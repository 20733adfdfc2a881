"""The comparison with other queues: its table and its pages. What it measures needs packages and a machine."""

import ast
import json
import subprocess
import sys

import pytest
from support.paths import ROOT

from benchmarks.peers import __main__, page
from benchmarks.peers.installing import PROGRAMS
from benchmarks.peers.measuring import RUN
from benchmarks.peers.table import BASELINE, PEERS

SAMPLES = {
    "version": "1.2.3", "single": [1000, 3000, 2000], "bulk": [90_000], "drain": [30_000],
    "latency_ms": [1.0, 2.0, 3.0], "start": [10.0], "rss_mb": [50.4], "pss_mb": [40.0], "processes": 1,
    "job_bytes": [1234.5],
}  # fmt: skip


def results(**queues):
    return {"conditions": "One day.", "queues": {BASELINE: SAMPLES} | queues}


def row(name, text):
    [line] = [line for line in text.splitlines() if line.startswith(f"| {name} |")][:1]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_shows_what_was_recorded():
    """The tables of docs/performance.md are those that the recorded results and the facts make."""
    text = page.PAGE.read_text()
    assert page.with_tables(text, json.loads(page.RESULTS.read_text())) == text


def test_a_row_has_medians_of_ratios_and_the_baseline_has_rates():
    """A queue without a bulk call has none; what processes share is counted once beside the sum."""
    ratios = SAMPLES | {"single": [0.5, 0.7, 0.6], "drain": [0.25], "processes": 2}
    text = page.render(results(arq=ratios))
    assert row(BASELINE, text)[2:6] == ["2,000/s", "90,000/s", "30,000/s", "2.0 / 2.9 ms"]
    assert row("arq", text) == [
        "arq", "1.2.3", "0.6", "none", "0.25", "2.0 / 2.9 ms", "10.0 x",
        "50 MB in 2 processes (40 MB with shared pages divided among their users)", "1,234",
    ]  # fmt: skip


def test_a_queue_that_was_not_measured_says_why():
    """The reason takes the place of the results, in a row of the same width."""
    cells = row("BullMQ", page.render(results(BullMQ={"not_measured": "npm is not installed"})))
    assert cells[2] == "not measured: npm is not installed"
    assert len(cells) == len(page.HEAD)


def test_tables_have_rows_of_the_measured_queues_only():
    """With names on the command line, nothing is said of the others."""
    tables = page.render(results(arq=SAMPLES)).split("\n\n")[1:]
    names = [[line.split()[1] for line in table.splitlines()[2:]] for table in tables]
    assert names == [[BASELINE, "arq"], ["arq"], [BASELINE, "arq"]]


def test_a_run_of_few_repetitions_is_not_written(monkeypatch, tmp_path):
    """Neither to the page nor to the record."""
    monkeypatch.setattr(page, "RESULTS", recorded := tmp_path / "RESULTS.json")
    monkeypatch.setattr(page, "PAGE", written := tmp_path / "performance.md")
    written.write_text(before := f"{page.BEGIN}{page.END}")
    whole = SAMPLES | {"start": [10.0] * page.LEAST_REPETITIONS}
    with pytest.raises(ValueError, match="arq was measured 1 time;"):
        page.write(results(**{BASELINE: whole}, arq=SAMPLES))
    assert written.read_text() == before
    assert not recorded.exists()
    page.write(results(**{BASELINE: whole}, arq={"not_measured": "pip is not installed"}))
    assert "| arq |" in written.read_text()
    assert recorded.exists()


def test_names_of_queues_have_any_case():
    """An unknown name is refused with those that are known."""
    assert [__main__._known(name) for name in ("rq", "STREAQ", "Celery")] == [
        "RQ",
        "streaQ",
        "Celery",
    ]
    command = [sys.executable, "-m", "benchmarks.peers", "resque"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "unknown queue resque; known are baseline, aragora-q" in done.stderr


def test_a_page_without_the_marks_is_refused():
    """Nothing is written where the tables have no place."""
    with pytest.raises(ValueError, match="lacks the lines"):
        page.with_tables("# A page\n", results())


@pytest.mark.parametrize("name", PEERS)
def test_every_queue_has_a_program_that_can_be_read(name):
    """It is in the folder of programs, and uses the payload and the clock of all others."""
    peer = PEERS[name]
    [program] = {
        file for word in peer.client.split() for file in (PROGRAMS / word, PROGRAMS / f"{word}.py")
        if file.exists() and file.name != "client.py"
    }  # fmt: skip
    text = program.read_text()
    if program.suffix == ".py":
        ast.parse(text)
        assert "ran()" in text
    assert peer.drain_jobs > 0
    assert peer.facts is None or (peer.facts.sources and all(vars(peer.facts).values()))
    assert "$" not in peer.worker  # commands are run without a shell


def test_a_program_enqueues_and_notes_runs(tmp_path):
    """The client prints one line of JSON; each run of a job appends one time of the monotonic clock."""
    (tmp_path / "with_list.py").write_text(
        "from peer import ran\n"
        "async def client(measure):\n"
        "    async def enqueue():\n"
        "        ran()\n"
        "    await measure(enqueue)\n"
    )
    environment = {
        "PYTHONPATH": f"{PROGRAMS}:{tmp_path}", "RUNS": str(tmp_path / "runs"),
        "REDIS_URL": "redis://127.0.0.1:1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, PROGRAMS / "client.py", "with_list", "latency", "2"],
        env=environment, capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    sent_ns = json.loads(done.stdout)["sent_ns"]
    times_ns = [time_ns for (time_ns,) in RUN.iter_unpack((tmp_path / "runs").read_bytes())]
    assert len(times_ns) == len(sent_ns) == 3
    assert all(sent <= ran for sent, ran in zip(sent_ns, times_ns, strict=True))
