"""The page that asks before several things are changed, or something is deleted. Used by the pages' actions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.responses import Response

from aragora_q.web.pages.forms import Form
from aragora_q.web.pages.rendering import command_line, render
from aragora_q.web.selection import MAX_NAMED

if TYPE_CHECKING:
    from aragora_q.web.access import Access


@dataclass(frozen=True)
class Question:
    """What is asked before `number` jobs, or other things, are changed."""

    number: int
    title: str
    text: str
    label: str
    """What the button says."""
    address: str
    command: Sequence[str]
    ids: Sequence[str] = ()
    """Of jobs."""
    fields: Sequence[tuple[str, str]] = ()
    warning: str = ""
    tone: str = "danger"


@dataclass(frozen=True)
class Confirmation:
    """The page that asks before something is done. It keeps the reason that was given."""

    request: Request
    access: Access
    form: Form
    back: str

    def ask(self, question: Question, notice: str = "", *, status_code: int = 200) -> Response:
        """Return the page with a question."""
        reason = self.form.text("reason")
        because = ("--reason", reason) if reason else ()
        return render(
            self.request,
            "confirm.html",
            now=time.time(),
            status_code=status_code,
            question=question,
            ids=question.ids[:MAX_NAMED],
            more_ids=max(0, len(question.ids) - MAX_NAMED),
            notice=notice,
            back=self.back,
            fields=[*question.fields, ("confirmed", question.number), ("to", self.back)],
            reason=reason,
            command=command_line(self.access.console.config, *question.command, *because),
        )
