"""The benchmark runs from start to end. Its results depend on the machine and are not tested."""

import asyncio
import json
import re
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
    """What is run in part, or only to see whether it runs, is printed."""
    single = {"single": measurements.MEASUREMENTS["single"]}
    monkeypatch.setattr(measurements, "MEASUREMENTS", single)
    monkeypatch.setattr(measurements, "Sizes", lambda: measurements.QUICK)
    monkeypatch.setattr(run, "PAGE", page := tmp_path / "RESULTS.md")
    monkeypatch.setattr(sys, "argv", ["run", str(servers.any_server()), *options])
    run.main()
    row = f"| {bench.TITLES['single'][0]} | "
    assert (row in capsys.readouterr().out) == bool(options)
    assert page.exists() == (not options)
    assert options or (page.read_text().startswith(results.TITLE) and row in page.read_text())


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
    assert all(result["ratio"] > 0 for result in printed)


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
