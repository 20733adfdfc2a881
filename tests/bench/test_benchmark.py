"""The benchmark runs from start to end. Its results depend on the machine and are not tested."""

import asyncio
import json
import re
import subprocess
import sys
from functools import partial
from statistics import median

import pytest
from support import servers
from support.paths import ROOT

from aragora_q import bench, codec
from aragora_q.bench import Result, find_server
from aragora_q.cli.bench import bench as bench_command
from aragora_q.errors import ConfigError
from benchmarks import executors, measurements, models, quotes, results, run
from benchmarks.targets import TARGETS

TINY = {bench.drain: 200, bench.bulk: 200, bench.single: 20, bench.latency: 5}


@pytest.mark.timeout(600)
def test_measures_every_target():
    """One run gives a positive result for every target and leaves the server empty."""
    testbed = bench.Testbed(str(servers.any_server()))
    try:
        found = list(measurements.run(testbed, measurements.QUICK))
        assert testbed.client.dbsize() == 0
    finally:
        testbed.close()
    names = [result.name for result in found]
    assert [name for name in names if name in TARGETS] == list(TARGETS)
    for result in found:
        if result.name.startswith("event"):  # of few calls, a difference may be of any sign
            continue
        assert median(result.ours) > 0, result
        assert not result.baseline or median(result.baseline) > 0, result


def test_jobs_and_results_have_the_sizes_that_the_page_names():
    """The baseline sends as much as the queue."""
    assert codec.encode(bench.new_job().payload) == bench.ENTRY["payload"]
    sizes = [len(codec.encode(each)) for each in (bench.PAYLOAD, executors.SMALL, executors.LARGE)]
    assert sizes == [300, 100, 20_000]


@pytest.mark.parametrize("options", [["--quick"], ["--only", "single"], []])
def test_only_a_whole_run_is_written(options, monkeypatch, tmp_path, capsys):
    """The table is printed once; of a run in part, or only to see whether it runs, nothing is written."""
    single = {"single": measurements.MEASUREMENTS["single"]}
    monkeypatch.setattr(measurements, "MEASUREMENTS", single)
    monkeypatch.setattr(measurements, "Sizes", lambda: measurements.QUICK)
    monkeypatch.setattr(run, "PAGE", page := tmp_path / "RESULTS.md")
    monkeypatch.setattr(sys, "argv", ["run", *options, "--server", str(servers.any_server())])
    run.main()
    row = f"| {bench.TITLES['single'][0]} | "
    printed = capsys.readouterr()
    assert printed.out.count(bench.TITLES["single"][0]) == 1
    assert bench.TITLES["single"][0] in printed.err
    assert row in printed.out
    assert "1 repetition in " in printed.out
    assert page.exists() == (not options)
    assert options or (page.read_text().startswith(results.TITLE) and row in page.read_text())


def test_a_quick_run_gives_no_verdict(monkeypatch, capsys):
    """It says what it is for instead, and its titles have its own sizes."""
    names = ("labels", "gates")
    found = {name: measurements.MEASUREMENTS[name] for name in names}
    monkeypatch.setattr(measurements, "MEASUREMENTS", found)
    command = ["run", "--quick", "--server", str(servers.any_server())]
    monkeypatch.setattr(sys, "argv", command)
    run.main()
    printed = capsys.readouterr().out
    assert f"\n{run.QUICK_NOTE}\n" in printed
    assert "required" not in printed
    assert "group of 200 / 10" in printed
    assert "20 calls in flight" in printed


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("/bin/true", "it ended with exit code 0"),
        (sys.executable, "it ended with exit code 2: "),
        ("not-a-program", "Exec format error"),
    ],
)
def test_a_program_that_is_no_server_is_an_error_of_one_line(program, reason, tmp_path):
    """Of both commands, with the exit code of a wrong setting."""
    (tmp_path / "not-a-program").write_bytes(b"\0")
    (tmp_path / "not-a-program").chmod(0o700)
    path = str(tmp_path / program)  # an absolute path stays as it is
    text = f"error: `{path}` did not start as a Redis server: {reason}"
    for module, *arguments in (["aragora_q", "bench"], ["benchmarks.run"]):
        command = [sys.executable, "-m", module, *arguments, "--server", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == ConfigError.exit_code
        [line] = done.stderr.splitlines()
        assert text in line


def test_command_explains_its_table(monkeypatch, capsys):
    """What a ratio is, which direction is better, the baseline, and the server's name and version."""
    monkeypatch.setattr(bench, "run", partial(bench.run, measurements={bench.single: 20}))
    bench_command(server=str(servers.any_server()), repeats=1)
    table, _, legend = capsys.readouterr().out.partition("\n\n")
    assert table.splitlines()[0].split() == bench.HEAD
    legend = " ".join(legend.split())
    assert re.match(r"(Redis|Valkey) \d+\.\S+, 1 repetition\. ", legend)
    assert legend.endswith(bench.LEGEND)


def test_model_calls_are_compared_with_a_client_written_by_hand():
    """All three protocols, whole and streamed: both clients read the same replies."""
    found = list(models.calls(repeats=1, count=2))
    assert [result.name for result in found] == list(TARGETS)[-4:]
    assert all(len(result.ours) == len(models.PATHS) for result in found)
    assert median(found[0].ours) > 0


def test_quotes_are_measured_after_some_debates(monkeypatch, capsys):
    """A row for each mode and number of debates; the debates run with the engine as it is."""
    monkeypatch.setattr(quotes, "find_server", lambda: str(servers.any_server()))
    monkeypatch.setattr(quotes, "EVALUATED", 2)
    monkeypatch.setattr(sys, "argv", ["quotes", "0", "2"])
    asyncio.run(quotes.main())
    rows = [line.split(" | ")[:2] for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows == [[f"| `{mode}`", size] for mode in ("auto", "always") for size in ("0", "2")]


def test_command_prints_a_line_of_json_per_result(monkeypatch, capsys):
    """`aragora-q bench --json` prints every result of its measurements, with the documented fields."""
    monkeypatch.setattr(bench, "run", partial(bench.run, measurements=TINY))
    bench_command(server=str(servers.any_server()), repeats=1, as_json=True)
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["measurement"] for result in printed] == list(bench.TITLES)
    page = (ROOT / "docs/reference/cli-json.md").read_text().partition("\n## bench\n")[2]
    documented = re.findall(r"^\| `(\w+)`", page, re.MULTILINE)
    assert all(list(result) == documented for result in printed)
    for result in printed:
        assert result["queue"] > 0
        of_rounded = result["queue"] / result["baseline"]  # the ratio itself may round to zero
        assert result["ratio"] == pytest.approx(of_rounded, rel=0.01, abs=0.001)


@pytest.mark.parametrize(
    ("name", "ours", "baseline", "verdict"),
    [
        ("drain", [160], [100], "goal"),
        ("drain", [140], [100], "required"),
        ("drain", [120], [100], "missed"),
        ("drain", [160, 140, 10], [100, 100, 10], "required"),
        ("latency_p50", [1.2], [1], "goal"),
        ("latency_p50", [1.9], [1], "required"),
        ("latency_p50", [2.1], [1], "missed"),
        ("waiting_bytes", [530], [], "required"),
        ("drain_large", [1], [1], ""),
    ],
)
def test_verdict_is_of_the_median_ratio(name, ours, baseline, verdict):
    """Rates must be high, times and sizes low; a result with a baseline is judged by its ratio."""
    assert results.cells(Result(name, name, "", ours, baseline))[-1] == verdict


def test_without_a_server_it_says_what_to_install():
    """A missing server program is a configuration error with a hint."""
    with pytest.raises(ConfigError, match="no-such-server") as refused:
        find_server("no-such-server")
    assert "--server" in refused.value.hint
