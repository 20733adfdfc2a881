"""What checks return: findings, the kinds of problems of a queue's keys, and the report of a check of them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """A result of a check.

    `severity` is error if jobs are lost or do not run, warning if that may happen, otherwise note.
    """

    severity: Severity
    check: str
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Problem:
    """A kind of inconsistency. `code` is what the scripts `check_….lua` return.

    `message` completes "a job …", or what else `of` names. `repair` is what `--repair` does or, if the
    problem is not `repairable`, what an operator can do.
    """

    code: str
    message: str
    repair: str
    repairable: bool = True
    of: str = "job"


PROBLEMS = {
    problem.code: problem
    for problem in (
        Problem("not-queued", "waits, but is in no lane: it would never run", "make it due now"),
        Problem(
            "delivered-without-owner",
            "was delivered, but is not pending: it would never run",
            "move it to the tail of its lane",
        ),
        Problem(
            "orphaned-entry",
            "has an entry that was delivered, but is not pending",
            "move it to the tail of its lane",
        ),
        Problem("duplicate-entry", "has a second entry that is never read again", "delete it"),
        Problem(
            "other-lane",
            "waits in a lane that does not match its priority",
            "set the priority to match the lane",
        ),
        Problem("delayed-without-hash", "is delayed, but its hash is missing", "create its hash"),
        Problem("waits-twice", "is in a lane and also delayed", "keep it in its lane"),
        Problem("held-without-hash", "is held, but its hash is missing", "create its hash"),
        Problem(
            "held-unlisted",
            "is held, but is not in the index of held jobs: nothing would free it",
            "add it to the index",
        ),
        Problem("held-in-lane", "is held, but also waits", "take it out of its lane"),
        Problem(
            "listed-as-held",
            "is not held, but in the index of held jobs",
            "remove it from the index",
        ),
        Problem(
            "listed-as-ended",
            "is live, but in an index of ended jobs: purge would delete it",
            "remove it from the index",
        ),
        Problem("expires-while-live", "is live, but its data has a TTL", "remove the TTL"),
        Problem("stale-result", "is live, but has a result of an earlier run", "delete it"),
        Problem("payload-twice", "has its payload twice", "keep the one in the stream"),
        Problem(
            "unlisted",
            "has ended, but is in no index: purge would never delete it",
            "add it to its index",
        ),
        Problem(
            "listed-twice", "has ended, but is also in another index", "keep it in its own index"
        ),
        Problem("keeps-lease", "has ended, but still has a lease", "remove the lease"),
        Problem("never-expires", "has ended, but its data has no TTL", "set the TTL"),
        Problem(
            "listed-without-data",
            "is in an index, but its data is missing",
            "remove it from the index",
        ),
        Problem(
            "delayed-without-data",
            "is delayed, but its data is missing",
            "remove it from the delayed jobs",
        ),
        Problem(
            "parts-without-hash",
            "has data without a TTL, but no hash",
            "let the data expire after the retention time",
        ),
        Problem(
            "invalid-numbers",
            "has fields that are not numbers: it cannot be shown",
            "remove these fields",
        ),
        Problem(
            "payload-lost",
            "waits, but its payload was deleted",
            "cancel it and enqueue it again",
            repairable=False,
        ),
        Problem(
            "entry-lost",
            "is running, but its stream entry was deleted",
            "let its worker finish; if the worker is gone, cancel it and enqueue it again",
            repairable=False,
        ),
        Problem(
            "result-lost",
            "is completed, but its result was deleted",
            "the result cannot be restored",
            repairable=False,
        ),
        Problem(
            "wrong-type",
            "has a key of another type where its hash should be",
            "delete that key",
            repairable=False,
        ),
        Problem(
            "unknown-status",
            "has an unknown status",
            "check whether a newer version wrote it",
            repairable=False,
        ),
        Problem(
            "entry-without-hash", "has labels and waits, but its hash is missing", "create its hash"
        ),
        Problem(
            "unlisted-label",
            "has a label, but is not listed at it: filters do not find it",
            "list it there",
        ),
        Problem(
            "stray-member",
            "is listed at a label that it does not have",
            "remove it from that list",
        ),
        Problem(
            "labels-lost",
            "is listed at a label, but all its labels were deleted",
            "cancel it and enqueue it again",
            repairable=False,
        ),
        Problem("labels-without-job", "has labels, but does not exist", "remove its labels"),
        Problem(
            "label-wrong-type",
            "has a key of another type where its list of jobs should be",
            "delete that key, then run doctor --repair: it lists the jobs again",
            repairable=False,
            of="label",
        ),
        Problem(
            "group-wrong-type",
            "has a key of another type where its hash should be",
            "delete that key, then run doctor --repair: it counts the jobs again",
            repairable=False,
            of="group",
        ),
        Problem(
            "experiment-wrong-type",
            "has a key of another type where the record of its experiment should be",
            "delete that key; sweep then finds only debates that are not deleted",
            repairable=False,
            of="group",
        ),
        Problem("group-without-jobs", "has no jobs, but is kept", "delete it", of="group"),
        Problem(
            "group-lost",
            "has jobs, but its hash is missing",
            "create it with the counts of its jobs; it is not sealed any more",
            of="group",
        ),
        Problem(
            "group-invalid-numbers",
            "has fields that are not numbers: it cannot be shown",
            "set times to now, and the number of purged jobs to 0",
            of="group",
        ),
        Problem("group-unlisted", "is not in the list of groups", "list it", of="group"),
        Problem(
            "group-counts",
            "counts other jobs than it has",
            "set the counts to those of its jobs",
            of="group",
        ),
        Problem(
            "group-not-ended",
            "is sealed and has no live job, but has not ended: what follows it would never run",
            "end it, and enqueue the job that follows it",
            of="group",
        ),
        Problem("group-ended", "has ended, but is open or has live jobs", "reopen it", of="group"),
        Problem("group-expires", "has not ended, but has a TTL", "remove the TTL", of="group"),
        Problem("group-never-expires", "has ended, but has no TTL", "set the TTL", of="group"),
        Problem(
            "then-waits",
            "has ended, but the job that follows it was not enqueued",
            "enqueue it",
            of="group",
        ),
        Problem(
            "then-left",
            "keeps the payload of a job that does not wait for its end",
            "delete it",
            of="group",
        ),
        Problem(
            "then-lost",
            "was to be followed by a job whose data was deleted",
            "the job cannot be restored: enqueue it again",
            repairable=False,
            of="group",
        ),
        Problem(
            "outbox-wrong-type",
            "is not a list of messages: messages for its webhook are lost",
            "delete that key",
            repairable=False,
            of="key",
        ),
        Problem(
            "message-wrong-type",
            "is not a hash",
            "delete that key",
            repairable=False,
            of="message",
        ),
        Problem(
            "message-damaged",
            "does not say for which webhook it is",
            "delete it",
            of="message",
        ),
        Problem(
            "message-lost",
            "is listed, but its data is missing",
            "remove it from that list",
            of="message",
        ),
        Problem(
            "message-unlisted",
            "is in no list: it would never be delivered",
            "list it, due now unless it was sent",
            of="message",
        ),
        Problem(
            "message-twice",
            "is listed as waiting and as sent",
            "keep it in one list, as its result says",
            of="message",
        ),
        Problem("message-never-expires", "has no TTL", "set the TTL", of="message"),
        Problem(
            "policy-lost",
            "is missing: budgets, limits of providers and pauses do not apply",
            "make it again",
            of="key",
        ),
        Problem(
            "counter-wrong-type",
            "is not a hash: calls that count there fail",
            "delete that key; what was spent is counted from zero",
            repairable=False,
            of="counter",
        ),
        Problem(
            "counter-invalid-numbers",
            "has fields that are not amounts",
            "remove these fields",
            of="counter",
        ),
        Problem(
            "counter-reserved",
            "reserves other amounts than the calls under way need: a budget may stay full",
            "set what is reserved to what these calls need",
            of="counter",
        ),
        Problem(
            "counter-unlisted", "is not listed: budget does not show it", "list it", of="counter"
        ),
        Problem("counter-never-expires", "has no TTL", "set the TTL", of="counter"),
    )
}
"""Every kind of problem, by code."""

EXAMPLES = 5
MAX_EXAMPLES = 10_000
"""Names remembered of each problem; if there are more, the report says "at least"."""


@dataclass
class IntegrityReport:
    """The result of a walk. `stopped_at` is the cursor to resume from if time ran out, otherwise empty."""

    jobs: int = 0
    """Job hashes seen."""
    problems: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """What has a problem, by its code: ids of jobs or messages, names of groups, or labels.

    A walk may see them twice."""
    busy_groups: set[str] = field(default_factory=set)
    """Groups that changed each time that their jobs were counted: not judged."""
    uncompared_counters: int = 0
    """Counters whose reservations were not compared with calls, because too many calls are under way."""
    foreign_keys: list[str] = field(default_factory=list)
    """Keys under the prefix of the queue, or of the gates, that do not belong to it."""
    stopped_at: str = ""

    def add(self, code: str, name: str) -> None:
        """Add a problem of a job, a group or a label."""
        if len(self.problems[code]) < MAX_EXAMPLES:
            self.problems[code].add(name)
