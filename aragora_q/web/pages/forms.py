"""What a posted form says: its fields as text, and the address that it leads back to."""

from __future__ import annotations

from fastapi import Request
from starlette.datastructures import FormData

from aragora_q.base import MAX_REASON_CHARS
from aragora_q.errors import InvalidPayload

MAX_FIELDS = 2_000
"""Fields of a form: more than a page has checkboxes."""


class Form:
    """The fields of a posted form. Files are refused."""

    def __init__(self, fields: FormData) -> None:
        self._fields = fields

    @classmethod
    async def of(cls, request: Request) -> Form:
        """Read the form that a request brings. Raises HTTPException for what is not one."""
        return cls(await request.form(max_files=0, max_fields=MAX_FIELDS))

    def text(self, name: str) -> str:
        """Return the last value of a field, without blanks around it; blank if it is missing."""
        return next(reversed(self.texts(name)), "")

    def texts(self, name: str) -> list[str]:
        """Return all values of a field, without blanks around them, with line breaks as in other texts."""
        values = [value for value in self._fields.getlist(name) if isinstance(value, str)]
        return [plain_lines(value).strip() for value in values]

    @property
    def items(self) -> list[tuple[str, object]]:
        """All fields, by name."""
        return list(self._fields.multi_items())

    @property
    def reason(self) -> str:
        """Why the sender does it.

        Raises:
            InvalidPayload: it is too long.
        """
        reason = self.text("reason")
        if len(reason) > MAX_REASON_CHARS:
            raise InvalidPayload(f"a reason must have at most {MAX_REASON_CHARS} characters")
        return reason

    def back(self, default: str) -> str:
        """Return the address in field `to`, if it is one of this console; else `default`."""
        return local_path(self.text("to"), default)

    def number(self, name: str) -> int | None:
        """Return a field that is a whole number; None if it is missing or anything else."""
        text = self.text(name)
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else None


def plain_lines(text: str) -> str:
    """Return a text with line feeds only: a browser sends each line break of a text area as two characters."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def local_path(address: str, default: str = "/") -> str:
    """Return `address` if it is a path of this console; `default` for anything that leads elsewhere."""
    is_path = address.startswith("/") and not address.startswith("//") and "\\" not in address
    is_plain = address.isprintable() and " " not in address
    return address if is_path and is_plain else default


def query_number(request: Request, name: str, default: int, most: int) -> int:
    """Return a number of the query from 1 to `most`; `default` if it is missing or anything else."""
    text = request.query_params.get(name, "")
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else default
    return min(number, most) if number else default
