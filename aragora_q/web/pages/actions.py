"""The actions of the pages: each a POST that does one thing as its sender's role, and leads back to a page.

What is done to several jobs, and what cannot be undone, is confirmed first, on a page that names the number of
jobs. An action that is sent twice does no more than once.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from aragora_q.base import Group
from aragora_q.errors import GroupSealed, JobNotFound
from aragora_q.formats import count
from aragora_q.web.access import Operator
from aragora_q.web.filters import read_filter
from aragora_q.web.lookup import require_group, require_job_id
from aragora_q.web.pages.forms import Form
from aragora_q.web.pages.rendering import command_line, redirect, render
from aragora_q.web.selection import BULK_SECONDS, MAX_NAMED, Done, Selection
from aragora_q.web.verbs import VERBS, Verb

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
    page = _BulkPage(request, access, selection, form, back)
    if confirmed is None:
        return page.render(number)
    if number > confirmed:
        grown = f"The number of jobs has grown from {confirmed:,} to {number:,}"
        return page.render(number, f"{grown}: nothing was {chosen.done}.", status_code=409)
    access.log_action(verb, selection.ids or [selection.words], form.reason)
    done = await selection.run(access.queue, access.actor.by, form.reason, most=confirmed)
    access.log_changed(done.changed)
    return (
        redirect(back, f"{done.text}.") if done.is_over else await page.render_rest(done, confirmed)
    )


@router.post("/jobs/{job_id}/{verb}")
async def act_on_job(request: Request, access: Operator, job_id: str, verb: str) -> Response:
    """Do something with one job."""
    chosen, form = _verb(verb), await Form.of(request)
    require_job_id(access.queue, job_id)
    if verb == "purge":  # the page that asks leads to the route of several jobs
        return _BulkPage(
            request, access, Selection(chosen, (job_id,)), form, form.back("/jobs")
        ).render(1)
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
    access.log_action("group seal", [name])
    try:
        is_new = await access.queue.seal_group(name)
    except GroupSealed as error:
        return redirect(back, f"Nothing was changed: {error}.")
    return redirect(back, f"Group {name} {'is sealed' if is_new else 'was sealed before'}.")


@router.post("/groups/{name}/cancel")
async def cancel_group(request: Request, access: Operator, name: str) -> Response:
    """Cancel a group as a whole, once the number of its live jobs is confirmed."""
    form = await Form.of(request)
    back = form.back(_group_page(name))
    group = await require_group(access.queue, name)
    confirmed = form.number("confirmed")
    if confirmed is None:
        return _group_page_to_confirm(request, access, group, form, back)
    if group.live > confirmed:
        return _group_page_to_confirm(
            request, access, group, form, back,
            f"The group has {count(group.live, 'live job')} now, not {confirmed:,}: nothing was cancelled.",
            status_code=409,
        )  # fmt: skip
    by, reason = access.actor.by, form.reason
    access.log_action("group cancel", [name], reason)
    try:
        async with asyncio.timeout(BULK_SECONDS):
            cancelled = await access.queue.cancel_group(name, by=by, reason=reason)
    except TimeoutError:
        group = await require_group(access.queue, name)
        return _group_page_to_confirm(
            request, access, group, form, back,
            f"The time is over, and {count(group.live, 'live job')} of it left. To go on, confirm again.",
        )  # fmt: skip
    access.log_changed(cancelled)
    return redirect(back, f"Group {name} is cancelled: {count(cancelled, 'job')}.")


class _BulkPage:
    """The page that asks before jobs are changed."""

    def __init__(
        self, request: Request, access: Access, selection: Selection, form: Form, back: str
    ) -> None:
        self._request = request
        self._access = access
        self._selection = selection
        self._form = form
        self._back = back

    def render(self, number: int, notice: str = "", *, status_code: int = 200) -> Response:
        """Return the page that asks whether `number` jobs shall be changed."""
        selection, verb = self._selection, self._selection.verb
        jobs, reason = count(number, "job"), self._form.text("reason")
        which = f"{jobs}?" if selection.ids else f"{jobs} {selection.words}?"
        name = "delete" if verb.name == "purge" else verb.name
        return render(
            self._request,
            "confirm.html",
            now=time.time(),
            status_code=status_code,
            title=f"{name.capitalize()} {jobs}",
            question=f"{name.capitalize()} {which}",
            label=f"{name.capitalize()} {jobs}",
            ids=selection.ids[:MAX_NAMED],
            more_ids=max(0, len(selection.ids) - MAX_NAMED),
            notice=notice,
            address=f"/jobs/{verb.name}",
            back=self._back,
            fields=[*selection.fields, ("confirmed", number), ("to", self._back)],
            with_reason=verb.keeps_reason,
            reason=reason,
            tone="primary" if verb.name in ("requeue", "unhold") else "danger",
            command=command_line(
                self._access.console.config, *selection.command(), *_reason_words(verb, reason)
            ),
        )

    async def render_rest(self, done: Done, confirmed: int) -> Response:
        """Return the page that says what is done so far, and asks whether to go on."""
        if done.error is not None:
            if not done.changed:
                raise done.error
            left = confirmed if self._selection.ids else confirmed - done.changed
            text = f"Stopped after at least {done.text}: {done.error}. To go on, confirm again."
            return self.render(left, text, status_code=503)
        left = await self._selection.count(self._access.queue)
        return self.render(left, f"So far: {done.text}. To go on, confirm again.")


def _reason_words(verb: Verb, reason: str) -> tuple[str, ...]:
    return ("--reason", reason) if verb.keeps_reason and reason else ()


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


def _group_page_to_confirm(
    request: Request,
    access: Access,
    group: Group,
    form: Form,
    back: str,
    notice: str = "",
    *,
    status_code: int = 200,
) -> Response:
    """Return the page that asks whether a group shall be cancelled."""
    reason, live = form.text("reason"), count(group.live, "live job")
    follower = (
        f", and job {group.then_id}, which would follow it"
        if group.then_status == "waiting"
        else ""
    )
    return render(
        request,
        "confirm.html",
        now=time.time(),
        status_code=status_code,
        title=f"Cancel group {group.name}",
        question=f"Cancel {live} of group {group.name}{follower}?",
        label=f"Cancel the group and {live}",
        ids=(),
        more_ids=0,
        notice=notice,
        address=f"{_group_page(group.name)}/cancel",
        back=back,
        fields=[("confirmed", group.live), ("to", back)],
        with_reason=True,
        reason=reason,
        tone="danger",
        command=command_line(
            access.console.config, "group", "cancel", group.name, *(("--reason", reason) if reason else ())
        ),
    )  # fmt: skip
