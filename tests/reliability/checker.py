"""Judges a history of the nemesis by the queue's promises, without access to the queue.

    python tests/reliability/checker.py /tmp/history.jsonl

Prints statistics as JSON and every broken promise as a line; exit code 1 if there is one.
"""

import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

LEASE_SECONDS = 2.0
BEHIND_PROXY = ("w1", "w3")
SERVER_FAULTS = ("freeze_the_server", "pause_writes", "restart_the_server", "fail_over")
CLOCK_SECONDS = 0.2
"""How far times of a fault may be from the server's: a signal is sent before or after it is noted."""

DECLARED_MICROS = 1_000_000
"""The limit of the budget before it is set."""

MIN_RAISES = 5
"""A limit that was raised so often lets more be spent than the declared one."""

LANE_SHARE = 1 / 8
MIN_BUSY_STARTS = 200
"""So many starts while all lanes were busy are needed to judge their shares."""


def judge(lines):
    """Statistics of a history, and the broken promises."""
    by_kind = defaultdict(list)
    for line in lines:
        by_kind[line["what"]].append(line)
    final = {line["id"]: line for line in by_kind["final"]}
    accepted = _accepted(lines)
    counters = by_kind["counters"][0] if by_kind["counters"] else {}
    completions = Counter(
        job_id
        for line in by_kind["event"]
        if line["event"] == "completed"
        for job_id in line["ids"]
    )
    completed = [job for job in final.values() if job["status"] == "completed"]
    members, stopped = _members(accepted), {line["group"] for line in by_kind["cancel group"]}
    purged = {
        job_id for group in stopped for job_id in members[group]
    }  # perhaps: they were cancelled
    lost = sorted(set(accepted) - set(final) - purged)
    twice = sorted(job_id for job_id, n in completions.items() if n > 1)
    undone = _undone(by_kind)
    broken = [f"L: {job_id} was accepted and is gone" for job_id in lost if job_id not in undone]
    broken += [
        f"D: {job_id} was completed {completions[job_id]} times"
        for job_id in twice
        if job_id not in undone
    ]
    if counters.get("completed", 0) != len(completed):
        broken.append(
            f"D: {counters.get('completed')} completions, {len(completed)} completed jobs"
        )
    broken += _unfinished(final, accepted, purged)
    broken += _groups(by_kind, members, final, undone)
    broken += _holds(by_kind["event"], undone)
    broken += _fences(by_kind["run"], by_kind["fence"], final, undone)
    unmatched = list(_crashes_of_live_workers(by_kind))
    broken += unmatched
    broken += _starved_lanes(by_kind["busy"])
    broken += _money(lines, by_kind)
    broken += _schedules(by_kind, final, undone)
    broken += _messages(by_kind, accepted, undone)
    broken += [f"Z: {line}" for each in by_kind["problems"] for line in each["found"]]
    broken += [f"E: {w['id']} is dead or logged a traceback: {w}" for w in by_kind["worker"]
               if not w["alive"] or w["tracebacks"]]  # fmt: skip
    broken += [f"the history is incomplete: {each['error']}" for each in by_kind["nemesis failed"]]
    if not by_kind["settled"]:
        broken.append("R: not every job ended after all was healed")
    figures = {
        "seed": by_kind["seed"][0]["seed"] if by_kind["seed"] else None,
        "seconds": by_kind["seed"][0]["seconds"] if by_kind["seed"] else None,
        "accepted": len(accepted),
        "unanswered_enqueues": sum(line["answer"] != "ok" for line in by_kind["enqueue"]),
        "purged_and_enqueued_again": len(by_kind["purge"]),
        "groups": len(by_kind["group"]),
        "sealed_groups": len(by_kind["seal"]),
        "jobs_that_followed_a_group": sum(job_id.startswith("then-") for job_id in final),
        "completed": len(completed),
        "failed_as_asked": sum(job["status"] == "failed" for job in final.values()),
        "lost": len(lost),
        "completed_twice": len(twice),
        "undone_by_failovers": len(undone),
        "runs": len(by_kind["run"]),
        "refused_reports": counters.get("refused", 0),
        "crashes_counted": counters.get("crashed", 0),
        "crashes_checked": len(by_kind["crash"]),
        "crashes_of_live_workers": len(unmatched),
        "released": counters.get("released", 0),
        "redelivered": counters.get("redelivered", 0),
        "money": _sums(by_kind),
        "held": counters.get("held", 0),
        "messages": len({line["id"] for line in by_kind["message"]}),
        "messages_sent_again": len(by_kind["message"]) - len({m["id"] for m in by_kind["message"]}),
        "times_enqueued": sum("@" in job_id for job_id in final),
        "times_missed": sum(line["missed"] for line in by_kind["schedule ended"]),
        "starts_while_all_lanes_were_busy": _busy_starts(by_kind["busy"]),
        "faults": dict(Counter(line["name"] for line in by_kind["fault"])),
        "broken": len(broken),
    }
    return figures, broken


def _accepted(lines):
    """The last acknowledged enqueue of each id, unless the job was purged since."""
    accepted = {}
    for line in lines:
        if line["what"] == "enqueue" and line["answer"] == "ok":
            accepted[line["id"]] = line
        elif line["what"] == "purge":
            accepted.pop(line["id"], None)
    return accepted


def _undone(by_kind):
    """Ids of jobs something happened to that a failover, as documented, may have undone."""
    if not by_kind["lost"]:
        return set()
    happened = [(line["at"], [line["id"]]) for line in by_kind["enqueue"] if line["answer"] == "ok"]
    happened += [(line["at"], line["ids"]) for line in by_kind["event"]]
    happened += [(line["at"], [line["id"]]) for line in by_kind["purge"]]
    return {
        job_id
        for at, ids in happened
        for job_id in ids
        if any(window["began"] <= at <= window["at"] for window in by_kind["lost"])
    }


def _members(accepted):
    """Ids of the jobs of each group."""
    members = defaultdict(set)
    for job_id, line in accepted.items():
        members[line.get("group")].add(job_id)
    return members


def _groups(by_kind, members, final, undone):
    """A sealed group ends, and its `then` is enqueued once, after the last of its jobs has ended.

    That its counts are those of its members is invariant Z.
    """
    windows = by_kind["lost"]
    unsure = {group for group, ids in members.items() if ids & undone}
    unsure |= {
        line["group"]
        for line in (*by_kind["seal"], *by_kind["cancel group"])
        if any(window["began"] <= line["at"] <= window["at"] for window in windows)
    }
    found = {line["group"]: line for line in by_kind["group"]}
    sealed = {line["group"]: line["then"] for line in by_kind["seal"]}
    fates = {line["group"]: line["fate"] for line in by_kind["cancel group"]}
    requeued = {line["group"] for line in by_kind["requeue"]}
    events = [(line["event"], set(line["ids"])) for line in by_kind["event"]]
    for line in by_kind["late"]:
        if line["group"] not in unsure:
            yield f"G: {line['id']} was accepted by {line['group']}, which is sealed"
    for group, then_id in sealed.items():
        enqueued = [
            n for n, (event, ids) in enumerate(events) if event == "enqueued" and then_id in ids
        ]
        if any(job_id.startswith(f"{then_id}.") for job_id in final):
            yield f"G: {then_id} was enqueued again under another id"
        if len(enqueued) > 1 and then_id not in undone:
            yield f"G: {then_id} was enqueued {len(enqueued)} times"
        if group in unsure:
            continue
        status = final.get(then_id, {}).get("status")
        if fates.get(group) != "cancel" and status != "completed":
            yield f"G: {group} was sealed, but {then_id}, which follows it, is {status}"
        if group not in requeued and enqueued:
            early = [
                ids & members[group] for _, ids in events[enqueued[0] :] if ids & members[group]
            ]
            if early:
                yield f"G: {then_id} was enqueued before the end of {early[0]}"
        if group not in found and group not in fates:
            yield f"G: {group} is gone"
    thens = {}
    for group, fields in found.items():
        state = fields.get("then")
        if "sealed_at" in fields and "ended_at" not in fields:
            yield f"G: {group} was sealed, but has not ended: {fields}"
        if state not in (None, "enqueued", "cancelled"):
            yield f"G: the job that follows {group} is {state}"
        if state == "cancelled" and fates.get(group) != "cancel":
            yield f"G: the job that follows {group} was cancelled"
        thens[fields.get("then_id")] = state
    for job_id in final:
        if job_id.startswith("then-") and thens.get(job_id, "enqueued") != "enqueued":
            yield f"G: {job_id} was enqueued, but its group says {thens[job_id]}"


def _unfinished(final, accepted, cancelled):
    """Every accepted job has one outcome, and it is the one that its steps lead to; so is a partial result."""
    for job_id, job in final.items():
        steps = accepted.get(job_id, {}).get("do", ())
        is_to_fail = ["permanent"] in [step[:1] for step in steps]
        expected = {"failed" if is_to_fail else "completed"}
        if job_id.startswith("replaced-") or job_id in cancelled:
            expected.add("cancelled")
        if job_id in accepted and job["status"] not in expected:
            yield f"A: {job_id} is {job['status']}, should be {expected}: {job}"
        partial = next((step[1] for step in steps if step[0] == "permanent" and step[1:]), None)
        if job_id in accepted and job["status"] == "failed" and job.get("result") != partial:
            yield f"A: {job_id} has the result {job.get('result')}, should have {partial}"
        if int(job.get("attempts", 0)) > 3:
            yield f"A: {job_id} has {job['attempts']} attempts of 3"


def _holds(events, undone):
    """A held job does nothing until it is freed or cancelled."""
    held = set()
    for line in events:
        ids = set(line["ids"])
        if line["event"] in ("unheld", "cancelled", "enqueued", "requeued"):
            held -= ids
        elif line["event"] != "held":
            yield from (
                f"H: {job_id} is held, but {line['event']}" for job_id in (held & ids) - undone
            )
        else:
            held |= ids


def _fences(runs, seen, final, undone):
    """No fence is used twice, none falls, and no run has a fence that the job never reached."""
    used = Counter((run["id"], run["fence"]) for run in runs)
    yield from (f"F: fence {key} was used {n} times" for key, n in used.items() if n > 1)
    for run in runs:
        # A job that was enqueued again may have been cancelled before its first start: it has no fence.
        job_id, reached = run["id"], int(final.get(run["id"], {}).get("fence", 0))
        if reached and job_id not in undone and run["fence"] > reached:
            yield f"F: {job_id} ran with fence {run['fence']}, but reached {final[job_id]}"
    yield from _falling(seen, "id", "fence")
    yield from _falling([{**run, "of": (run["id"], run["pid"])} for run in runs], "of", "fence")


def _falling(lines, key, value):
    """Fences as they were seen in Redis, and by one worker process, only rise."""
    highest = {}
    for line in lines:
        if line[value] < highest.get(line[key], 0):
            yield f"F: the fence of {line[key]} fell from {highest[line[key]]} to {line[value]}"
        highest[line[key]] = max(line[value], highest.get(line[key], 0))


def _crashes_of_live_workers(by_kind):
    """Every counted crash is that of a worker that was killed, frozen or cut off while it had the job.

    Or the server was away twice within two leases: a worker may miss the moment between.
    """
    for crash in by_kind["crash"]:
        outages = [
            fault
            for fault in by_kind["fault"]
            if fault["name"] in SERVER_FAULTS
            and fault["began"] <= crash["at"]
            and fault["at"] >= crash["at"] - 2 * LEASE_SECONDS
        ]
        if len(outages) > 1:
            continue
        worker = (crash["worker"] or "").partition("@")[0]
        started_at = int((re.search(r"started at (\d+)", crash["error"]) or [0, 0])[1]) / 1000
        if not any(
            _may_end(fault, worker)
            and fault["began"] <= crash["at"]
            and fault["at"] >= started_at - CLOCK_SECONDS
            for fault in by_kind["fault"]
        ):
            yield f"R: a job of {worker}, which was alive, was taken, or a crash was counted: {crash}"


def _may_end(fault, worker):
    if fault["name"] in ("kill_a_worker", "freeze_a_worker"):
        return fault["worker"] == worker
    return fault["name"] == "blackhole" and worker in BEHIND_PROXY


def _money(lines, by_kind):
    """No grant brought a budget above any limit that it had, and what is booked is what was billed.

    Exactly, for calls that were settled with their price; at least, for all.
    """
    highest = 0
    for line in lines:
        if line["what"] == "limit":
            highest = max(highest, line["micros"])
        if line["what"] == "money" and line["spent"] + line["reserved"] - line["overrun"] > max(
            highest, DECLARED_MICROS
        ):
            yield f"M: granted above a limit of {highest}: {line}"
    if not by_kind["ledger"]:
        return
    sums, calls = _sums(by_kind), {line["id"]: line for line in by_kind["call"]}
    yield from (f"M: {bill['id']} was billed without a grant" for bill in by_kind["bill"]
                if bill["id"] not in calls)  # fmt: skip
    yield from (f"M: {call_id} was billed {n} times" for call_id, n in
                Counter(bill["id"] for bill in by_kind["bill"]).items() if n > 1)  # fmt: skip
    yield from (f"M: {call['id']} was neither settled nor estimated" for call in by_kind["call"]
                if call["state"] == "granted")  # fmt: skip
    raised = sum(line["micros"] > 2 * DECLARED_MICROS for line in by_kind["limit"])
    if raised >= MIN_RAISES and sums["spent"] - sums["overrun"] <= DECLARED_MICROS:
        yield f"M: the limit was raised {raised} times, which did not apply: {sums}"
    if sums["billed"] > sums["spent"]:
        yield f"M: billed is more than settled and estimated: {sums}"
    if sums["settled"] != sums["billed_for_settled"]:
        yield f"M: settled calls were billed otherwise: {sums}"
    if sums["reserved"] or not sums["spent"] == sums["spent_of_agents"] == sums["ledger"]:
        yield f"M: sums of budgets and ledger differ: {sums}"


def _messages(by_kind, accepted, undone):
    """For each end of a job or group that is reported there is one message, and it was received."""
    ends = Counter(
        (job_id, f"job.{line['event']}")
        for line in by_kind["event"]
        if line["event"] in ("completed", "failed", "cancelled")
        for job_id in line["ids"]
        if accepted.get(job_id, {}).get("notify") and job_id not in undone
    )
    received = Counter(
        (subject, kind)
        for _, subject, kind in {(m["id"], m["subject"], m["type"]) for m in by_kind["message"]}
    )
    for end, n in ends.items():
        if received[end] != n:
            yield f"W: {end} happened {n} times and was reported {received[end]} times"
    for line in by_kind["group"]:
        if "ended_at" in line and line.get("notify") and not received[line["group"], "group.ended"]:
            yield f"W: {line['group']} has ended, which was not reported"


def _schedules(by_kind, final, undone):
    """Each time of a schedule is enqueued, or counted as missed because Redis was away; never twice, and not
    while the schedule is paused.
    """
    first = {line["schedule"]: line["first"] for line in by_kind["planned"]}
    enqueued = Counter(
        job_id for line in by_kind["event"] if line["event"] == "enqueued" for job_id in line["ids"]
    )
    for line in by_kind["schedule ended"]:
        name, every = line["name"], line["every"]
        times = set(range(first[name], line["last"] + 1, every))
        jobs = {f"{name}@{at}": at for at in times}
        found = {job_id for job_id in final if job_id.startswith(f"{name}@")}
        missing = {at for job_id, at in jobs.items() if job_id not in final}
        yield from (
            f"T: {job_id} was enqueued {enqueued[job_id]} times"
            for job_id in found - undone
            if enqueued[job_id] > 1
        )
        yield from (
            f"T: {job_id} is of no time of its schedule"
            for job_id in found - set(jobs)
            if int(job_id.partition("@")[2]) <= line["last"]
        )
        for paused_at, resumed_at in _pauses(by_kind, name):
            yield from (
                f"T: {job_id} was enqueued while its schedule was paused"
                for job_id, at in jobs.items()
                if job_id in found and paused_at < at < resumed_at
            )
        if any(each["name"] == name for each in by_kind["schedule"]):
            continue  # times close to a pause may be enqueued or not
        if len(missing) != line["missed"]:
            yield f"T: {len(missing)} times of {name} have no job, {line['missed']} are counted as missed"
        for at in missing:
            if not any(
                fault["began"] <= at + every and fault["at"] >= at
                for fault in by_kind["fault"]
                if fault["name"] in SERVER_FAULTS
            ):
                yield f"T: time {at} of {name} was not enqueued, although Redis was there"


def _pauses(by_kind, name):
    """From when to when a schedule was paused for sure, and no failover can have undone that."""
    lines = [line for line in by_kind["schedule"] if line["name"] == name]
    for pause, resume in zip(lines[::2], lines[1::2], strict=False):
        if not any(
            window["began"] <= resume["at"] and window["at"] >= pause["began"]
            for window in by_kind["lost"]
        ):
            yield pause["at"] + CLOCK_SECONDS, resume["began"] - CLOCK_SECONDS


def _sums(by_kind):
    """Sums in whole micro-dollars, and numbers of calls."""
    counters = {line["budget"]: line for line in by_kind["counter"]}
    money = counters.get("money:total", {})
    states = {line["id"]: line["state"] for line in by_kind["call"]}
    ledger = (by_kind["ledger"] or [{}])[-1]
    settled = [
        bill["billed"] for bill in by_kind["bill"]
        if bill["known"] and states.get(bill["id"]) == "settled"
    ]  # fmt: skip
    return {
        "calls": len(states),
        "estimated_calls": sum(state == "estimated" for state in states.values()),
        "billed": sum(bill["billed"] for bill in by_kind["bill"]),
        "spent": money.get("spent", 0),
        "settled": money.get("spent", 0) - money.get("estimated", 0),
        "billed_for_settled": sum(settled),
        "reserved": sum(line.get("reserved", 0) for line in by_kind["counter"]),
        "spent_of_agents": sum(
            line.get("spent", 0) for name, line in counters.items() if name.startswith("agents/")
        ),
        "ledger": ledger.get("usd", 0),
        "overrun": money.get("overrun", 0),
    }


def _busy_starts(busy):
    return {lane: sum(line[lane] for line in busy) for lane in ("high", "normal", "low")}


def _starved_lanes(busy):
    """While jobs wait in every lane, each gets at least half of its least share of the starts."""
    starts = _busy_starts(busy)
    total = sum(starts.values())
    if total < MIN_BUSY_STARTS:
        return
    for lane, count in starts.items():
        if count < total * LANE_SHARE / 2:
            yield f"S: lane {lane} got {count} of {total} starts"


def main():
    lines = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    figures, broken = judge(lines)
    print(json.dumps(figures, indent=1))  # noqa: T201
    for line in broken:
        print(line)  # noqa: T201
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
