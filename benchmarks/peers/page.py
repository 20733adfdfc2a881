"""The tables of the section "Peers" in docs/performance.md, from benchmarks/peers/RESULTS.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from aragora_q.formats import count
from benchmarks.peers.measuring import STARTS
from benchmarks.peers.table import BASELINE, PEERS

RESULTS = Path(__file__).with_name("RESULTS.json")
PAGE = Path(__file__).parents[2] / "docs/performance.md"
BEGIN, END = "<!-- peers -->\n", "<!-- end of peers -->\n"

HEAD = (
    "queue", "version", "single enqueue", "bulk enqueue", "drain", "start p50 / p95",
    f"command, fastest of {STARTS} starts", "idle worker", "bytes per job",
)  # fmt: skip
FACTS_HEAD = ("queue", "acknowledged after the run", "kept", "retries", "does not have")
SETTINGS_HEAD = ("queue", "settings", "jobs in the drain", "command")

Results = Mapping[str, Any]
"""`conditions`, and `queues`: of each queue its samples, one of each repetition, or why it was not measured."""

LEAST_REPETITIONS = 3
"""Of what the page may show."""


def render(results: Results) -> str:
    """Return the conditions of the run, and the tables of its queues."""
    queues = results["queues"]
    peers = {name: peer for name, peer in PEERS.items() if name in queues}
    parts = [
        results["conditions"],
        _table(HEAD, [_row(name, queues[name]) for name in peers]),
        _table(FACTS_HEAD, [_facts_row(name) for name, peer in peers.items() if peer.facts]),
        _table(
            SETTINGS_HEAD,
            [
                (name, peer.settings, f"{peer.drain_jobs:,}", f"`{_command(peer.look)}`")
                for name, peer in peers.items()
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def with_tables(page: str, results: Results) -> str:
    """Return `page` with the tables between the two marks. Raises ValueError without the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} lacks the lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{render(results)}\n{END}{after}"


def write(results: Results) -> None:
    """Record the results, and write them to the page. Raises ValueError if repetitions are too few."""
    for name, found in results["queues"].items():
        repetitions = len(found.get("start", ()))
        if "not_measured" not in found and repetitions < LEAST_REPETITIONS:
            raise ValueError(
                f"{name} was measured {count(repetitions, 'time')}; the page takes {LEAST_REPETITIONS} or more"
            )
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(with_tables(PAGE.read_text(), results))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _row(name: str, found: Results) -> list[str]:
    if reason := found.get("not_measured"):
        return [name, "", f"not measured: {reason}", *[""] * (len(HEAD) - 3)]
    if name == BASELINE:
        rates = [f"{median(found[rate]):,.0f}/s" for rate in ("single", "bulk", "drain")]
    else:
        rates = [
            f"{median(found[rate]):.2g}" if rate != "bulk" or PEERS[name].bulk else "none"
            for rate in ("single", "bulk", "drain")
        ]
    p50_ms, p95_ms = percentiles(found["latency_ms"])
    memory = f"{median(found['rss_mb']):.0f} MB"
    if (processes := found["processes"]) > 1:
        memory += (
            f" in {processes} processes"
            f" ({median(found['pss_mb']):.0f} MB with shared pages divided among their users)"
        )
    return [
        name,
        found["version"] if name != BASELINE else "",
        *rates,
        f"{p50_ms:.1f} / {p95_ms:.1f} ms",
        f"{median(found['start']):.1f} x",
        memory,
        f"{median(found['job_bytes']):,.0f}",
    ]


def percentiles(samples: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 95th percentile: more takes more samples than there are."""
    found = quantiles(samples, n=100, method="inclusive")
    return found[49], found[94]


def _facts_row(name: str) -> list[str]:
    facts = PEERS[name].facts
    links = ", ".join(f"[{number}]({source})" for number, source in enumerate(facts.sources, 1))
    return [f"{name} ({links})", facts.acknowledged, facts.kept, facts.retries, facts.lacks]


def _command(look: str) -> str:
    return re.sub(r" --(redis-)?url {url}", "", look).replace("python -m aragora_q", "aragora-q")
