"""The screen: shows a picture of the queue, keeps it current, and asks before it changes anything.

Nothing here waits for Redis but the tasks that read and act: keys always answer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.widgets import ContentSwitcher, DataTable, Static
from textual.worker import WorkerFailed

from aragora_q import process
from aragora_q.base import Job, JobStatus
from aragora_q.cli.top import actions, texts
from aragora_q.cli.top.actions import ACTIONS, Action
from aragora_q.cli.top.reading import Picture, Reader, filter_text, parse_filter
from aragora_q.cli.top.screen_text import SafeText, is_ascii_only
from aragora_q.cli.top.screens import ConfirmScreen, FilterScreen, HelpScreen, JobScreen
from aragora_q.cli.top.table import Table
from aragora_q.errors import AragoraQError
from aragora_q.formats import any_of, count, safe_text
from aragora_q.labels import JobFilter

REFRESH_SECONDS = 2.0
"""Longest time between two readings."""

PAUSE_SECONDS = 0.5
"""Shortest time between two readings, however many events arrive."""

STALE_SECONDS = 5.0
"""Age of what is shown from which the header names it; in an outage, it always does."""

FOLLOW_RETRY_SECONDS = 1.0

MIN_LINES = 18
"""A terminal with fewer lines shows the first warning and the first line of counts only."""

VIEWS = {
    "1": frozenset[JobStatus](),
    "2": frozenset({JobStatus.PROCESSING}),
    "3": frozenset({JobStatus.FAILED}),
    "4": frozenset({JobStatus.HELD}),
}
"""Keys that choose the statuses of the table."""

CSS = """
Screen { scrollbar-size-vertical: 1; }
.bar { height: 1; text-style: bold; }
#attention { height: auto; color: ansi_red; text-style: bold; }
#counts { height: auto; margin-bottom: 1; }
#title { height: 1; text-style: bold; }
ContentSwitcher { height: 1fr; }
DataTable { height: 1fr; scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; }
DataTable > .datatable--header { text-style: bold; }
DataTable > .datatable--cursor, DataTable:focus > .datatable--cursor {
    background: ansi_default; color: ansi_default; text-style: reverse;
}
VerticalScroll { height: 1fr; scrollbar-size-vertical: 1; }
.message { height: auto; max-height: 3; color: ansi_yellow; }
.keys { height: 1; text-style: reverse; }
ModalScreen { align: center middle; background: transparent; }
.dialog {
    width: 72; max-width: 100%; height: auto; max-height: 100%;
    border: round ansi_blue; padding: 0 1; background: ansi_default;
}
.dialog Label { width: 100%; height: auto; }
.dialog .title { text-style: bold; }
.dialog Input { margin: 0 0 1 0; text-style: underline; }
"""


class TopApp(App[None]):
    """`aragora-q top`."""

    CSS = CSS
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", priority=True),
        Binding("ctrl+z", "suspend_process", "Suspend", priority=True),
        Binding("question_mark", "help", "Help"),
        Binding("slash", "filter", "Filter"),
        Binding("w", "workers", "Workers"),
        Binding("p", "pause", "Pause"),
        Binding("space", "mark", "Mark"),
        Binding("a", "mark_all", "Mark all"),
        *(Binding(each.key, f"change('{each.verb.name}')", each.verb.name) for each in ACTIONS),
        *(Binding(key, f"view('{key}')", "View") for key in VIEWS),
    ]

    def __init__(self, reader: Reader, wanted: JobFilter, by: str) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"  # the terminal's own colors, dark or light
        self.stopped_by: signal.Signals | None = None
        """The signal that ended the screen."""
        self.fault: BaseException | None = None
        """The error that ended the screen: a bug, or the terminal is gone."""
        self._safe_text = SafeText(ascii_only=is_ascii_only())
        self._reader = reader
        self._wanted = wanted
        self._by = by
        self._marked = frozenset[str]()
        self._picture: Picture | None = None
        self._read_at = time.monotonic()
        self._outage = ""
        self._result = ""
        self._wake = asyncio.Event()

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), self._safe_text]

    def compose(self) -> ComposeResult:
        yield Static("reading …", id="header", classes="bar", markup=False)
        yield Static(id="attention", markup=False)
        yield Static(id="counts", markup=False)
        yield Static(id="title", markup=False)
        with ContentSwitcher(initial="jobs"):
            yield Table(id="jobs", cursor_type="row", cell_padding=1)
            yield Table(id="workers", cursor_type="row", cell_padding=1)
        yield Static(classes="message", markup=False)
        yield Static(texts.KEYS, classes="keys", markup=False)

    def on_mount(self) -> None:
        self.query_one("#jobs").focus()
        self.set_interval(1.0, self._tick)
        self.run_worker(self._read_forever())
        self.run_worker(self._follow())

    def _tick(self) -> None:
        if not self.is_headless and not os.isatty(0):
            # The terminal was closed, and the signal is ignored: reads return nothing.
            self.stop(signal.SIGHUP)
        self._show_age()

    # -- reading

    async def _read_forever(self) -> None:
        while True:
            began = time.monotonic()
            self._wake.clear()
            await self._read()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), REFRESH_SECONDS)
            await asyncio.sleep(max(0.0, began + PAUSE_SECONDS - time.monotonic()))

    async def _read(self) -> None:
        wanted = self._wanted
        try:
            picture = await self._reader.picture(wanted)
            if isinstance(screen := self.screen, JobScreen):
                screen.show(*await self._reader.job(screen.job_id, self.size.width - 2))
        except AragoraQError as error:
            self._outage = f"{error}; trying again"
            self._show_age()
        else:
            self._outage = ""
            self._read_at = time.monotonic()
            if wanted is self._wanted:  # else the filter has changed meanwhile
                self._picture = picture
                self._marked &= {job.id for job in picture.jobs}
                self._show()
        self._show_message()

    async def _follow(self) -> None:
        """Wake the reader at events. Without them, it reads every REFRESH_SECONDS."""
        while True:
            with suppress(AragoraQError):
                async for _ in self._reader.events():
                    self._wake.set()
            await asyncio.sleep(FOLLOW_RETRY_SECONDS)

    # -- showing

    def _part(self, name: str) -> Static:
        return self.screen_stack[0].query_one(name, Static)

    def _table(self, name: str) -> Table:
        return self.screen_stack[0].query_one(name, Table)

    def _show(self) -> None:
        picture = self._picture
        if picture is None:
            return
        with self.batch_update():
            warnings, counts = texts.warnings(picture), texts.counts(picture)
            if self.size.height < MIN_LINES:
                warnings, counts = warnings[:1], counts[:1]
            self._part("#attention").update("\n".join(f"! {text}" for text in warnings))
            self._part("#attention").display = bool(warnings)
            self._part("#counts").update("\n".join(counts))
            self._show_title()
            self._show_age()
            rows = texts.jobs(picture, self._marked, self._wanted.labels)
            self._table("#jobs").fill(texts.JOB_COLUMNS, list(rows), self.size.width - 1)
            self._table("#workers").fill(
                texts.WORKER_COLUMNS, list(texts.workers(picture)), self.size.width - 1
            )

    def _show_title(self) -> None:
        picture = self._picture
        if picture is None:
            return
        is_jobs = self.query_one(ContentSwitcher).current == "jobs"
        title = texts.title(picture, self._wanted, len(self._marked))
        self._part("#title").update(title if is_jobs else "workers   w: jobs")

    def _show_age(self) -> None:
        if self._picture is not None:
            age = time.monotonic() - self._read_at
            is_old = bool(self._outage) or age >= STALE_SECONDS
            self._part("#header").update(texts.header(self._picture, age if is_old else None))

    def _show_message(self) -> None:
        text = "\n".join(filter(None, (self._outage, self._result)))
        for screen in self.screen_stack:
            for message in screen.query(".message").results(Static):
                message.update(safe_text(text, keep="\n"))

    def _say(self, result: str) -> None:
        self._result = result
        self._show_message()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    # -- keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """Keys of the overview do nothing under a dialog; in a job, only those that change it do."""
        if isinstance(self.screen, JobScreen):
            return action in ("change", "quit", "suspend_process", "dismiss", "help")
        is_open = len(self.screen_stack) > 1
        return not is_open or action in ("quit", "suspend_process", "dismiss")

    def action_help(self) -> None:
        self.push_screen(HelpScreen())

    def action_workers(self) -> None:
        switcher = self.query_one(ContentSwitcher)
        switcher.current = "workers" if switcher.current == "jobs" else "jobs"
        self._table(f"#{switcher.current}").focus()
        self._show_title()

    def action_view(self, key: str) -> None:
        self._filter(replace(self._wanted, statuses=VIEWS[key]))

    def action_filter(self) -> None:
        def apply(text: str | None) -> None:
            if text is not None:
                self._filter(parse_filter(text, self._wanted))

        self.push_screen(FilterScreen(self._wanted, filter_text(self._wanted)), apply)

    def _filter(self, wanted: JobFilter) -> None:
        self._wanted, self._marked = wanted, frozenset()
        self._part("#title").update(safe_text(f"jobs that match: {filter_text(wanted)} …"))
        self._wake.set()

    def action_mark(self) -> None:
        if (job_id := self._current_id()) is not None:
            self._marked ^= {job_id}
            self._table("#jobs").action_cursor_down()
            self._show()

    def action_mark_all(self) -> None:
        if self._picture is not None and not self._marked:
            self._marked = frozenset(job.id for job in self._picture.jobs)
        else:
            self._marked = frozenset()
        self._show()

    def _current_id(self) -> str | None:
        """Return the id of the job under the cursor."""
        if self.query_one(ContentSwitcher).current != "jobs":
            return None
        return self._table("#jobs").current_key()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        key = event.row_key.value or ""
        job_id = key if event.data_table.id == "jobs" else key.partition(" ")[2]
        if job_id:
            self.push_screen(JobScreen(job_id))
            self._wake.set()

    # -- changes

    def action_change(self, verb: str) -> None:
        """Ask, and then change the marked jobs, or the one under the cursor."""
        action = next(each for each in ACTIONS if each.verb.name == verb)
        chosen = self._chosen()
        jobs = [job for job in chosen if job.status in action.statuses]
        if not jobs:
            of = any_of(status.value for status in JobStatus if status in action.statuses)
            those = any_of(sorted({job.status.value for job in chosen}) or ["none"])
            self._say(f"nothing to {verb}: only jobs that are {of}; chosen: {those}")
            return
        others = len(chosen) - len(jobs)
        not_all = f" ({count(others, 'other')} cannot be)" if others else ""
        question = f"{verb.capitalize()} {count(len(jobs), 'job')}{not_all}?"
        names = [f"{job.id} {job.status.value}" for job in jobs]
        self.push_screen(
            ConfirmScreen(question, names, action.note, verb),
            partial(self._change, action, [job.id for job in jobs]),
        )

    def _chosen(self) -> list[Job]:
        """Return the job that is open, or else the marked ones, or else the one under the cursor."""
        if isinstance(screen := self.screen, JobScreen):
            return [screen.job] if screen.job is not None else []
        ids = self._marked or {self._current_id()}
        return [job for job in self._picture.jobs if job.id in ids] if self._picture else []

    def _change(self, action: Action, ids: list[str], reason: str | None) -> None:
        if reason is None:
            self._say("nothing was changed")
            return

        async def run() -> str:
            results = await action.verb.send(self._reader.queue, ids, self._by, reason)
            self._marked -= set(ids)
            return actions.results_text(action.verb, ids, results)

        self._act(action.verb.name, run)

    def action_pause(self) -> None:
        if self._picture is None:
            return
        stats = self._picture.stats
        is_paused = stats["paused"]
        verb = "resume" if is_paused else "pause"
        waiting = count(sum(stats["waiting"].values()), "job")
        note = (
            f"{waiting} wait."
            if is_paused
            else f"No job starts; {stats['running']:,} running go on."
        )

        def answered(reason: str | None) -> None:
            async def run() -> str:
                changed = await self._reader.queue.pause(
                    paused=not is_paused, by=self._by, reason=reason or ""
                )
                return f"queue {'is' if changed else 'was already'} {'resumed' if is_paused else 'paused'}"

            if reason is None:
                self._say("nothing was changed")
            else:
                self._act(verb, run)

        question = f"{verb.capitalize()} queue {stats['queue']}?"
        self.push_screen(ConfirmScreen(question, [], note, verb), answered)

    def _act(self, verb: str, run: Callable[[], Awaitable[str]]) -> None:
        async def work() -> None:
            try:
                self._say(await run())
            except AragoraQError as error:
                self._say(actions.refusal_text(verb, error))
            self._wake.set()

        self._say(f"{verb} …")
        self.run_worker(work())

    # -- ending

    def stop(self, number: signal.Signals) -> None:
        """End the screen because a signal arrived, and in any case soon: the terminal may be gone."""
        self.stopped_by = number
        process.end_soon(number)
        self.exit()

    def panic(self, *renderables: Any) -> None:  # noqa: ARG002
        """End the screen because the terminal cannot be read any more."""
        self.stop(signal.SIGHUP)

    def _fatal_error(self) -> None:
        """End the screen because of a bug. Textual would print local variables, which may be secrets."""
        error = self._exception
        self.fault = error.error if isinstance(error, WorkerFailed) else error
        self._close_messages_no_wait()
