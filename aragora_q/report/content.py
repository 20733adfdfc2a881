"""Arrange what is known about a debate, for a person: the verdict first, then how it came about.

Reads a job, its result and its calls; each may be incomplete, or written by another program. Must not know
how a report is laid out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from aragora_q.base import Job, JobStatus
from aragora_q.formats import count, dollars, duration, price
from aragora_q.report.calls import Call, Calls, Phase
from aragora_q.report.document import (
    Block,
    Facts,
    Notice,
    Report,
    Row,
    Section,
    Speech,
    Speeches,
    Table,
    Tone,
)
from aragora_q.report.loose import mapping, mappings, number_or_none, text, texts, whole, wholes

MAX_TITLE_CHARS = 150
MAX_CELL_CHARS = 80
"""Verdicts are shortened in tables; the list of answers has them in full."""

ENDINGS = {
    "rounds": "all rounds were used",
    "agreement": "the answers agreed",
    "unchanged": "a round changed no answer",
    "max_tokens": "max_tokens did not allow another round",
    "max_cost": "max_cost_usd did not allow another round",
    "timeout": "timeout_seconds did not allow another round",
}
"""What `ended_by` means."""

TITLES = {
    "propose": "Independent answers",
    "review": "reviews",
    "revise": "revised answers",
    "discuss": "reviews and answers",
    "vote": "Ballots",
    "judge": "Judge",
    "synthesize": "Synthesis",
}


def is_debate(job: Job) -> bool:
    """Return True if the job's payload is that of a debate, be it valid or not."""
    return isinstance(job.payload.get("question"), str) and isinstance(
        job.payload.get("agents"), list
    )


def build_report(job: Job, calls: Calls) -> Report:
    """Return the report of a debate. `job` is one for which `is_debate` is true."""
    return _Debate(job, calls).report()


def has_outcome(job: Job) -> bool:
    """Return True if the job has a result that is a debate's, or a partial one."""
    result = mapping(job.result)
    return is_debate(job) and "verdict" in result and "confidence" in result


def outcome(job: Job) -> list[tuple[str, str]]:
    """Return the outcome of a debate as names and values. `job` is one for which `has_outcome` is true."""
    return _Debate(job, Calls()).outcome()


class _Debate:
    def __init__(self, job: Job, calls: Calls) -> None:
        self._job = job
        self._payload = job.payload
        self._result = mapping(job.result)
        self._calls = calls
        self._mode = text(job.payload.get("consensus")) or "majority"
        self._judge = text(job.payload.get("judge"))
        self._names = texts(job.payload.get("agents")) + texts(job.payload.get("escalate") or [])
        self._groups = mappings(self._result.get("groups"))
        self._seats = mappings(self._result.get("seats")) or self._seats_of_calls()
        self._dropped = {whole(each.get("seat")): text(each.get("dropped")) for each in self._seats}

    def report(self) -> Report:
        question = text(self._payload.get("question")).strip()
        first = question.partition("\n")[0]
        is_whole = question == first and len(first) <= MAX_TITLE_CHARS
        title = first if len(first) <= MAX_TITLE_CHARS else f"{first[:MAX_TITLE_CHARS]}…"
        sections = [
            *([] if is_whole else [Section("Question", [Speech(body=question)])]),
            *self._outcome(),
            *self._rounds(),
            *self._accounts(),
        ]
        return Report(title, [*self._notices(), self._terms()], sections)

    # -- before the first heading

    def _notices(self) -> Iterator[Notice]:
        status = self._job.status
        if status is JobStatus.COMPLETED:
            yield self._verdict_notice()
        elif status is JobStatus.FAILED:
            yield Notice(f"Failed: {self._job.error or 'the reason is not known'}", Tone.BAD)
            if self._result:
                yield Notice("The result is partial: what was there when the job failed.")
        elif status is JobStatus.CANCELLED:
            yield Notice("Cancelled.", Tone.CAUTION)
        else:
            name = "Running" if status is JobStatus.PROCESSING else status.value.capitalize()
            yield Notice(f"{name}{self._position()}.")
            if status is JobStatus.RETRYING and self._job.error:
                yield Notice(f"Last error: {self._job.error}", Tone.CAUTION)
        if self._calls.problem:
            yield Notice(f"Not complete: {self._calls.problem}.", Tone.CAUTION)

    def _verdict_notice(self) -> Notice:
        if self._mode == "none":
            return Notice("No vote was held: consensus mode none.")
        is_reached = self._result.get("consensus_reached") is True
        found = f"{'Consensus' if is_reached else 'No consensus'} ({self._mode})"
        if agreement := self._agreement():
            found += f", agreement {agreement}"
        if self._result.get("decided_by") == "judge":
            found += f"; decided by the judge, {self._judge}"
        return Notice(f"{found}.", Tone.GOOD if is_reached else Tone.CAUTION)

    def _position(self) -> str:
        """Return where a debate is that has not ended."""
        progress = mapping(self._job.progress)
        phase, number = text(progress.get("phase")), whole(progress.get("round"))
        if not phase and self._calls.phases:
            phase, number = self._calls.phases[-1].name, self._calls.phases[-1].round
        position = [f"round {number} of {self._max_rounds()}" if number else "", phase]
        if agents := whole(progress.get("agents")):
            position.append(
                f"{whole(progress.get('agents_done'))} of {count(agents, 'agent')} done"
            )
        shown = ", ".join(filter(None, position))
        return f": {shown}" if shown else ""

    def _max_rounds(self) -> int:
        if self._payload.get("debate") == "never":
            return 0
        rounds = self._payload.get("rounds")
        return 3 if rounds is None else whole(rounds)

    def _terms(self) -> Facts:
        """What was asked, and how."""
        form = self._payload.get("answer_form") or "text"
        named = f"JSON of the schema {text(form)}" if isinstance(form, Mapping) else text(form)
        options = texts(self._payload.get("options") or [])
        rows = [
            ("job", self._job.id),
            ("agents", ", ".join(texts(self._payload.get("agents")))),
            ("joining on disagreement", ", ".join(texts(self._payload.get("escalate") or []))),
            ("judge", self._judge),
            ("consensus mode", self._mode),
            ("rounds", f"at most {self._max_rounds()}"),
            ("answer form", named),
            ("options", "; ".join(options)),
        ]
        return Facts([row for row in rows if row[1]])

    # -- the outcome

    def _outcome(self) -> Iterator[Section]:
        if not self._result:
            return
        yield Section("Verdict", [self._verdict(), *self._answers(), self._facts()])
        if votes := self._votes():
            yield Section("Votes", votes)
        if dissent := list(self._dissent()):
            yield Section("Dissent", [Speeches(dissent)])
        if changes := self._changes():
            yield Section("Before and after the debate", [changes])
        if flags := mappings(self._result.get("flags")):
            rows = [
                Row(
                    [self._seat(whole(each.get("seat"))), _place(each), text(each.get("why"))],
                )
                for each in flags
            ]
            yield Section("Flags", [Table(("Seat", "Where", "Why"), rows)])
        if problem := text(self._result.get("error")):
            yield Section("Problems", [Notice(problem, Tone.CAUTION)])

    def _verdict(self) -> Block:
        verdict, answer = self._result.get("verdict"), text(self._result.get("final_answer"))
        author = text(self._result.get("written_by"))
        if author:
            return Speech(body=answer, notes=[f"written by {author} from all answers"])
        if verdict is None:
            return Speech(lead="No verdict.", body=answer)
        return Speech(lead=text(verdict), body=text(self._result.get("reasons")))

    def _answers(self) -> Iterator[Block]:
        if len(self._groups) < 2 and self._result.get("verdict") is not None:
            return
        rows = [
            Row([text(each.get("verdict")), self._numbers(each.get("seats")), _share(each)])
            for each in self._groups
        ]
        if rows:
            yield Table(("Answer", "Seats", "Votes"), rows, frozenset({"Votes"}))

    def _facts(self) -> Facts:
        verdict = text(self._result.get("verdict")) if self._result.get("written_by") else ""
        return Facts([*([("verdict", verdict)] if verdict else []), *self._decision()])

    def outcome(self) -> list[tuple[str, str]]:
        verdict, author = self._result.get("verdict"), text(self._result.get("written_by"))
        reasons = text(self._result.get("reasons"))
        rows = [
            ("verdict", "none" if verdict is None else text(verdict)),
            ("reasons", "" if author else reasons),
            ("answer", text(self._result.get("final_answer")) if author else ""),
            *self._decision(),
            ("problem", text(self._result.get("error"))),
        ]
        return [row for row in rows if row[1]]

    def _decision(self) -> list[tuple[str, str]]:
        result = self._result
        is_reached = result.get("consensus_reached") is True
        ended_by = text(result.get("ended_by"))
        meaning = f": {ENDINGS[ended_by]}" if ended_by in ENDINGS else ""
        rows = [
            ("consensus", f"{'reached' if is_reached else 'not reached'} ({self._mode})"),
            ("agreement", self._agreement()),
            ("decided by", text(result.get("decided_by"))),
            ("written by", text(result.get("written_by"))),
            ("abstained", self._abstained()),
            ("rounds", f"{whole(result.get('rounds_used'))} of at most {self._max_rounds()}"),
            ("ended by", f"{ended_by}{meaning}"),
            ("time", duration(number_or_none(result.get("duration_seconds")) or 0.0)),
            ("usage", self._usage()),
            ("cost", price(number_or_none(result.get("cost_usd")), self._unpriced())),
        ]
        return [row for row in rows if row[1]]

    def _abstained(self) -> str:
        abstentions = whole(self._result.get("abstentions"))
        return count(abstentions, "seat") if abstentions else ""

    def _unpriced(self) -> int:
        return whole(self._result.get("unpriced_calls"))

    def _agreement(self) -> str:
        share = number_or_none(self._result.get("confidence"))
        if share is None or self._mode == "none":
            return ""
        if self._mode == "weighted":
            return f"{share:.0%} of the weight"
        votes = mappings(self._result.get("votes"))
        verdict = self._result.get("verdict")
        winning = {n for n, each in enumerate(self._groups) if each.get("verdict") == verdict}
        voters = sum(_group(each) in winning for each in votes)
        return f"{share:.0%}" + (f", {voters} of {count(len(votes), 'seat')}" if votes else "")

    def _usage(self) -> str:
        usage = mapping(self._result.get("token_usage"))
        if not whole(usage.get("requests")):
            return ""
        tokens = f"{whole(usage.get('input_tokens')):,} tokens in"
        calls = count(whole(usage.get("requests")), "call")
        return f"{calls}, {tokens}, {whole(usage.get('output_tokens')):,} out"

    def _votes(self) -> list[Block]:
        rows = [
            Row(
                [
                    self._seat(seat),
                    self._agent(seat, text(vote.get("agent"))),
                    text(vote.get("model")),
                    self._choice(vote),
                    text(vote.get("confidence")),
                    ", ".join(self._vote_notes(vote)),
                ],
                text(vote.get("reason")) or self._vote_faults(seat),
            )
            for vote in mappings(self._result.get("votes"))
            for seat in [whole(vote.get("seat"))]
        ]
        if not rows:
            return []
        head = ("Seat", "Agent", "Model", "Vote", "Confidence", "Notes")
        table = Table(head, rows, frozenset({"Confidence"}), "Reason")
        return [table, *self._by_model()]

    def _choice(self, vote: Mapping[str, Any]) -> str:
        group = _group(vote)
        if group is None or not 0 <= group < len(self._groups):
            return "dropped out" if self._dropped.get(whole(vote.get("seat"))) else "abstained"
        return _short(text(self._groups[group].get("verdict")))

    def _vote_notes(self, vote: Mapping[str, Any]) -> Iterator[str]:
        if vote.get("self") is True:
            yield "own answer"
        if vote.get("implied") is True:
            yield "implied"
        if self._mode == "weighted":
            yield f"weight {text(vote.get('weight'))}"

    def _vote_faults(self, seat: int) -> str:
        """Return why a seat's ballots were not used."""
        faults = [
            call.fault for call in self._calls.all() if (call.phase, call.seat) == ("vote", seat)
        ]
        return "; ".join(f"a ballot was not used: {fault}" for fault in faults if fault)

    def _by_model(self) -> Iterator[Facts]:
        found = mapping(self._result.get("by_model"))
        models = found.get("models")
        number = len(models) if isinstance(models, list | Mapping) else whole(models)
        if not number or self._mode == "none":
            return
        outcome = "consensus" if found.get("consensus_reached") is True else "no consensus"
        share = number_or_none(found.get("confidence"))
        parts = [
            count(number, "model"),
            outcome,
            "" if share is None else f"agreement {share:.0%}",
            _short(text(found.get("verdict"))),
        ]
        yield Facts([("one vote per model", ", ".join(filter(None, parts)))])

    def _dissent(self) -> Iterator[Speech]:
        for each in mappings(self._result.get("dissent")):
            held, voted = self._seat_list(each.get("seats")), self._seat_list(each.get("voters"))
            notes = [f"held by {held}" if held else "", f"votes of {voted}" if voted else ""]
            yield Speech(
                lead=text(each.get("verdict")),
                body="\n\n".join(texts(each.get("reasons"))),
                notes=[note for note in notes if note],
            )

    def _changes(self) -> Table | None:
        first = mappings(self._result.get("first_votes"))
        changed = {whole(each.get("seat")): each for each in mappings(self._result.get("changed"))}
        rows = []
        for each in first:
            seat = whole(each.get("seat"))
            after = "unchanged"
            if self._dropped.get(seat):
                after = "dropped out"
            if seat in changed:
                after = _short(text(changed[seat].get("after")))
            before = _short(text(each.get("verdict")))
            rows.append(Row([self._seat(seat), self._agent(seat), before, after]))
        return Table(("Seat", "Agent", "Before", "After"), rows) if rows else None

    # -- the rounds

    def _rounds(self) -> Iterator[Section]:
        has_votes = bool(self._result.get("votes"))
        labels = self._labels()
        legend = [Notice(f"Labels in reviews: {labels}.")] if labels else []
        for phase in self._calls.phases:
            if phase.name == "vote" and has_votes:
                continue  # the table of votes has them
            title = TITLES.get(phase.name, phase.name.capitalize() or "Calls")
            blocks: list[Block] = [Speeches(list(self._speeches(phase)))]
            if phase.round:
                title = f"Round {phase.round}: {title}"
                blocks = [*legend, *blocks]
                legend = []
            yield Section(title, blocks)
        if not self._calls.phases:
            why = "No replies yet."
            if self._calls.problem:
                why = "No replies can be shown."
            elif self._job.status.is_terminal:
                why = "No replies are kept: the job has no journal, and its result no transcript."
            yield Section("Rounds", [Notice(why)])

    def _labels(self) -> str:
        """Return whose answers the reviews mean by their labels."""
        labels = mapping(mapping(self._result.get("record")).get("labels"))
        return "; ".join(
            f"{label} is {self._full_name(seat)}"
            for label, seat in labels.items()
            if isinstance(seat, int)
        )

    def _speeches(self, phase: Phase) -> Iterator[Speech]:
        by_seat: dict[int, list[Call]] = {}
        for call in phase.calls:
            by_seat.setdefault(call.seat, []).append(call)
        for calls in by_seat.values():
            usable = [call for call in calls if call.value is not None]
            faults = [call.fault or "not usable" for call in calls if call.value is None]
            notes = [f"a reply was not used: {fault}" for fault in faults]
            if not usable:
                yield Speech(title=self._speaker(calls[-1]), lead="No answer.", notes=notes)
            for call in usable if phase.name == "judge" else usable[-1:]:
                yield self._speech(call, notes)

    def _speech(self, call: Call, faults: Sequence[str]) -> Speech:
        value = call.value or {}
        lead, body = value.get("answer"), value.get("reasons")
        if call.phase == "review":
            lead, body = "", value.get("points")
        if call.phase == "synthesize":
            lead, body = "", value.get("text")
        if call.phase in ("vote", "judge"):
            lead, body = (
                self._seat_text("for the answer of", value.get("choice")),
                value.get("reason"),
            )
        points = text(value.get("points")) if call.phase == "discuss" else ""
        parts = [text(body), f"Review: {points}" if points else ""]
        return Speech(
            title=self._speaker(call),
            lead=text(lead),
            body="\n\n".join(filter(None, parts)),
            notes=[*self._notes(call, value), *self._flags(call), *faults],
        )

    def _notes(self, call: Call, value: Mapping[str, Any]) -> Iterator[str]:
        if call.phase == "revise":
            yield "kept its answer" if value.get("changed") is False else "changed its answer"
        if call.phase in ("review", "discuss") and isinstance(value.get("best"), int):
            yield self._seat_text("best:", value["best"])
        if value.get("stop") is True:
            yield "no further round needed"
        for seats in _lists(value.get("same_as")):
            yield f"the same: {self._seat_list(seats)}"
        if value.get("confidence") is not None:
            yield f"confidence {text(value['confidence'])}"
        if value.get("cut"):
            yield "cut at a limit"

    def _flags(self, call: Call) -> Iterator[str]:
        for flag in mappings(self._result.get("flags")):
            place = (text(flag.get("phase")), whole(flag.get("round")), flag.get("seat"))
            if place == (call.phase, call.round, call.seat):
                yield f"flagged: {text(flag.get('why'))}"

    # -- the accounts

    def _accounts(self) -> Iterator[Section]:
        if self._seats:
            yield Section("Seats", [self._seat_table()])
        yield Section("Record", [self._record()])

    def _seat_table(self) -> Table:
        numbers = ["calls", "input_tokens", "output_tokens", "cached_tokens"]
        head = ["Seat", "Agent", "Model", "Calls", "Tokens in", "Out", "Cached"]
        if not any(whole(each.get("cached_tokens")) for each in self._seats):
            del numbers[3], head[6]
        rows = [
            Row(
                [
                    self._seat(seat, text(each.get("agent"))),
                    self._agent(seat, text(each.get("agent"))),
                    text(each.get("model")),
                    *(f"{whole(each.get(name)):,}" for name in numbers),
                    _cost(each),
                ],
                "; ".join(_seat_notes(each)),
            )
            for each in self._seats
            for seat in [whole(each.get("seat"))]
        ]
        sums = [f"{sum(whole(each.get(name)) for each in self._seats):,}" for name in numbers]
        total = number_or_none(self._result.get("cost_usd"))
        if not self._result:
            known = [number_or_none(each.get("cost_usd")) for each in self._seats]
            total = sum(filter(None, known)) if any(each is not None for each in known) else None
        rows.append(Row(["", "total", "", *sums, "unknown" if total is None else dollars(total)]))
        head.append("Cost")
        return Table(head, rows, frozenset(head[3:]), "Notes")

    def _seats_of_calls(self) -> list[dict[str, Any]]:
        """Return the seats as a result has them, counted from the calls."""
        seats: dict[int, dict[str, Any]] = {}
        for call in sorted(self._calls.all(), key=lambda call: call.seat):
            if not call.model:  # a transcript does not count tokens
                continue
            seat = seats.setdefault(
                call.seat,
                {
                    "seat": call.seat,
                    "agent": call.agent,
                    "model": call.model,
                    "answered_by": [],
                    "dropped": self._calls.dropped.get(call.seat),
                    "calls": 0,
                    "input_tokens": 0,
                    "output_tokens": 0,
                    "cached_tokens": 0,
                    "cost_usd": None,
                },
            )
            seat["calls"] += 1
            for name in ("input_tokens", "output_tokens", "cached_tokens"):
                seat[name] += getattr(call, name)
            if call.cost_usd is not None:
                seat["cost_usd"] = (seat["cost_usd"] or 0.0) + call.cost_usd
            if call.answered_by and call.answered_by not in seat["answered_by"]:
                seat["answered_by"].append(call.answered_by)
        return list(seats.values())

    def _record(self) -> Facts:
        job, record = self._job, dict(mapping(self._result.get("record")))
        started = number_or_none(record.pop("started_at", None))
        record.pop("labels", None)
        rows = [
            ("job", job.id),
            ("status", job.status.value),
            ("attempts", str(job.attempts)),
            ("worker", job.worker_id or ""),
            ("enqueued", _time(job.created_at)),
            ("debate began", _time(started)),
            ("attempt began", _time(job.started_at)),
            ("ended", _time(job.completed_at)),
            ("labels in reviews", self._labels()),
            *((name.replace("_", " "), text(value)) for name, value in record.items()),
        ]
        return Facts([row for row in rows if row[1]])

    # -- names

    def _is_judge(self, seat: int, agent: str = "") -> bool:
        return bool(self._judge) and (agent == self._judge or seat >= len(self._names))

    def _seat(self, seat: int, agent: str = "") -> str:
        """Return a seat's number for people, who count from 1."""
        if self._is_judge(seat, agent):
            return "chair" if self._mode == "synthesis" else "judge"
        return str(seat + 1)

    def _agent(self, seat: int, agent: str = "") -> str:
        if agent:
            return agent
        if self._is_judge(seat):
            return self._judge
        return self._names[seat] if 0 <= seat < len(self._names) else ""

    def _full_name(self, seat: int, agent: str = "") -> str:
        number, name = self._seat(seat, agent), self._agent(seat, agent)
        place = f"seat {number}" if number.isdecimal() else number
        return f"{place}, {name}" if name else place

    def _speaker(self, call: Call) -> str:
        name = self._full_name(call.seat, call.agent)
        return name[0].upper() + name[1:]

    def _seat_text(self, prefix: str, seat: object) -> str:
        return f"{prefix} {self._full_name(seat)}" if isinstance(seat, int) else ""

    def _numbers(self, seats: object) -> str:
        *others, last = [self._seat(seat) for seat in wholes(seats)] or [""]
        return f"{', '.join(others)} and {last}" if others else last

    def _seat_list(self, seats: object) -> str:
        numbers = self._numbers(seats)
        return numbers and f"{'seats' if ' ' in numbers else 'seat'} {numbers}"


def _group(vote: Mapping[str, Any]) -> int | None:
    group = vote.get("group")
    return group if isinstance(group, int) and not isinstance(group, bool) else None


def _lists(value: object) -> list[list[int]]:
    return [each for each in map(wholes, value) if each] if isinstance(value, list) else []


def _share(group: Mapping[str, Any]) -> str:
    share = number_or_none(group.get("share"))
    return "" if share is None else f"{share:.0%}"


def _place(flag: Mapping[str, Any]) -> str:
    number = whole(flag.get("round"))
    return text(flag.get("phase")) + (f", round {number}" if number else "")


def _short(verdict: str) -> str:
    verdict = " ".join(verdict.split())
    return verdict if len(verdict) <= MAX_CELL_CHARS else f"{verdict[: MAX_CELL_CHARS - 1]}…"


def _cost(seat: Mapping[str, Any]) -> str:
    cost = number_or_none(seat.get("cost_usd"))
    return "unknown" if cost is None else dollars(cost)


def _seat_notes(seat: Mapping[str, Any]) -> Iterator[str]:
    answered = texts(seat.get("answered_by") or [])
    if answered and answered != [text(seat.get("model")).partition(":")[2]]:
        yield f"answered by {', '.join(answered)}"
    if dropped := text(seat.get("dropped")):
        yield f"dropped out: {dropped}"
    if cut := whole(seat.get("cut")):
        yield f"{count(cut, 'reply').replace('replys', 'replies')} cut at a limit"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return text(seconds)


def rounds_json(phases: Iterable[Phase]) -> list[dict[str, Any]]:
    """Return all phases and their calls as JSON data."""
    return [phase.to_dict() for phase in phases]
