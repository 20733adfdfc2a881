"""What the value of a setting may be; used by `settings` and `tables`."""

import re
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import core_schema

from aragora_q.base import GATES, QUEUE_NAME_PATTERN
from aragora_q.job_rules import MAX_AGENT_CHARS, is_agent

SCOPE_VALUE = re.compile(r"[!-~]{1,200}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,47}")
"""Name of a budget, a schedule or a webhook."""

SCHEDULE_TAG = "schedule"
"""Tag of each job that a schedule enqueued; its value is the name of the schedule."""

Entry = TypeVar("Entry")

if TYPE_CHECKING:
    Table = dict[str, Entry]
else:

    class Table:
        """A table of entries by name; those of `Table["AgentConfig"]` are of this class of `tables`.

        What checks them is loaded and built for the first one, because most tables have none.
        """

        def __class_getitem__(cls, entry: str) -> Any:
            return Annotated[dict[str, Any], cls(entry)]

        def __init__(self, entry: str) -> None:
            self._entry = entry

        @property
        def entry(self) -> Any:
            """The class of the entries."""
            from aragora_q.config import tables  # noqa: PLC0415 - most tables are empty

            return getattr(tables, self._entry)

        def __get_pydantic_core_schema__(
            self, _source: Any, _handler: GetCoreSchemaHandler
        ) -> core_schema.CoreSchema:
            """Return the schema of pydantic-core."""
            adapter = cache(lambda: TypeAdapter(dict[self.entry.Name, self.entry]))

            def check(value: Any) -> Any:
                return value if value == {} else adapter().validate_python(value)

            return core_schema.no_info_plain_validator_function(check)


def check_name(name: str) -> str:
    """Return `name` if a budget, schedule or webhook may have it. Raises ValueError."""
    if not NAME.fullmatch(name):
        raise ValueError(
            "a name must be 1 to 48 letters, digits and ._@-, and begin with a letter or digit"
        )
    return name


def check_queue(name: str) -> str:
    """Return `name` if a queue may have it. Raises ValueError."""
    if not QUEUE_NAME_PATTERN.fullmatch(name):
        raise ValueError(
            "must be 1 to 64 of a-z, 0-9, '.', '_' or '-', and begin with a letter or digit"
        )
    if name == GATES:
        raise ValueError(f"must not be {GATES}: keys of budgets and providers have this name")
    return name


def check_provider(name: str) -> str:
    """Return `name` if a provider may have it. Raises ValueError."""
    if not SCOPE_VALUE.fullmatch(name):
        raise ValueError("a name must be 1 to 200 ASCII characters without blanks")
    return name


def plain(value: Any, field: FieldInfo) -> Any:
    """Return the value of a setting if its kind may be right. Raises ValueError."""
    _check_text(value)
    if isinstance(value, bool) and field.annotation is not bool:  # to Python, true is the number 1
        raise ValueError("must not be true or false")
    return value


def from_text(value: Any) -> Any:
    """Return names that are separated by commas as a list; anything else as it is."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def check_agents(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return `names` if agents may have them. Raises ValueError."""
    for name in names:
        _check_text(name)
        if not is_agent(name):
            raise ValueError(f"must be names of 1 to {MAX_AGENT_CHARS} characters")
    return names


def _check_text(value: Any) -> None:
    """Raise ValueError for text that files, Redis and the operating system do not take."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            raise ValueError("must be UTF-8")
        if "\0" in value:
            raise ValueError("must not contain a null character")
