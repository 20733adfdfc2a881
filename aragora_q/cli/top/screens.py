"""What opens over the overview: a job in full, the confirmation of a change, the filter, the help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, Label, Static

from aragora_q.base import MAX_REASON_CHARS, Job
from aragora_q.cli.top import texts
from aragora_q.cli.top.reading import parse_filter
from aragora_q.errors import InvalidPayload
from aragora_q.formats import safe_text
from aragora_q.labels import JobFilter

MAX_NAMED = 6
"""Jobs that a confirmation names."""

BACK = Binding("escape", "dismiss", "Back")


class JobScreen(Screen[None]):
    """A job in full, scrollable. The keys of the overview act on it."""

    BINDINGS: ClassVar[list[BindingType]] = [BACK, Binding("q,enter", "dismiss", "Back")]

    def __init__(self, job_id: str) -> None:
        super().__init__()
        self.job_id = job_id
        self.job: Job | None = None
        """The job as it was shown last; None: not yet, or it is not there any more."""

    def compose(self) -> ComposeResult:
        yield Static(safe_text(f"job {self.job_id}"), classes="bar", markup=False)
        with VerticalScroll():
            yield Static("…", id="job", markup=False)
        yield Static(classes="message", markup=False)
        yield Static(
            "up, down scroll  c cancel  r requeue  h hold  u unhold  Esc back",
            classes="keys",
            markup=False,
        )

    def show(self, job: Job | None, text: str) -> None:
        """Show the job as it is now."""
        self.job = job
        self.query_one("#job", Static).update(text)


class Dialog(ModalScreen[str | None]):
    """A question with one line to fill in. Returns it, or None if it was left with Esc."""

    BINDINGS: ClassVar[list[BindingType]] = [BACK]

    def __init__(self, title: str, lines: Sequence[str], *, value: str = "", hint: str) -> None:
        super().__init__()
        self._title, self._lines = title, lines
        self._value, self._hint = value, hint

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Label(safe_text(self._title), classes="title", markup=False)
            if self._lines:
                yield Label(safe_text("\n".join(self._lines), keep="\n"), markup=False)
            yield Input(self._value, max_length=MAX_REASON_CHARS, compact=True)
            yield Label(self._hint, classes="hint", markup=False)

    def fault_of(self, value: str) -> str:  # noqa: ARG002
        """Return what is wrong with what was filled in; empty if nothing is."""
        return ""

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Textual calls the handlers of all base classes: subclasses override `fault_of` instead."""
        event.stop()
        if fault := self.fault_of(event.value):
            self.query_one(".hint", Label).update(safe_text(fault))
        else:
            self.dismiss(event.value.strip())


class ConfirmScreen(Dialog):
    """Asks before a change, with an optional reason."""

    def __init__(self, question: str, names: Sequence[str], note: str, verb: str) -> None:
        more = len(names) - MAX_NAMED
        named = [*names[:MAX_NAMED], *([f"and {more:,} more"] if more > 0 else [])]
        lines = [*(f"  {name}" for name in named), *filter(None, [note]), "reason (optional):"]
        super().__init__(question, lines, hint=f"Enter: {verb}   Esc: change nothing")


class FilterScreen(Dialog):
    """Takes the words of a filter; one that is wrong is not left."""

    def __init__(self, before: JobFilter, value: str) -> None:
        super().__init__(
            "Show jobs that match",
            ["for example: failed held group:nightly tenant:acme env=prod"],
            value=f"{value} " if value else "",
            hint="Enter: apply   Esc: as before",
        )
        self._before = before

    def fault_of(self, value: str) -> str:
        try:
            parse_filter(value, self._before)
        except InvalidPayload as error:
            return f"{error}; {error.hint}" if error.hint else str(error)
        return ""


class HelpScreen(ModalScreen[None]):
    """All keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        BACK,
        Binding("q,enter,space,question_mark", "dismiss", "Back"),
    ]

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog"):
            yield Static(texts.HELP, markup=False)
