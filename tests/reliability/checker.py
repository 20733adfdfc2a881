"""Judges a history of the nemesis by the queue's promises, without access to the queue.

    python tests/reliability/checker.py /tmp/history.jsonl

Prints statistics as JSON and every broken promise as a line; exit code 1 if there is one.
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path


def judge(lines):
    """Statistics of a history, and the broken promises."""
    by_kind = defaultdict(list)
    for line in lines:
        by_kind[line["what"]].append(line)
    final = {line["id"]: line for line in by_kind["final"]}
    accepted = {line["id"]: line for line in by_kind["enqueue"] if line["answer"] == "ok"}
    counters = by_kind["counters"][0] if by_kind["counters"] else {}
    completions = Counter(
        job_id
        for line in by_kind["event"]
        if line["event"] == "completed"
        for job_id in line["ids"]
    )
    completed = [job for job in final.values() if job["status"] == "completed"]
    lost = sorted(set(accepted) - set(final))
    twice = sorted(job_id for job_id, n in completions.items() if n > 1)
    broken = [f"L: {job_id} was accepted and is gone" for job_id in lost]
    broken += [f"D: {job_id} was completed {completions[job_id]} times" for job_id in twice]
    if counters.get("completed", 0) != len(completed):
        broken.append(
            f"D: {counters.get('completed')} completions, {len(completed)} completed jobs"
        )
    broken += _unfinished(final, accepted)
    broken += _fences(by_kind["run"], final)
    broken += [f"Z: {line}" for each in by_kind["problems"] for line in each["found"]]
    broken += [f"E: {w['id']} is dead or told a traceback: {w}" for w in by_kind["worker"]
               if not w["alive"] or w["tracebacks"]]  # fmt: skip
    if not by_kind["settled"]:
        broken.append("R: not everything came to its end after all was healed")
    figures = {
        "seed": by_kind["seed"][0]["seed"] if by_kind["seed"] else None,
        "seconds": by_kind["seed"][0]["seconds"] if by_kind["seed"] else None,
        "accepted": len(accepted),
        "unanswered_enqueues": sum(line["answer"] != "ok" for line in by_kind["enqueue"]),
        "completed": len(completed),
        "failed_as_told": sum(job["status"] == "failed" for job in final.values()),
        "lost": len(lost),
        "completed_twice": len(twice),
        "runs": len(by_kind["run"]),
        "refused_reports": counters.get("refused", 0),
        "crashes_counted": counters.get("crashed", 0),
        "released": counters.get("released", 0),
        "redelivered": counters.get("redelivered", 0),
        "faults": dict(Counter(line["name"] for line in by_kind["fault"])),
        "broken": len(broken),
    }
    return figures, broken


def _unfinished(final, accepted):
    """Every accepted job has one outcome, and it is the one that its steps lead to."""
    for job_id, job in final.items():
        steps = accepted.get(job_id, {}).get("do", ())
        is_to_fail = ["permanent"] in [step[:1] for step in steps]
        expected = "failed" if is_to_fail else "completed"
        if job_id in accepted and job["status"] != expected:
            yield f"A: {job_id} is {job['status']}, should be {expected}: {job}"
        if int(job.get("attempts", 0)) > 3:
            yield f"A: {job_id} has {job['attempts']} attempts of 3"


def _fences(runs, final):
    """No fence is used twice; no run has a fence that the job never reached."""
    seen = Counter((run["id"], run["fence"]) for run in runs)
    yield from (f"F: fence {key} was held {n} times" for key, n in seen.items() if n > 1)
    for run in runs:
        if run["id"] in final and run["fence"] > int(final[run["id"]]["fence"]):
            yield f"F: {run['id']} ran with fence {run['fence']}, but reached {final[run['id']]}"


def main():
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    figures, broken = judge(lines)
    print(json.dumps(figures, indent=1))  # noqa: T201
    for line in broken:
        print(line)  # noqa: T201
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
