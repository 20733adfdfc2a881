"""The jobs that an action means, checked ones or all that match a filter: counted, described, and worked on.

Used by the pages and by the API. An action never changes more jobs than were confirmed, and works for a
bounded time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace

from aragora_q.base import JobStatus
from aragora_q.errors import AragoraQError
from aragora_q.formats import count
from aragora_q.labels import JobFilter
from aragora_q.redis.scripts import BATCH_LIMIT
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.web.filters import filter_fields, filter_words
from aragora_q.web.verbs import Verb

BULK_SECONDS = 8.0
"""How long one request works on jobs; then it says how many are done, and how to go on."""

MAX_NAMED = 20
"""Ids that a confirmation lists."""


@dataclass
class Done:
    """What became of the jobs of an action so far."""

    verb: Verb
    answers: Counter[str] = field(default_factory=Counter)
    is_over: bool = True
    """False: the time was up, or an error came, before all jobs were seen."""
    error: AragoraQError | None = None

    def add(self, answers: Iterable[str], *, is_first: bool) -> None:
        """Count answers. Jobs that did not change are counted when they are seen first."""
        self.answers.update(each for each in answers if is_first or each in self.verb.changed)

    @property
    def changed(self) -> int:
        """The number of jobs that were changed."""
        return sum(self.answers[answer] for answer in self.verb.changed)

    @property
    def text(self) -> str:
        """Return, for example, `2 jobs cancelled; 1 job had already ended: completed`."""
        parts = [f"{count(self.changed, 'job')} {self.verb.done}"]
        for answer, number in sorted(self.answers.items()):
            if answer == "unknown":
                parts.append(f"{count(number, 'job')} not found")
            elif answer not in self.verb.changed:
                parts.append(f"{count(number, 'job')}: {self.verb.text(answer)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Selection:
    """What an action is about: `ids`, or the jobs that match `wanted`."""

    verb: Verb
    ids: tuple[str, ...] = ()
    wanted: JobFilter = field(default_factory=JobFilter)

    @classmethod
    def matching(cls, verb: Verb, wanted: JobFilter) -> Selection:
        """Return a selection of the jobs that match a filter, as far as the verb may mean them."""
        return cls(verb, wanted=replace(wanted, statuses=_statuses(verb, wanted)))

    async def count(self, queue: RedisStreamsQueue) -> int:
        """Return the number of jobs that are meant; 0 if the verb takes none of the filter's statuses."""
        if self.ids:
            return len(self.ids)
        return await queue.count(self.wanted) if self.wanted.statuses else 0

    @property
    def words(self) -> str:
        """Return which jobs are meant, for example `of group nightly, status pending or held`."""
        if self.ids:
            more = len(self.ids) - MAX_NAMED
            names = ", ".join(self.ids[:MAX_NAMED])
            return f"{names} and {more:,} more" if more > 0 else names
        return filter_words(self.wanted)

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The fields of a form that mean the same jobs again."""
        if self.ids:
            return [("id", job_id) for job_id in self.ids]
        return [("matching", "1"), *filter_fields(self.wanted)]

    def command(self) -> list[str]:
        """Return the words of the command line that does the same; it reads many ids from stdin."""
        if self.ids:
            return [self.verb.name, *(self.ids if len(self.ids) <= MAX_NAMED else "-")]
        fields = filter_fields(self.wanted)
        others = [
            word for name, value in fields if name != "status" for word in (f"--{name}", value)
        ]
        if self.verb.name == "purge" and not others:
            # Without it, `purge` would delete only those past retention.
            others = ["--older-than", "0s"]
        if others and self.wanted.statuses == self.verb.statuses:
            return [self.verb.name, *others]
        statuses = [
            word for name, value in fields if name == "status" for word in ("--status", value)
        ]
        return [self.verb.name, *statuses, *others]

    async def run(self, queue: RedisStreamsQueue, by: str, reason: str, *, most: int) -> Done:
        """Work on the jobs in batches, until all are done, `most` are changed, or BULK_SECONDS are over.

        If the filter names some statuses only, jobs that took the place of others meanwhile are not meant.
        """
        done, deadline, wanted = Done(self.verb), time.monotonic() + BULK_SECONDS, self.wanted
        try:
            began, is_first = await queue.tracker.server_time(), True
            while True:
                changed_before = done.changed
                async for page in self._pages(queue, wanted):
                    batch = page[: max(0, most - done.changed)] if not self.ids else page
                    answers = await self.verb.send(queue, batch, by, reason)
                    done.add(answers, is_first=is_first)
                    if not self.ids and done.changed >= most:
                        return done
                    if time.monotonic() >= deadline:
                        done.is_over = False
                        return done
                if self.ids or not self.verb.repeats or done.changed == changed_before:
                    return done
                is_first = False
                if wanted.statuses != self.verb.statuses:
                    wanted = replace(wanted, until=min(wanted.until or began, began))
        except AragoraQError as error:
            done.error, done.is_over = error, False
            return done

    async def _pages(
        self, queue: RedisStreamsQueue, wanted: JobFilter
    ) -> AsyncIterator[Sequence[str]]:
        if not self.ids:
            async for page in queue.find(wanted):
                yield page
            return
        for start in range(0, len(self.ids), BATCH_LIMIT):
            yield self.ids[start : start + BATCH_LIMIT]


def _statuses(verb: Verb, wanted: JobFilter) -> frozenset[JobStatus]:
    return frozenset(wanted.statuses or verb.statuses) & verb.statuses
