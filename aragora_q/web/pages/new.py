"""The form of a new debate: what is typed is quoted first, and enqueued when its sender has seen the quote.

A quote makes the id that the debate will have, and a digest of what was quoted. Sent twice, the form therefore
enqueues one job; and what was edited since its quote is quoted again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from aragora_q import codec
from aragora_q.base import EnqueueResult, Job, new_job_id
from aragora_q.errors import AragoraQError, ConfigError, InvalidPayload, JobNotFound
from aragora_q.experiments.notes import ARM_TAG, note_of
from aragora_q.formats import dollars, dollars_or_unknown
from aragora_q.intake.bulk import BulkSummary, LineChecker
from aragora_q.intake.checks import NO_THRESHOLDS, check_seats, take_thresholds
from aragora_q.intake.forks import with_source
from aragora_q.intake.quoter import Quoted, Quoter
from aragora_q.job import CONSENSUS_MODES, DEBATE_MODES, SERVICE_TIERS
from aragora_q.job_fields import APPROVE_ABOVE, FROM, create_job
from aragora_q.job_rules import is_debate
from aragora_q.labels import check_labels
from aragora_q.loose import text, texts
from aragora_q.moments import parse_duration
from aragora_q.web.access import Producer
from aragora_q.web.lookup import require_job
from aragora_q.web.pages.forms import Form, plain_lines
from aragora_q.web.pages.rendering import command_line, redirect, render
from aragora_q.web.roles import Role

if TYPE_CHECKING:
    from aragora_q.config.settings import QueueConfig
    from aragora_q.executors.debate.quote import Approval
    from aragora_q.web.access import Access

router = APIRouter()

FIELDS = (
    "question", "agents", "rounds", "consensus", "judge", "answer_form", "options", "schema", "debate",
    "max_cost_usd", "approve_above_usd", "service_tier", "priority", "delay", "group", "tenant", "tags",
    "notify", "id", "from",
)  # fmt: skip
"""The fields of the form. `from` is the debate that it began with."""

DEFAULTS = {"rounds": "3", "consensus": "majority", "answer_form": "text", "debate": "auto"}
"""What the fields of a debate are if it has them not."""

ANSWER_FORMS = ("text", "choice", "number", "boolean", "schema")

CLEARED = {
    **dict.fromkeys(("judge", "max_cost_usd", "options", "service_tier")),
    "rounds": int(DEFAULTS["rounds"]),
}
"""Fields of a debate that may be blank, and what they are then."""

MENTIONS = {
    "id": ("job id",),
    "question": ("question",),
    "options": ("options", "option"),
    "answer_form": ("answer_form",),
    "judge": ("judge",),
    "rounds": ("rounds",),
    "consensus": ("consensus",),
    "debate": ("debate",),
    "max_cost_usd": ("max_cost_usd",),
    "approve_above_usd": ("approve_above_usd",),
    "service_tier": ("service_tier",),
    "priority": ("priority",),
    "delay": ("delay_seconds",),
    "group": ("group",),
    "tenant": ("tenant",),
    "tags": ("tags", "tag name", "tag"),
    "notify": ("notify", "webhook"),
    "agents": ("agents", "agent", "model"),
}
"""How messages name the fields."""


@dataclass
class Draft:
    """What was typed, and what is wrong with it."""

    values: dict[str, str]
    problems: dict[str, str] = field(default_factory=dict)
    """By field; those of no field have a blank name."""

    def note(self, name: str, problem: str) -> None:
        """Note a problem; the first of a field is shown."""
        self.problems.setdefault(name, problem)

    def fields(self) -> dict[str, Any]:
        """Return the fields of a job, as a line of `enqueue` has them. Notes what cannot be read."""
        values = self.values
        found: dict[str, Any] = {
            "question": values["question"],
            "agents": names_of(values["agents"]),
            "rounds": self._number("rounds", int, "a whole number"),
            "consensus": values["consensus"],
            "judge": values["judge"],
            "answer_form": self._answer_form(),
            "options": [line.strip() for line in values["options"].splitlines() if line.strip()],
            "debate": values["debate"],
            "max_cost_usd": self._number("max_cost_usd", float, "US dollars, such as 0.50"),
            APPROVE_ABOVE: self._number("approve_above_usd", float, "US dollars, such as 0.50"),
            "service_tier": values["service_tier"],
            "priority": self._number("priority", int, "a whole number"),
            "delay_seconds": self._delay(),
            "group": values["group"],
            "tenant": values["tenant"],
            "tags": self._tags(),
            "notify": names_of(values["notify"]),
            "id": values["id"],
        }
        self._check_labels(found)
        given = {n: v for n, v in found.items() if v not in ("", None, [], {})}
        if values["from"]:  # what is blank in the form is not as in the debate that it began with
            given = {FROM: values["from"], **CLEARED, **given}
        # A question is named even if it is blank: that it is blank is the problem.
        return {"question": found["question"], "agents": found["agents"], **given}

    def _number(self, name: str, parse: Callable[[str], Any], what: str) -> Any:
        text = self.values[name]
        if not text:
            return None
        try:
            return parse(text)
        except ValueError:
            self.note(name, f"{text!r:.60} is not {what}")
            return None

    def _answer_form(self) -> Any:
        if self.values["answer_form"] != "schema":
            return self.values["answer_form"]
        try:
            return codec.decode(self.values["schema"].encode(errors="replace"))
        except ValueError as error:
            self.note("schema", f"not JSON: {error}")
            return "text"

    def _delay(self) -> float | None:
        if not self.values["delay"]:
            return None
        try:
            return parse_duration(self.values["delay"])
        except InvalidPayload as error:
            self.note("delay", str(error))
            return None

    def _tags(self) -> dict[str, str]:
        tags: dict[str, str] = {}
        for tag in names_of(self.values["tags"]):
            name, equals, value = tag.partition("=")
            if not equals:
                self.note("tags", f"{tag!r:.60} is not NAME=VALUE")
            tags[name] = value
        return tags

    def _check_labels(self, found: Mapping[str, Any]) -> None:
        group, tenant, tags = found["group"] or None, found["tenant"] or None, found["tags"]
        for name, labels in (
            ("group", (group, None, {})),
            ("tenant", (None, tenant, {})),
            ("tags", (None, None, tags)),
        ):
            try:
                check_labels(*labels)
            except InvalidPayload as error:
                self.note(name, _text(error))


@dataclass(frozen=True)
class Ready:
    """A debate that can be enqueued, with its quote."""

    job: Job
    quoted: Quoted | None
    """None: it has no quote."""
    no_quote: str
    """Why."""
    basis: str
    warning: str
    approval: Approval | None
    digest: str
    """Of all that was quoted, but the id."""

    @property
    def headline(self) -> str:
        """What it takes, for example `$0.42 expected, $0.10 to $1.80`."""
        if self.quoted is None:
            return "No quote"
        quote = self.quoted.quote
        least, expected, most = (
            dollars_or_unknown(each.usd) for each in (quote.least, quote.expected, quote.most)
        )
        if quote.expected.usd is None:
            return "Price unknown"
        return f"{expected} expected" + (f", {least} to {most}" if least != most else "")

    @property
    def label(self) -> str:
        """What the button says."""
        usd = self.quoted.quote.expected.usd if self.quoted else None
        return "Enqueue at an unknown price" if usd is None else f"Enqueue for about {dollars(usd)}"


@router.get("/new")
async def new_debate(request: Request, access: Producer) -> Response:
    """Return the form: blank, or with what the debate that `from` names was enqueued with."""
    if job_id := request.query_params.get("from"):
        job = await require_job(access.console.roles[Role.VIEWER].queue, job_id)
        if not is_debate(job):
            raise InvalidPayload(f"job {job_id} is not a debate: it cannot be changed here")
        return _page(request, access, Draft(values_of(job)))
    config = access.queue.config
    defaults = DEFAULTS | {
        "agents": ", ".join(config.default_agents),
        "notify": ", ".join(config.default_notify),
    }
    given = {name: request.query_params.get(name, "") for name in ("question", "group", "tenant")}
    values = dict.fromkeys(FIELDS, "") | defaults | {n: v for n, v in given.items() if v}
    return _page(request, access, Draft(values))


def values_of(job: Job) -> dict[str, str]:
    """Return what the form has for a debate as it was enqueued, whatever a client wrote into it.

    A debate of an experiment leaves it: its group and the tag of its arm are not taken over.
    """
    payload, form = job.payload, job.payload.get("answer_form", "text")
    is_schema = isinstance(form, dict)
    values = {name: text(payload.get(name)) for name in FIELDS}
    values |= {name: text(payload.get(name, value)) for name, value in DEFAULTS.items()}
    values["question"] = plain_lines(values["question"])
    return values | {
        "agents": ", ".join(texts(payload.get("agents"))),
        "answer_form": "schema" if is_schema else text(form),
        "schema": json.dumps(form, indent=2, ensure_ascii=False) if is_schema else "",
        "options": "\n".join(texts(payload.get("options"))),
        "priority": str(job.priority or ""),
        "group": "" if note_of(payload) else job.group or "",
        "tenant": job.tenant or "",
        "tags": ", ".join(f"{name}={each}" for name, each in job.tags.items() if name != ARM_TAG),
        "notify": ", ".join(job.notify),
        "id": "",
        "from": job.id,
    }


@router.post("/new")
async def quote_or_enqueue(request: Request, access: Producer) -> Response:
    """Quote what was typed; with `step` enqueue, enqueue it if that is what was quoted."""
    form = await Form.of(request)
    draft = Draft({name: form.text(name) for name in FIELDS})
    quoted_id = form.text("quoted_id")
    ready = await _ready(access, draft, quoted_id or new_job_id())
    if ready is None:
        return _page(request, access, draft, status_code=422)
    if form.text("step") != "enqueue":
        return await _quote_page(request, access, draft, ready)
    if ready.digest != form.text("digest") or not quoted_id:
        notice = (
            "The debate has changed since its quote: nothing was enqueued. This is its quote now."
        )
        return await _quote_page(request, access, draft, ready, notice)
    return await _enqueue(request, access, draft, ready)


async def _quote_page(
    request: Request, access: Access, draft: Draft, ready: Ready, notice: str = ""
) -> Response:
    """Return the page with a quote. It names a new id, so that what was enqueued before is not meant."""
    if draft.values["id"]:
        status = (await access.queue.get_statuses([ready.job.id]))[ready.job.id]
        if status is not None:
            draft.note("id", f"job {ready.job.id} exists: it is {status}")
            return _page(request, access, draft, status_code=422)
    else:
        ready.job.id = new_job_id()
    return _page(request, access, draft, ready=ready, notice=notice)


async def _ready(access: Access, draft: Draft, job_id: str) -> Ready | None:
    """Return the debate that was typed, checked and quoted; None if there are problems."""
    fields = draft.fields()
    if draft.problems:
        _check_all(draft, fields, access.queue.config)
        return None
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    quoter, quoted, no_quote = Quoter(access.queue), None, ""
    checker = LineChecker(quoter, {}, NO_THRESHOLDS, BulkSummary(), id_from_content=False)
    try:
        checked = await checker.check(1, {"id": job_id, **await _with_source(access, fields)})
    except (InvalidPayload, JobNotFound) as error:
        draft.note(field_of(str(error)), _text(error))
        return None
    except ConfigError as error:
        draft.note("", _text(error))
        return None
    try:
        quoted = await quoter.quote(checked.job.payload)
        no_quote = quoted.no_price
    except (InvalidPayload, ConfigError) as error:
        no_quote = _text(error)
    basis = (
        quoter.basis(quoted.quote.debates, quoted.quote.agents_without_history) if quoted else ""
    )
    return Ready(checked.job, quoted, no_quote, basis, checked.warning, checked.approval, digest)


async def _with_source(access: Access, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields with those of the debate that they began with; it may have no calls to take over.

    Raises:
        JobNotFound, InvalidPayload: that debate is gone, or not one.
    """
    if FROM not in fields:
        return fields
    from aragora_q.executors.debate.seeds import BEGUN, seeds_of  # noqa: PLC0415 - only for such a debate

    reader = access.console.roles[Role.VIEWER].queue
    found, source = await with_source(reader, fields, {}), fields[FROM]
    seeds = seeds_of(source, await reader.tracker.checkpoints(source))
    if not {*seeds} > {BEGUN}:  # else the enqueue is refused
        del found["forked_from"]
    return found


def _check_all(draft: Draft, fields: dict[str, Any], config: QueueConfig) -> None:
    """Note what else is wrong with what was typed, next to what cannot be read."""
    try:
        take_thresholds(fields)
        fields.pop(FROM, None)
        check_seats(create_job(fields, {}, lambda *_: new_job_id()).payload, config)
    except InvalidPayload as error:
        draft.note(field_of(str(error)), _text(error))


async def _enqueue(request: Request, access: Access, draft: Draft, ready: Ready) -> Response:
    job, approval = ready.job, ready.approval
    access.log_action("enqueue", [job.id])
    try:
        [result] = await access.queue.enqueue_many([job], hold=approval.reason if approval else "")
    except InvalidPayload as error:
        draft.note(field_of(str(error)), _text(error))
        return _page(request, access, draft, status_code=422)
    except AragoraQError as error:
        notice = (
            f"{_text(error)}. Enqueue again: the id stays the same, so the debate is enqueued once."
        )
        return _page(request, access, draft, ready=ready, notice=notice, status_code=503)
    return redirect(f"/jobs/{job.id}", _outcome(job, result, approval))


def _outcome(job: Job, result: EnqueueResult, approval: Approval | None) -> str:
    if not result.created:
        return f"Job {job.id} was in the queue already: nothing was enqueued."
    text = f"Job {job.id} is enqueued."
    if approval is not None:
        text = f"Job {job.id} is enqueued and held: it {approval.reason}."
    return text if result.durable else f"{text} It was not confirmed in time."


def _page(
    request: Request,
    access: Access,
    draft: Draft,
    *,
    ready: Ready | None = None,
    notice: str = "",
    status_code: int = 200,
) -> Response:
    from aragora_q.executors.debate.agents import known_agents  # noqa: PLC0415 - the other pages need none

    config = access.queue.config
    return render(
        request,
        "new.html",
        now=time.time(),
        status_code=status_code,
        values=draft.values,
        problems=draft.problems,
        notice=notice,
        ready=ready,
        agents=known_agents(config),
        webhooks=sorted(config.webhooks),
        modes={
            "consensus": CONSENSUS_MODES, "debate": DEBATE_MODES, "service_tier": SERVICE_TIERS,
            "answer_form": ANSWER_FORMS,
        },
        command=_command(access.console.config, ready.job, draft) if ready else "",
    )  # fmt: skip


def _command(config: QueueConfig, job: Job, draft: Draft) -> str:
    """Return the command line that enqueues the same job."""
    question, fields = draft.values["question"], draft.fields()
    options: list[str] = ["-a", ",".join(fields["agents"])]
    options += [
        word
        for option, name in (
            ("--rounds", "rounds"), ("--consensus", "consensus"), ("--judge", "judge"), ("--debate", "debate"),
            ("--max-cost", "max_cost_usd"), ("--approve-above", APPROVE_ABOVE),
            ("--service-tier", "service_tier"), ("--priority", "priority"), ("--group", "group"),
            ("--tenant", "tenant"),
        )
        if name in fields
        for word in (option, str(fields[name]))
    ]  # fmt: skip
    options += ["--delay", draft.values["delay"]] if "delay_seconds" in fields else []
    if fields.get("options"):
        options += ["--options", json.dumps(fields["options"], ensure_ascii=False)]
    form = fields.get("answer_form", "text")
    if form not in ("text", "choice"):
        options += ["--answer-form", form if isinstance(form, str) else json.dumps(form)]
    options += [
        word for each in fields.get("tags", {}).items() for word in ("--tag", "=".join(each))
    ]
    if fields.get("notify"):
        options += ["--notify", ",".join(fields["notify"])]
    options += ["--id", job.id]
    # The command would take such a question for a file or an option, and has no option that clears a field.
    clears_notify = config.default_notify and not job.notify
    if _IS_NO_QUESTION.fullmatch(question) or FROM in fields or clears_notify:
        cleared: dict[str, Any] = {"notify": []} if clears_notify else {}
        line = json.dumps({**fields, **cleared, "id": job.id}, ensure_ascii=False)
        return f"printf '%s\\n' {shlex.quote(line)} | {command_line(config, 'enqueue', '-')}"
    return command_line(config, "enqueue", question, *options)


_IS_NO_QUESTION = re.compile(r"-.*|\S*\.\S*", re.DOTALL)


def names_of(text: str) -> list[str]:
    """Return the names in a text, separated by commas or lines."""
    return [name.strip() for name in re.split(r"[,\n]", text) if name.strip()]


def field_of(message: str) -> str:
    """Return the field that a message of a rule is about: the one that it names first; blank if none."""
    places = {
        name: match.start()
        for name, words in MENTIONS.items()
        if (match := re.search(rf"\b(?:{'|'.join(words)})\b", message))
    }
    return min(places, key=lambda name: places[name], default="")


def _text(error: AragoraQError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)
