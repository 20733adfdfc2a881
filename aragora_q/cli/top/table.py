"""The tables of jobs and of workers: filled at every reading, without moving what an operator looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import DataTable

from aragora_q.cli.top import texts


class Table(DataTable[Text]):
    """A table that is filled again and again; the cursor stays on its row."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
    ]

    def current_key(self) -> str | None:
        """Return the key of the row under the cursor; None if there is no row."""
        if not self.is_valid_row_index(self.cursor_row):
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    def fill(self, head: Sequence[str], rows: Sequence[texts.Row], width: int) -> None:
        """Show these rows instead, in so many columns of the terminal."""
        current, row, top = self.current_key(), self.cursor_row, self.scroll_y
        self.clear(columns=True)
        widths = texts.widths(head, [cells for _, cells in rows], width)
        for name, size in zip(head, widths, strict=True):
            self.add_column(Text(name), width=size)
        for key, cells in rows:
            self.add_row(
                *(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells), key=key
            )
        keys = [key for key, _ in rows]
        if keys:
            row = keys.index(current) if current in keys else min(row, len(keys) - 1)
            self.move_cursor(row=row, animate=False, scroll=False)
            self.scroll_to(y=top, animate=False, force=True)
