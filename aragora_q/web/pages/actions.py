"""The actions of the pages: each a POST that does one thing as its sender's role, and leads back to a page.

What is done to several jobs, and what cannot be undone, is confirmed first, on a page that names the number of
jobs. An action that is sent twice does no more than once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from aragora_q.base import Group
from aragora_q.errors import GroupSealed, JobNotFound
from aragora_q.formats import count
from aragora_q.job_rules import check_phase
from aragora_q.web.access import Operator
from aragora_q.web.filters import read_filter
from aragora_q.web.lookup import require_group, require_job_id
from aragora_q.web.pages.confirming import Confirmation, Question
from aragora_q.web.pages.forms import Form
from aragora_q.web.pages.rendering import redirect
from aragora_q.web.selection import BULK_SECONDS, Done, Selection
from aragora_q.web.verbs import VERBS, Verb, requeue_from

if TYPE_CHECKING:
    from aragora_q.web.access import Access

router = APIRouter()


@router.post("/jobs/{verb}")
async def act_on_jobs(request: Request, access: Operator, verb: str) -> Response:
    """Do something with checked jobs (`id`), or with all that match a filter (`matching`), once confirmed."""
    chosen, form = _verb(verb), await Form.of(request)
    back = form.back("/jobs")
    selection = await _selection(access, chosen, form)
    if selection is None:
        return redirect(back, f"No job was selected: nothing was {chosen.done}.")
    number, confirmed = await selection.count(access.queue), form.number("confirmed")
    if not number:
        return redirect(back, f"No job matches that could be {chosen.done}: nothing was changed.")
    page = Confirmation(request, access, form, back)
    if confirmed is None:
        return page.ask(_about_jobs(selection, number))
    if number > confirmed:
        grown = f"The number of jobs has grown from {confirmed:,} to {number:,}"
        notice = f"{grown}: nothing was {chosen.done}."
        return page.ask(_about_jobs(selection, number), notice, status_code=409)
    access.log_action(verb, selection.ids or [selection.words], form.reason)
    done = await selection.run(access.queue, access.actor.by, form.reason, most=confirmed)
    access.log_changed(done.changed)
    if done.is_over:
        return redirect(back, f"{done.text}.")
    return await _ask_about_rest(page, selection, done, confirmed)


@router.post("/jobs/{job_id}/{verb}")
async def act_on_job(request: Request, access: Operator, job_id: str, verb: str) -> Response:
    """Do something with one job."""
    chosen, form = _verb(verb), await Form.of(request)
    require_job_id(access.queue, job_id)
    if verb == "purge":  # the page that asks leads to the route of several jobs
        page = Confirmation(request, access, form, form.back("/jobs"))
        return page.ask(_about_jobs(Selection(chosen, (job_id,)), 1))
    if verb == "requeue" and (phase := form.text("from_phase")):
        check_phase(phase)
        chosen = requeue_from(phase)
    access.log_action(verb, [job_id], form.reason)
    [answer] = await chosen.send(access.queue, [job_id], access.actor.by, form.reason)
    if answer == "unknown":
        raise JobNotFound(job_id, access.queue.config.queue)
    return redirect(form.back(f"/jobs/{job_id}"), f"Job {job_id} {chosen.text(answer)}.")


@router.post("/groups/{name}/seal")
async def seal_group(request: Request, access: Operator, name: str) -> Response:
    """Seal a group: it takes no more jobs."""
    form = await Form.of(request)
    back = form.back(_group_page(name))
    access.log_action("group seal", [name], form.reason)
    try:
        is_new = await access.queue.seal_group(name, by=access.actor.by, reason=form.reason)
    except GroupSealed as error:
        return redirect(back, f"Nothing was changed: {error}.")
    return redirect(back, f"Group {name} {'is sealed' if is_new else 'was sealed before'}.")


@router.post("/groups/{name}/cancel")
async def cancel_group(request: Request, access: Operator, name: str) -> Response:
    """Cancel a group as a whole, once the number of its live jobs is confirmed."""
    form = await Form.of(request)
    back = form.back(_group_page(name))
    group = await require_group(access.queue, name)
    page, confirmed = Confirmation(request, access, form, back), form.number("confirmed")
    if confirmed is None:
        return page.ask(_about_group(group))
    if group.live > confirmed:
        live = count(group.live, "live job")
        notice = f"The group has {live} now, not {confirmed:,}: nothing was cancelled."
        return page.ask(_about_group(group), notice, status_code=409)
    by, reason = access.actor.by, form.reason
    access.log_action("group cancel", [name], reason)
    try:
        async with asyncio.timeout(BULK_SECONDS):
            cancelled = await access.queue.cancel_group(name, by=by, reason=reason)
    except TimeoutError:
        group = await require_group(access.queue, name)
        live = count(group.live, "live job")
        notice = f"The time is over, and {live} of it left. To go on, confirm again."
        return page.ask(_about_group(group), notice)
    access.log_changed(cancelled)
    return redirect(back, f"Group {name} is cancelled: {count(cancelled, 'job')}.")


def _about_jobs(selection: Selection, number: int) -> Question:
    """Return the question whether `number` jobs shall be changed."""
    verb, jobs = selection.verb, count(number, "job")
    name = "Delete" if verb.name == "purge" else verb.name.capitalize()
    which = jobs if selection.ids else f"{jobs} {selection.words}"
    return Question(
        number,
        title=f"{name} {jobs}",
        text=f"{name} {which}?",
        label=f"{name} {jobs}",
        address=f"/jobs/{verb.name}",
        command=selection.command(),
        ids=selection.ids,
        fields=selection.fields,
        warning="This cannot be undone: the jobs are deleted with their results."
        if verb.name == "purge"
        else "",
        tone="primary" if verb.name in ("requeue", "unhold") else "danger",
    )


def _about_group(group: Group) -> Question:
    """Return the question whether a group shall be cancelled."""
    live, follower = count(group.live, "live job"), ""
    if group.then_status == "waiting":
        follower = f", and job {group.then_id}, which would follow it"
    return Question(
        group.live,
        title=f"Cancel group {group.name}",
        text=f"Cancel {live} of group {group.name}{follower}?",
        label=f"Cancel the group and {live}",
        address=f"{_group_page(group.name)}/cancel",
        command=("group", "cancel", group.name),
    )


async def _ask_about_rest(
    page: Confirmation, selection: Selection, done: Done, confirmed: int
) -> Response:
    """Return the page that says what is done so far, and asks whether to go on."""
    if done.error is not None:
        if not done.changed:
            raise done.error
        left = confirmed if selection.ids else confirmed - done.changed
        text = f"Stopped after at least {done.text}: {done.error}. To go on, confirm again."
        return page.ask(_about_jobs(selection, left), text, status_code=503)
    left = await selection.count(page.access.queue)
    return page.ask(_about_jobs(selection, left), f"So far: {done.text}. To go on, confirm again.")


async def _selection(access: Access, verb: Verb, form: Form) -> Selection | None:
    if form.text("matching"):
        wanted = read_filter(form.items, await access.queue.tracker.server_time())
        return Selection.matching(verb, wanted)
    ids = tuple(dict.fromkeys(form.texts("id")))
    for job_id in ids:
        require_job_id(access.queue, job_id)
    return Selection(verb, ids) if ids else None


def _verb(name: str) -> Verb:
    if name not in VERBS:
        raise HTTPException(404)
    return VERBS[name]


def _group_page(name: str) -> str:
    return f"/groups/{quote(name, safe='')}"
