"""The product of questions and arms: the debates of an experiment, their ids, and which of them are missing.

A debate's id is made of its group, its arm and its question as they are written, so that another run finds the
debates that are there. What was enqueued once and is deleted is known from the record of the experiment, which
outlives its jobs. Used by `sweep` and `eval`. Must not enqueue or print anything.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from aragora_q.errors import InvalidPayload
from aragora_q.experiments.arms import Arm
from aragora_q.experiments.notes import ARM_TAG, Note
from aragora_q.experiments.questions import Question, canonical, form_fields
from aragora_q.intake.forks import refused_with
from aragora_q.job import EXPERIMENT_NOTE
from aragora_q.labels import check_labels
from aragora_q.loose import mapping, texts

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.streams.queue import RedisStreamsQueue

MAX_DEBATES = 100_000
"""Debates of one experiment."""

MAX_KNOWN_AGENTS = 1_000
"""Combinations of agents that are remembered."""

READ_AT_ONCE = 1_000
"""Ids whose state is read in one step."""


class Debate(NamedTuple):
    """One question in one arm."""

    id: str
    question: Question
    arm: Arm

    @property
    def where(self) -> str:
        """Where it is from, for messages."""
        return f"line {self.question.line}, arm {self.arm.name}"


@dataclass(frozen=True)
class Experiment:
    """Questions by arms.

    Raises:
        InvalidPayload: the name of the group or a tag breaks a rule, or there are too many debates.
    """

    group: str
    questions: Sequence[Question]
    arms: Sequence[Arm]
    agents: Sequence[str] = ()
    """Those of setting `default_agents`: of debates that name none."""
    job_fields: Mapping[str, Any] = field(default_factory=dict)
    """`tenant`, `tags`, `notify`, `priority` and `max_attempts` of questions that do not have them."""

    def __post_init__(self) -> None:
        tags = self.job_fields.get("tags", {})
        check_labels(self.group, self.job_fields.get("tenant"), tags)
        if ARM_TAG in tags:
            raise InvalidPayload(f"the tag {ARM_TAG} is set by the experiment: use another name")
        if len(self) > MAX_DEBATES:
            raise InvalidPayload(
                f"{len(self.questions):,} questions in {len(self.arms):,} arms are {len(self):,} debates: an "
                f"experiment has at most {MAX_DEBATES:,}",
                hint="split the questions, and give each part a group",
            )

    def __len__(self) -> int:
        """The number of its debates."""
        return len(self.questions) * len(self.arms)

    def __iter__(self) -> Iterator[Debate]:
        """Yield its debates, question by question."""
        heads = [
            f"[{canonical(self.group)},{canonical(arm.name)},{canonical(arm.as_written)},"
            for arm in self.arms
        ]
        for question in self.questions:
            tail = f"{question.canonical}]"
            for head, arm in zip(heads, self.arms, strict=True):
                digest = hashlib.sha256(f"{head}{tail}".encode()).hexdigest()
                yield Debate(digest[:32], question, arm)

    def line(self, debate: Debate) -> dict[str, Any]:
        """Return a debate as the fields of a line that `enqueue` takes."""
        question, arm = debate.question, debate.arm
        fields = {**self._agents, **arm.defaults, **question.fields}
        for name in refused_with(arm.fields):
            fields.pop(name, None)
        fields |= arm.fields
        tags = {**self.job_fields.get("tags", {}), **question.tags, ARM_TAG: arm.name}
        tenant = {} if question.tenant is None else {"tenant": question.tenant}
        place = self.arms.index(arm) + 1
        note = Note(arm.name, question.number, question.expected, place)
        return {
            **fields,
            **form_fields(fields, question.expected),
            **self.job_fields,
            **tenant,
            "tags": tags,
            "metadata": {**question.metadata, EXPERIMENT_NOTE: note.to_dict()},
            "group": self.group,
            "id": debate.id,
        }

    @cached_property
    def _agents(self) -> dict[str, Any]:
        return {"agents": list(self.agents)} if self.agents else {}


class Agents(NamedTuple):
    """Who debates: the names in their order, and what each stood for when that was written."""

    names: Sequence[str]
    settings: Mapping[str, Mapping[str, Any]]
    """By name: `model`, `settings` (those that are not at their default) and `rest`, a digest of the others; of
    an unknown name, nothing."""

    def record(self) -> str:
        """Return what the queue records of a new debate: a digest, and what it is the digest of."""
        text = canonical(self._asdict())
        return f"{hashlib.sha256(text.encode()).hexdigest()[:12]} {text}"


class AgentReader:
    """Reads from the configuration what the agents of debates are now; the same ones once."""

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._known: dict[str, Agents] = {}

    def of(self, payload: Mapping[str, Any]) -> Agents:
        """Return the agents of a checked debate."""
        from aragora_q.executors import debate  # noqa: PLC0415 - slow to import

        fields = {
            name: payload.get(name) for name in ("agents", "escalate", "judge", "service_tier")
        }
        key = json.dumps(fields)
        if key not in self._known:
            if len(self._known) >= MAX_KNOWN_AGENTS:
                self._known.clear()
            self._known[key] = Agents(*debate.settings_of(payload, self._config))
        return self._known[key]


class Change(NamedTuple):
    """An agent that now is another than it was in debates of an arm, which keep what they have."""

    arm: str
    agent: str
    """Blank: the agents are others, or others in number."""
    before: str
    after: str


class Found(NamedTuple):
    """What there is of some debates of an experiment, in their order."""

    statuses: Sequence[str | None]
    """None: the job does not exist."""
    recorded: Mapping[str, Mapping[str, Any]]
    """By id, the agents as recorded of each debate that was ever enqueued."""


async def find(queue: RedisStreamsQueue, group: str, ids: Sequence[str]) -> Found:
    """Return what there is of debates with these ids, at most READ_AT_ONCE."""
    statuses = await queue.get_statuses(ids)
    return Found([statuses[each] for each in ids], await queue.recorded_agents(group, ids))


class Changes:
    """Collects what has changed in the agents of debates that are there, and how many debates that are."""

    def __init__(self) -> None:
        self._counts: Counter[Change] = Counter()

    def note(self, arm: str, recorded: Mapping[str, Any], now: Agents) -> None:
        """Compare the agents as recorded of a debate with what they are now."""
        names, settings = texts(recorded.get("names", [])), mapping(recorded.get("settings"))
        if names and names != list(now.names):
            self._counts[Change(arm, "", ", ".join(names), ", ".join(now.names))] += 1
        for name in dict.fromkeys(names):
            before, after = mapping(settings.get(name)), now.settings.get(name)
            if before and after is not None and before != after:
                was, is_now = _text_of(before), _text_of(after)
                if was == is_now:
                    was, is_now = f"{was} as configured then", f"{is_now} as configured now"
                self._counts[Change(arm, name, was, is_now)] += 1

    def to_list(self) -> list[tuple[Change, int]]:
        """Return the changes, each with the number of debates that are as before."""
        return sorted(self._counts.items())


def _text_of(agent: Mapping[str, Any]) -> str:
    """Return what an agent is: `openai:gpt-6.1-terra, effort high`; `unknown` if it is not configured."""
    if not agent:
        return "unknown"
    settings = mapping(agent.get("settings"))
    return ", ".join([str(agent.get("model")), *(f"{name} {settings[name]}" for name in settings)])
