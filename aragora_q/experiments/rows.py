"""One debate of a group as a row of a table: what was asked, what came out, and what it took.

A row has what tables, comparisons and evaluations need, without the texts of the debate, so that those of
thousands of debates fit into memory. Pure: a job goes in. Whatever is in its result, a row is made: it may
come from another version or another program.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from aragora_q.answer_form import AnswerForm
from aragora_q.base import Job, JobStatus
from aragora_q.errors import AragoraQError, InvalidPayload, did_you_mean
from aragora_q.experiments.notes import ARM_TAG, note_of
from aragora_q.experiments.values import right_in
from aragora_q.job_rules import is_debate
from aragora_q.loose import mapping, mappings, number_or_none, text, whole

FORMS = 256
"""Answer forms that are kept at once, because checking a schema takes longer than reading a result."""

ENDED = (JobStatus.COMPLETED, JobStatus.FAILED)
"""Statuses of debates that ran to their end; cancelled ones did not."""


class Cast(NamedTuple):
    """A ballot that a voter cast, among answers that it saw in some order under labels."""

    answers: int
    """How many answers it chose from."""
    place: int
    """The place of its choice in the order in which it saw them, from 1."""
    label: int
    """The place of the label of its choice among all labels, in alphabetical order, from 1."""
    is_own: bool
    """True if it chose its own answer."""


class Change(NamedTuple):
    """Whether a seat's answer was right before the debate and after it."""

    was_right: bool
    is_right: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A debate of a group. Of a job that is not one, only `id`, `status`, `error` and `tags` are known.

    Verdict, dissent, changes and ballots are those of completed debates; cost, calls and tokens are known of
    failed ones, too, if they have a partial result.
    """

    id: str
    arm: str
    """Blank if the job is not of an experiment."""
    number: int
    """The place of the question in its file, from 1; 0 if that is not known."""
    question: str
    status: JobStatus
    tags: Mapping[str, str]
    error: str = ""
    """Why the job failed, or what went wrong in a debate that completed."""
    is_closed: bool = False
    """True if two answers agree exactly when their keys are equal; else they may differ in wording only."""
    choices: Sequence[str] = ()
    """The keys that a verdict can have, of a choice or a boolean; empty: they are not limited."""
    verdict: Any = None
    """None if there is none: no answer won, the debate has not completed, or no vote was held."""
    key: str | None = None
    """Equal for equal verdicts; None if there is none."""
    answer: str = ""
    """The final answer as text, with reasons."""
    expected: Sequence[Any] = ()
    """The verdicts that are right; empty: that is not known."""
    is_right: bool | None = None
    """Whether the verdict is one that is expected; a completed or failed debate without a verdict is not
    right. None: nothing is expected, no vote was to be held, or the debate has not ended so."""
    is_consensus: bool | None = None
    """None if there was no vote."""
    agreement: float | None = None
    """The share of the seats behind the verdict; None without a verdict or a vote."""
    dissent: Sequence[str] = ()
    """Verdicts other than the one that won, which seats hold or voted for."""
    rounds: int = 0
    abstentions: int = 0
    cost_usd: float | None = None
    """None: no call has a known price."""
    quote_usd: float | None = None
    """What it was expected to cost before its first call; None if a price was not known."""
    unpriced_calls: int = 0
    calls: int = 0
    taken_over: int = 0
    """Calls that were taken over from another debate, at no cost; they are none of `calls`."""
    tokens: int = 0
    seconds: float | None = None
    """Running time of the debate."""
    changes: Sequence[Change] = ()
    """Of each seat, if the right verdicts are known."""
    cast: Sequence[Cast] = ()
    """The ballots of a vote that was held: none if the votes were known without asking."""
    models: Sequence[str] = ()
    """The models of its seats, without repetitions."""
    is_corrupted: bool = False
    """True if the job's data in Redis cannot be read; `error` says why."""

    @property
    def is_debate(self) -> bool:
        """True for a debate; False for any other job, and for a corrupted one, which cannot be counted."""
        return bool(self.question)

    @property
    def full_cost_usd(self) -> float | None:
        """What the debate cost; None if it has not run to its end, or the price of a call is not known."""
        has_ended = self.status in ENDED
        return self.cost_usd if has_ended and not self.unpriced_calls else None


def row_of(job: Job, expected: Sequence[Any] | None = None) -> Row:
    """Return the row of a job, as far as it is known.

    `expected` are the right verdicts; None: those that its note has.
    """
    if not is_debate(job):
        return Row(job.id, "", 0, "", job.status, job.tags, job.error or "")
    payload, result = job.payload, mapping(job.result)
    note = note_of(payload)
    if expected is None:
        expected = note.expected if note else ()
    usage = mapping(result.get("token_usage"))
    form = _form_of(payload)
    is_complete, has_vote = job.status is JobStatus.COMPLETED, payload.get("consensus") != "none"
    verdict = result.get("verdict") if is_complete else None
    key = _key(form, verdict)
    right = {key for value in expected for key in _right_keys(form, value)}
    has_ended = job.status in ENDED
    is_counted = is_complete and has_vote
    return Row(
        id=job.id,
        arm=note.arm if note else "",
        number=note.number if note else 0,
        question=text(payload.get("question")),
        status=job.status,
        tags=job.tags,
        error=_error(job, result),
        is_closed=form.is_closed,
        choices=("false", "true") if form.kind == "boolean" else form.options,
        verdict=verdict,
        key=key,
        answer=text(result.get("final_answer")) if is_complete else "",
        expected=expected,
        is_right=key in right if right and has_ended and has_vote else None,
        is_consensus=result.get("consensus_reached") is True if is_counted else None,
        agreement=(
            number_or_none(result.get("confidence")) if is_counted and verdict is not None else None
        ),
        dissent=list(_dissent(result)) if verdict is not None else (),
        rounds=whole(result.get("rounds_used")),
        abstentions=whole(result.get("abstentions")) if is_counted else 0,
        cost_usd=number_or_none(result.get("cost_usd")),
        quote_usd=number_or_none(result.get("quote_usd")),
        unpriced_calls=whole(result.get("unpriced_calls")),
        taken_over=whole(result.get("taken_over")),
        calls=whole(usage.get("requests")),
        tokens=whole(usage.get("input_tokens")) + whole(usage.get("output_tokens")),
        seconds=number_or_none(result.get("duration_seconds")),
        changes=list(_changes(form, result, right)) if is_complete else (),
        cast=list(_cast(result)) if is_counted else (),
        models=list(_models(result)),
    )


def row_of_corrupted(job_id: str, status: JobStatus, tags: Mapping[str, str], error: str) -> Row:
    """Return the row of a job whose data cannot be read; the arm is that of its tag."""
    return Row(job_id, tags.get(ARM_TAG, ""), 0, "", status, tags, error, is_corrupted=True)


def of_arms(rows: Sequence[Row], arms: Sequence[str]) -> list[Row]:
    """Return the rows of these arms.

    Raises:
        InvalidPayload: no row is of one of them.
    """
    known = dict.fromkeys(row.arm for row in rows)
    for arm in arms:
        if arm not in known:
            names = ", ".join(filter(None, known))
            raise InvalidPayload(
                f"no arm {arm!r:.100} in the group; "
                + (f"its arms are {names:.1000}" if names else "its debates have no arms"),
                hint=did_you_mean(arm, list(known)),
            )
    return [row for row in rows if row.arm in arms]


def name_of(arm: str | None) -> str:
    """Return the name of an arm for people."""
    return arm or "(no arm)"


Question = tuple[str, tuple[str, ...], int]
"""Its text; its choices, if an arm has other questions with that text; and which of those it is, from 0."""


def by_question(arms: Mapping[str, Iterable[Row]]) -> dict[str, dict[Question, Row]]:
    """Return the rows of each arm by question.

    Not by number: a question keeps the one that it had when its first debate was enqueued, and the file may
    have been sorted since. Of two rows with one number, because the arm was written in another way before, the
    later one counts. Questions with the same text differ by their choices, then by their order.
    """
    found: dict[str, dict[str, dict[int, Row]]] = {arm: {} for arm in arms}
    for arm, rows in arms.items():
        for row in rows:
            found[arm].setdefault(row.question, {})[row.number] = row
    repeated = {text for texts in found.values() for text, own in texts.items() if len(own) > 1}
    return {arm: dict(_keyed(texts, repeated)) for arm, texts in found.items()}


def _keyed(
    texts: Mapping[str, Mapping[int, Row]], repeated: Container[str]
) -> Iterator[tuple[Question, Row]]:
    for question, own in texts.items():
        places: Counter[tuple[str, ...]] = Counter()
        for _, row in sorted(own.items()):
            choices = tuple(sorted(row.choices)) if question in repeated else ()
            yield (question, choices, places[choices]), row
            places[choices] += 1


def _error(job: Job, result: Mapping[str, Any]) -> str:
    """Return what went wrong; an error of a job that completed is that of an attempt before."""
    if job.status is JobStatus.COMPLETED:
        return text(result.get("error"))
    return job.error or text(result.get("error"))


def _form_of(payload: Mapping[str, Any]) -> AnswerForm:
    return _parse_form(
        json.dumps([payload.get("answer_form", "text"), payload.get("options")], sort_keys=True)
    )


@lru_cache(FORMS)
def _parse_form(fields: str) -> AnswerForm:
    with suppress(AragoraQError):
        return AnswerForm.parse(*json.loads(fields))
    return AnswerForm()


def _key(form: AnswerForm, verdict: Any) -> str | None:
    """Return the key of a verdict as it is read from a reply; None if it has not this form."""
    if verdict is None:
        return None
    with suppress(ValueError, TypeError, ArithmeticError):
        return form.key(form.read(verdict))
    return None


def _right_keys(form: AnswerForm, expected: Any) -> list[str]:
    """Return the keys of the verdicts that are right if `expected` is; none if it cannot have this form."""
    with suppress(ValueError, TypeError, ArithmeticError):
        return [form.key(each) for each in right_in(form, expected)]
    return []


def _changes(form: AnswerForm, result: Mapping[str, Any], right: set[str]) -> Iterator[Change]:
    if not right:
        return
    after = {whole(each.get("seat")): each.get("after") for each in mappings(result.get("changed"))}
    for each in mappings(result.get("first_votes")):
        seat, before = whole(each.get("seat")), each.get("verdict")
        last = after.get(seat, before)
        yield Change(_key(form, before) in right, _key(form, last) in right)


def _cast(result: Mapping[str, Any]) -> Iterator[Cast]:
    for each in mappings(result.get("votes")):
        answers, place, label = (whole(each.get(name)) for name in ("answers", "place", "label"))
        if answers > 1 and 1 <= place <= answers and 1 <= label <= answers:
            yield Cast(answers, place, label, each.get("self") is True)


def _dissent(result: Mapping[str, Any]) -> Iterator[str]:
    for each in mappings(result.get("dissent")):
        yield text(each.get("verdict"))


def _models(result: Mapping[str, Any]) -> dict[str, None]:
    models = [text(each.get("model")) for each in mappings(result.get("seats"))]
    return dict.fromkeys(filter(None, models))
