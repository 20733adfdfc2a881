"""The comparison with other queues: its table and its pages. What it measures needs packages and a machine."""

import ast
import json
import subprocess
import sys

import pytest
from support.paths import ROOT

from benchmarks.peers import page
from benchmarks.peers.installing import PROGRAMS
from benchmarks.peers.measuring import RUN
from benchmarks.peers.table import FLOOR, PEERS

SAMPLES = {
    "version": "1.2.3", "single": [1000, 3000, 2000], "bulk": [90_000], "drain": [30_000],
    "latency_ms": [1.0, 2.0, 3.0], "start": [10.0], "rss_mb": [50.4], "pss_mb": [40.0], "processes": 1,
    "job_bytes": [1234.5],
}  # fmt: skip


def results(**queues):
    return {"conditions": "One day.", "queues": {FLOOR: SAMPLES, **queues}}


def row(name, text):
    [line] = [line for line in text.splitlines() if line.startswith(f"| {name} |")][:1]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_shows_what_was_recorded():
    """The tables of docs/performance.md are those that the recorded results and the facts make."""
    text = page.PAGE.read_text()
    assert page.with_tables(text, json.loads(page.RESULTS.read_text())) == text


def test_a_row_has_medians_of_ratios_and_the_floor_has_rates():
    """A queue without a bulk call has none; what processes share is counted once beside the sum."""
    ratios = SAMPLES | {"single": [0.5, 0.7, 0.6], "drain": [0.25], "processes": 2}
    text = page.render(results(arq=ratios))
    assert row(FLOOR, text)[2:6] == ["2,000/s", "90,000/s", "30,000/s", "2.0 / 3.0 ms"]
    assert row("arq", text) == [
        "arq", "1.2.3", "0.6", "none", "0.25", "2.0 / 3.0 ms", "10.0 x",
        "50 MB in 2 processes (40 MB without what they share)", "1,234",
    ]  # fmt: skip


def test_a_queue_that_was_not_measured_says_why():
    """The reason takes the place of the results, in a row of the same width."""
    cells = row("BullMQ", page.render(results(BullMQ={"not_measured": "npm is not installed"})))
    assert cells[2] == "not measured: npm is not installed"
    assert len(cells) == len(page.HEAD)


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
