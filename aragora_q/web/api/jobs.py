"""Jobs: list, enqueue, read, wait, and the rounds of a debate."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Annotated, Any, NotRequired

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from typing_extensions import TypedDict

from aragora_q import shapes, views
from aragora_q.base import Job, JobStatus, is_job_id
from aragora_q.errors import InvalidPayload, JobNotFound, NotDurable, TryAgain
from aragora_q.intake.bulk import BulkSummary, Checked, LineChecker
from aragora_q.intake.checks import NO_THRESHOLDS, held_fields
from aragora_q.intake.quoter import Quoter
from aragora_q.job_fields import MAX_QUOTE, default_fields
from aragora_q.job_rules import is_debate
from aragora_q.labels import JobFilter
from aragora_q.report.calls import read_calls
from aragora_q.report.receipt import Receipt
from aragora_q.streams.queue import RedisStreamsQueue
from aragora_q.web.access import Access, Producer, Viewer
from aragora_q.web.api import lines
from aragora_q.web.api.routing import (
    Strict,
    answer,
    described,
    new_router,
    read_object,
    takes,
)
from aragora_q.web.filters import read_filter
from aragora_q.web.lookup import require_job, require_job_id
from aragora_q.web.media import JSON, NDJSON, has_lines, media_type
from aragora_q.web.problems import API, NO_STORE, JobDiffers, WrongMediaType
from aragora_q.web.roles import Role

router = new_router("jobs")

MAX_PAGE = 200
MAX_SHORT_BYTES = 65_536
"""Longest payload or result of jobs that are read together: a page of them takes at most 25 MB."""

MAX_WAIT_SECONDS = 60.0


Source = TypedDict("Source", {"from": str}, total=False)
"""A debate that has the fields of another one, and takes over its finished calls."""


class NewJob(Source, total=False):
    """A debate, or any `payload`; and fields of the job. As a line of `enqueue`."""

    id: str | None
    question: str
    agents: list[str]
    rounds: int
    consensus: str
    answer_form: str | dict[str, Any]
    options: list[str]
    debate: str
    escalate: list[str]
    timeout_seconds: float | None
    max_tokens: int | None
    max_cost_usd: float | None
    judge: str | None
    weights: dict[str, float]
    max_answer_words: int
    resume: str
    transcript: bool
    service_tier: str | None
    forked_from: str | None
    metadata: dict[str, Any]
    payload: dict[str, Any]
    priority: int
    delay_seconds: float
    max_attempts: int | None
    group: str | None
    tenant: str | None
    tags: dict[str, str]
    notify: list[str]
    approve_above_usd: float | None
    max_quote_usd: float | None


class Enqueued(TypedDict):
    """A job that is in the queue. `created` false: it was there before, and nothing changed."""

    id: str
    created: bool
    held: NotRequired[bool]
    most_usd: NotRequired[float | None]
    warning: NotRequired[str]


class JobPage(TypedDict):
    """Jobs, newest first. `cursor` leads to the next page; null: this is the last."""

    jobs: list[shapes.JobJson] | list[shapes.JobMetadata]
    cursor: str | None
    errors: list[str]


class Filter(Strict):
    """The filters of `list`."""

    status: list[JobStatus] = Field(default_factory=list)
    group: str | None = None
    tenant: str | None = None
    tag: list[str] = Field(default_factory=list)
    since: str | None = Field(None, description="A time before now such as 2h or 7d, or a date")
    until: str | None = None


Content = Annotated[
    bool,
    Field(description="False: without payload, result, progress and the texts of errors"),
]


class ListQuery(Filter):
    """The query of a list."""

    content: Content = True
    limit: int = Field(50, ge=1, le=MAX_PAGE)
    cursor: str = ""


class JobQuery(Strict):
    """The query of a job."""

    content: Content = True
    wait: float = Field(
        0.0,
        ge=0,
        le=MAX_WAIT_SECONDS,
        allow_inf_nan=False,
        description="Seconds to wait for its end",
    )


def filter_of(given: Filter, now: float) -> JobFilter:
    """Return the filter at `now`, the server's time in Unix seconds. Raises InvalidPayload."""
    fields: list[tuple[str, object]] = [
        *(("status", each.value) for each in given.status),
        *(("tag", each) for each in given.tag),
        ("group", given.group), ("tenant", given.tenant),
        ("since", given.since), ("until", given.until),
    ]  # fmt: skip
    return read_filter(fields, now)


@router.get("/jobs", response_model=JobPage, responses=described())
async def list_jobs(access: Viewer, query: Annotated[ListQuery, Query()]) -> Response:
    """List jobs, newest first, a page at a time.

    Running jobs come first. A page may have fewer jobs than `limit`, or none, and yet a cursor: few match.
    `errors` names jobs whose data in Redis is corrupted.
    """
    queue = access.queue
    now = await access.console.clock.now(queue) if query.since or query.until else 0.0
    page = await queue.find_page(filter_of(query, now), query.cursor, query.limit)
    max_bytes = MAX_SHORT_BYTES if query.content else 1
    read = await queue.tracker.read_jobs(page.ids, max_bytes=max_bytes)
    errors = [str(job) for job in read.jobs if isinstance(job, InvalidPayload)]
    jobs = [
        job
        for job in read.jobs
        if isinstance(job, Job) and (not query.status or job.status in query.status)
    ]
    rest = {"cursor": page.cursor or None, "errors": errors}
    if not query.content:
        return answer(
            {"jobs": [views.without_content(views.job_json(job)) for job in jobs], **rest}
        )
    if not read.cut:
        return answer({"jobs": [views.job_json(job) for job in jobs], **rest})
    parts = _parts(queue, jobs, read.cut, rest)
    return StreamingResponse(parts, headers=NO_STORE, media_type=JSON)


async def _parts(
    queue: RedisStreamsQueue, jobs: Iterable[Job], cut: Collection[str], rest: Mapping[str, Any]
) -> AsyncIterator[str]:
    """Yield a page whose long jobs are read one at a time, when the client takes them."""
    yield '{"jobs":['
    comma = ""
    for job in jobs:
        whole: Job | None = job
        if job.id in cut:
            with suppress(InvalidPayload):  # it was not corrupted a moment ago
                whole = await queue.get_job(job.id)
        if whole is not None:  # else it was deleted meanwhile
            yield comma + json.dumps(views.job_json(whole), separators=(",", ":"))
            comma = ","
    yield f"],{json.dumps(rest)[1:]}"


@router.post(
    "/jobs",
    response_model=Enqueued,
    responses={
        200: {
            "description": "The id existed; or results of lines, and last their summary",
            "content": {NDJSON: {"schema": {"type": "string"}}},
            "model": Enqueued,
        },
        201: {"description": "Enqueued", "model": Enqueued},
        **described(body=True),
    },
    openapi_extra=takes(NewJob, lines=True),
)
async def enqueue(access: Producer, request: Request) -> Response:
    """Enqueue a job, or many, one JSON object a line (`application/x-ndjson`).

    An id that exists changes nothing. Of lines, each is answered as by `enqueue`, in order; the last line is
    `{"summary": …}` with the numbers and `exit_code`: 3 if some lines were refused (the status is 200).
    """
    if has_lines(request.headers):
        access.log_action("enqueue")
        return await lines.respond(new_checker(access, BulkSummary()), request, access)
    if media_type(request.headers) != JSON:
        raise WrongMediaType(
            "content type must be that of JSON or of JSON lines", hint=f"send {JSON} or {NDJSON}"
        )
    checked = await _check(access, await read_object(request))
    created = await _enqueue(access, checked)
    return _enqueued(access, checked, created=created)


@router.put(
    "/jobs/{job_id}",
    response_model=Enqueued,
    responses={
        200: {"description": "It exists, and is the same"},
        201: {"description": "Enqueued", "model": Enqueued},
        **described(HTTPStatus.CONFLICT, body=True),
    },
    openapi_extra=takes(NewJob),
)
async def put_job(access: Producer, job_id: str, request: Request) -> Response:
    """Enqueue a job under an id, once, however often it is sent.

    200: the id exists, with the same payload, group, tenant, tags, notify, priority and, while they are kept,
    `max_attempts`. 409: something of it differs. A delay, and prices that need an approval, are not compared.
    """
    fields = await read_object(request)
    if fields.setdefault("id", job_id) != job_id:
        raise InvalidPayload(
            f"id in the body is {fields['id']!r:.100}, in the path {job_id!r:.100}"
        )
    checked = await _check(access, fields)
    created = await _enqueue(access, checked)
    if not created:
        await _check_same(access, checked.job)
    return _enqueued(access, checked, created=created)


async def _check(access: Access, fields: dict[str, Any]) -> Checked:
    """Return the job of a body. The price of one that exists is not checked again."""
    if fields.get(MAX_QUOTE) is not None and await _exists(access, fields.get("id")):
        fields = {**fields, MAX_QUOTE: None}
    return await new_checker(access, BulkSummary()).check(1, fields)


async def _exists(access: Access, job_id: Any) -> bool:
    """Return True if there is a job with this id; it may be anything that a client sent."""
    is_valid = isinstance(job_id, str) and is_job_id(job_id)
    return is_valid and await viewer_queue(access).get_status(job_id) is not None


def new_checker(access: Access, summary: BulkSummary) -> LineChecker:
    """Return what makes and checks jobs, with the defaults of the configuration."""
    config = access.console.config
    defaults = default_fields(config.default_agents, config.default_notify)
    quoter = Quoter(access.queue)
    return LineChecker(
        quoter,
        defaults,
        NO_THRESHOLDS,
        summary,
        id_from_content=False,
        reader=viewer_queue(access),
    )


async def _enqueue(access: Access, checked: Checked) -> bool:
    """Enqueue a job; return whether it is new.

    Raises:
        NotDurable: it is in the queue, and not confirmed.
    """
    access.log_action("enqueue", [checked.job.id])
    [outcome] = await access.queue.enqueue_checked([checked.item], is_whole=True)
    if isinstance(outcome, InvalidPayload):
        raise outcome
    if not outcome.durable:
        raise NotDurable(outcome.id, access.console.config.durability)
    return outcome.created


async def _check_same(access: Access, job: Job) -> None:
    """Raise JobDiffers if the job of this id is another one; TryAgain if it is not there any more."""
    try:
        existing = await require_job(viewer_queue(access), job.id)
    except JobNotFound:
        raise TryAgain(
            f"job {job.id} existed and was deleted meanwhile: nothing is changed"
        ) from None
    for name in ("payload", "group", "tenant", "tags", "notify", "priority", "max_attempts"):
        wanted, found = getattr(job, name), getattr(existing, name)
        if name == "max_attempts":
            wanted = wanted or access.console.config.retry_max_attempts
            found = found or wanted  # not kept once completed
        if _canonical(wanted) != _canonical(found):
            raise JobDiffers(
                f"job {job.id} exists with another {name}: nothing is changed",
                hint="use another id; or get the job, and cancel it if it is wrong",
            )


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _enqueued(access: Access, checked: Checked, *, created: bool) -> Response:
    job_id = checked.job.id
    found = {"id": job_id, "created": created, **held_fields(checked.approval, created=created)}
    if checked.warning:
        found["warning"] = checked.warning
    status = HTTPStatus.CREATED if created else HTTPStatus.OK
    location = f"{API}/queues/{access.console.config.queue}/jobs/{job_id}"
    return answer(found, status, {"Location": location})


@router.get(
    "/jobs/{job_id}",
    response_model=shapes.JobStatusJson | shapes.JobStatusMetadata,
    responses=described(),
)
async def get_job(
    access: Viewer, request: Request, job_id: str, query: Annotated[JobQuery, Query()]
) -> Response:
    """Return a job with its history, as `status`.

    With `wait`, once it has ended, or after that time as it is.
    """
    job = await require_job(access.queue, job_id)
    if query.wait and not job.status.is_terminal:
        await access.console.feed.wait_until_ended(
            job_id, query.wait, request.receive, address=access.actor.address
        )
        job = await require_job(access.queue, job_id)
    found = await views.job_status_json(access.queue, job)
    return answer(found if query.content else views.without_content(found))


@router.get("/jobs/{job_id}/debate", response_model=shapes.DebateJson, responses=described())
async def get_debate(access: Viewer, job_id: str) -> Response:
    """Return a debate as far as it is: rounds, replies and calls without one, as `show -f json`."""
    job = await require_job(access.queue, job_id)
    if not is_debate(job):
        raise InvalidPayload(
            f"job {job.id} is not a debate: its payload has no question and agents"
        )
    journal = await access.queue.tracker.checkpoints(job.id)
    calls = read_calls(journal, (job.result or {}).get("transcript"))
    return answer(views.debate_json(job, calls))


@router.get(
    "/jobs/{job_id}/receipt", response_model=Receipt, responses=described(HTTPStatus.CONFLICT)
)
async def get_receipt(access: Viewer, job_id: str) -> Response:
    """Return the receipt of an ended job, as `receipt`: what `receipt verify` verifies is the body as it is."""
    require_job_id(access.queue, job_id)
    body = await views.read_receipt(access.queue, job_id)
    return Response(body, headers=NO_STORE, media_type=JSON)


def viewer_queue(access: Access) -> RedisStreamsQueue:
    """Return the queue as the viewer reads it: every console has it."""
    return access.console.roles[Role.VIEWER].queue
