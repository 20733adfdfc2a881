"""Invariant Z, checked from outside: the keys of one queue agree with each other.

`check(client, prefix)` takes a client that decodes replies and the queue's key prefix, for example
`aragora:queue:debates:`, and fails with every disagreement that it finds. It holds between any two
scripts, after entries written by other programs have been read or removed.
"""

from collections import Counter

LANES = {"stream:high": 1, "stream": 0, "stream:low": -1}
GROUP = "aragora-workers"
TERMINAL = ("completed", "failed", "cancelled")
LIVE = ("pending", "processing", "retrying", "held")
PARTS = ("payload", "result", "history", "journal")
SINGLE_KEYS = {
    *LANES, *TERMINAL, "delayed", "held", "counters", "control", "workers", "events", "bell", "labels",
    "groups", "durations", "samples:minute", "samples:hour", "schedules", "webhooks", "changes",
}  # fmt: skip
KEYS_BY_NAME = ("worker", "group", "members", "experiment", "outbox", "sent", "delivery")
COMPACT_BYTES = 64
TRACE_BYTES = 512
"""A context without `tracestate` has 55; with it, the job takes more memory."""


def check(client, prefix):
    """Fail unless streams, pending lists, indexes, hashes, counters and TTLs agree, without other keys."""
    found = problems(client, prefix)
    assert not found, "\n".join(found)


def problems(client, prefix):
    """Every disagreement, one line each."""
    jobs, parts, unknown = _read_jobs(client, prefix)
    ttls = _ask(client, "pttl", [key for job_id in jobs for key in _keys_of(prefix, job_id, parts)])
    places, found = _read_places(client, prefix, jobs)
    found += unknown
    for job_id, fields in jobs.items():
        found += [
            f"job {job_id}: {line}" for line in _problems_of_job(job_id, fields, parts, places)
        ]
        found += _problems_of_ttl(ttls, prefix, job_id, fields, parts)
    found += [f"{part} of {job_id}: no such job" for job_id, part in parts if job_id not in jobs]
    found += _problems_of_labels(client, prefix, jobs)
    return [
        *found,
        *_problems_of_groups(client, prefix, jobs),
        *_problems_of_deliveries(client, prefix),
        *_problems_of_counters(client, prefix),
    ]


def _read_jobs(client, prefix):
    """Hashes by job id, the other keys of jobs, and keys that no queue has."""
    keys, parts, unknown = {}, set(), []
    for key in client.scan_iter(match=f"{prefix}*", count=1000):
        kind, _, name = key.removeprefix(prefix).partition(":")
        if kind == "job":
            job_id, _, part = name.rpartition(":")
            if part in PARTS and job_id:
                parts.add((job_id, part))
            else:
                keys[name] = key
        elif kind not in KEYS_BY_NAME and key.removeprefix(prefix) not in SINGLE_KEYS:
            unknown.append(f"unknown key {key}")
    hashes = _ask(client, "hgetall", keys.values())
    return {job_id: hashes[key] for job_id, key in keys.items()}, parts, unknown


def _ask(client, command, keys):
    """The reply of a command for each key, in one round trip."""
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            getattr(pipeline, command)(key)
        return dict(zip(keys, pipeline.execute(), strict=True))


def _keys_of(prefix, job_id, parts):
    key = f"{prefix}job:{job_id}"
    return [key, *(f"{key}:{part}" for part in PARTS if (job_id, part) in parts)]


def _read_places(client, prefix, jobs):
    """Where each job waits, runs or is listed, by job id, and the problems found on the way."""
    places, found = {}, []
    for lane, sign in LANES.items():
        entries = dict(client.xrange(prefix + lane))
        pending = _pending(client, prefix + lane) if entries or client.exists(prefix + lane) else {}
        found += [f"{lane}: {e} is pending but deleted" for e in pending if e not in entries]
        for entry, fields in entries.items():
            job = jobs.get(fields.get("id"))
            if job is None or job.get("entry") != entry:
                found.append(f"{lane}: entry {entry} of {fields.get('id')} is not the job's")
                continue
            if _sign(int(job.get("priority", 0))) != sign:
                found.append(f"{lane}: entry {entry} is in the wrong lane")
            place = ("stream", pending.get(entry), bool(fields.get("payload")))
            places.setdefault(fields["id"], []).append(place)
    for index in ("delayed", "held", *TERMINAL):
        for job_id in client.zrange(prefix + index, 0, -1):
            places.setdefault(job_id, []).append((index,))
            if job_id not in jobs:
                found.append(f"{index}: {job_id} has no hash")
    return places, found


def _pending(client, stream):
    groups = [group["name"] for group in client.xinfo_groups(stream)]
    if GROUP not in groups:
        return {}
    rows = client.xpending_range(stream, GROUP, "-", "+", 100_000)
    return {row["message_id"]: row["consumer"] for row in rows}


def _problems_of_job(job_id, fields, parts, places):
    status, place = fields.get("status"), places.get(job_id, [])
    sizes = {name: len(value.encode(errors="surrogateescape")) for name, value in fields.items()}
    if long := {n for n, size in sizes.items() if size > COMPACT_BYTES} - {"trace"}:
        yield f"{long} exceed {COMPACT_BYTES} bytes"
    if sizes.get("trace", 0) > TRACE_BYTES:
        yield f"its trace context exceeds {TRACE_BYTES} bytes"
    if len(place) != 1:
        yield f"{status} is in {len(place)} places: {place}"
        return
    where = place[0][0]
    if status in TERMINAL:
        if where != status:
            yield f"{status} but in {where}"
        if "entry" in fields or "lease_ms" in fields:
            yield f"{status} but keeps {fields}"
        if status == "completed" and (job_id, "result") not in parts:
            yield "completed without result"
    elif status not in LIVE:
        yield f"has status {status}"
    elif (where == "held") != (status == "held"):
        yield f"{status} but in {where}"
    elif where == "held":
        if {"entry", "lease_ms", "hold_asked"} & set(fields) or (job_id, "payload") not in parts:
            yield f"held, but {fields} with parts {parts}"
        if not {"held_from", "held_at", "hold_cause", "hold_by"} <= set(fields):
            yield f"held, but only {fields}"
    elif where == "delayed":
        if status == "processing" or "entry" in fields or (job_id, "payload") not in parts:
            yield f"delayed, but {fields} with parts {parts}"
    elif where == "stream":
        yield from _problems_of_entry(job_id, fields, parts, *place[0][1:])
    else:
        yield f"{status} but in {where}"
    left = {name for name in fields if name.startswith(("held_", "hold_"))} - {"held_at"}
    if status != "held" and "hold_asked" not in fields and left:
        yield f"{status} but keeps {left}"
    if "hold_asked" in fields and status != "processing":
        yield f"{status} but a hold is asked"
    if status in TERMINAL and "held_at" in fields:
        yield f"{status} but keeps its place among the held jobs"
    if status not in ("completed", "failed") and (job_id, "result") in parts:
        yield f"{status} with a result"
    if int(fields.get("attempts", 0)) > int(fields.get("max_attempts", 1 << 30)):
        yield f"has more attempts than allowed: {fields}"


def _problems_of_entry(job_id, fields, parts, consumer, has_payload):
    status = fields["status"]
    if not has_payload or (job_id, "payload") in parts:
        yield "in a stream, but its payload is not there alone"
    if status == "processing" and fields.get("lease_owner", "").partition("@")[0] != consumer:
        yield f"leased by {fields.get('lease_owner')} but pending for {consumer}"
    if status == "processing" and not {"lease_ms", "fence", "started_at"} <= set(fields):
        yield f"processing without {fields}"
    if status != "processing" and "lease_ms" in fields:
        yield f"{status} but has a lease"


def _problems_of_ttl(ttls, prefix, job_id, fields, parts):
    for key in _keys_of(prefix, job_id, parts):
        has_ttl = ttls[key] >= 0
        if has_ttl != (fields.get("status") in TERMINAL):
            yield f"{key}: {fields.get('status')} and {'has' if has_ttl else 'has no'} TTL"


def _problems_of_labels(client, prefix, jobs):
    """Every label of a job but `notify` has the job in its index, and every index holds only such jobs."""
    labels = {job_id: text.split() for job_id, text in client.hgetall(f"{prefix}labels").items()}
    labeled = {(label, job_id) for job_id in labels for label in labels[job_id]}
    labeled = {row for row in labeled if not row[0].startswith("notify:")}
    listed = set()
    for key in client.scan_iter(match=f"{prefix}members:*", count=1000):
        label = key.removeprefix(f"{prefix}members:")
        listed |= {(label, job_id) for job_id in client.zrange(key, 0, -1)}
    yield from (f"{job_id} has {label}, but is not listed" for label, job_id in labeled - listed)
    yield from (
        f"{job_id} is listed at {label}, but has it not" for label, job_id in listed - labeled
    )
    yield from (f"labels of {job_id}: no such job" for job_id in labels.keys() - jobs.keys())


def _problems_of_groups(client, prefix, jobs):
    """The counts of a group are those of its members; a group that has ended says so, with a TTL."""
    names = client.zrange(f"{prefix}groups", 0, -1)
    keys = set(client.scan_iter(match=f"{prefix}group:*", count=1000))
    for key in keys - {f"{prefix}group:{name}{part}" for name in names for part in ("", ":then")}:
        yield f"{key}: no such group"
    for name in names:
        key = f"{prefix}group:{name}"
        fields = client.hgetall(key)
        members = client.zrange(f"{prefix}members:group:{name}", 0, -1)
        counted = Counter(jobs.get(job_id, {}).get("status") for job_id in members)
        for status in (*LIVE, *TERMINAL):
            if int(fields.get(status, 0)) != counted[status]:
                yield f"group {name} counts {fields}, but its members are {counted}"
                break
        has_ended = "sealed_at" in fields and not any(counted[status] for status in LIVE)
        if has_ended != ("ended_at" in fields) or has_ended != (client.pttl(key) >= 0):
            yield f"group {name}: {fields} with TTL {client.pttl(key)}, but its members are {counted}"
        if not members:
            yield f"group {name} has no member"
        is_waiting = fields.get("then") == "waiting"
        if is_waiting != bool(client.exists(f"{key}:then")) or (is_waiting and has_ended):
            yield f"group {name}: its `then` is {fields.get('then')}"


def _problems_of_deliveries(client, prefix):
    """Every message is in one list, that of its webhook; every list holds only such messages; all expire."""
    lists, keys = Counter(), []
    for kind in ("outbox", "sent"):
        for key in client.scan_iter(match=f"{prefix}{kind}:*", count=1000):
            webhook = key.removeprefix(f"{prefix}{kind}:")
            lists.update((delivery, webhook) for delivery in client.zrange(key, 0, -1))
            keys.append(key)
    known = {}
    for key in client.scan_iter(match=f"{prefix}delivery:*", count=1000):
        known[key.removeprefix(f"{prefix}delivery:"), client.hget(key, "webhook")] = key
    yield from (f"message {row} is in {n} lists" for row, n in lists.items() if n != 1)
    yield from (f"message {row} has no data" for row in lists.keys() - known.keys())
    yield from (f"message {row} is in no list" for row in known.keys() - lists.keys())
    yield from (f"{key} has no TTL" for key in [*known.values(), *keys] if client.pttl(key) < 0)


def _problems_of_counters(client, prefix):
    counters = Counter({name: int(n) for name, n in client.hgetall(f"{prefix}counters").items()})
    for index in TERMINAL:
        listed = client.zcard(prefix + index) - (counters["malformed"] if index == "failed" else 0)
        if counters[index] < listed:
            yield f"{listed} jobs are {index}, but only {counters[index]} were counted"


def _sign(number):
    return (number > 0) - (number < 0)
