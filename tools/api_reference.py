"""Render the public Python API, aragora_q.__all__, as Markdown from signatures and docstrings.

griffe reads the source; nothing is imported. Called by gen_docs.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import griffe

HEAD = """\
# Python API

Written by `make docs` from the docstrings. Import every name from `aragora_q`.
"""
ELSEWHERE = {"QueueConfig": "Every setting is an attribute; see [settings](settings.md)."}
"""Classes whose attributes are described on another page."""
HIDDEN = {"settings_customise_sources"}
"""Methods that only pydantic calls."""
DECORATORS = {"asynccontextmanager", "classmethod", "staticmethod"}
LINE = 88

Documented = griffe.Class | griffe.Function | griffe.Attribute


def page() -> str:
    """Return docs/reference/api.md."""
    package = griffe.load("aragora_q", search_paths=[Path(__file__).parents[1]])
    names = [name for name in package.exports or () if name != "__version__"]
    objects = {str(name): package[name].final_target for name in names}
    contents = [
        f"- [{name}](#{name.lower()}): {_summary(found)}" for name, found in objects.items()
    ]
    parts = [HEAD, "\n".join(contents) + "\n"]
    for name, found in objects.items():
        parts.append(f"## {name}\n")
        parts += _class(found) if found.is_class else _described(found)
    return "\n".join(parts)


def _summary(found: Documented) -> str:
    return found.docstring.value.split("\n\n")[0].replace("\n", " ") if found.docstring else ""


def _described(found: Documented) -> Iterator[str]:
    yield f"```python\n{_signature(found)}\n```\n"
    if found.docstring:
        yield from map(_section, found.docstring.parse("google"))


def _signature(found: Documented) -> str:
    if found.is_attribute:
        return "\n".join(found.lines)
    if found.is_class:
        bases = ", ".join(map(str, found.bases))
        heading = f"class {found.name}({bases})" if bases else f"class {found.name}"
        has_init = "__init__" in found.members and not found.has_labels("dataclass")
        return f"{heading}\n\n{_wrapped(found.signature())}" if has_init else heading
    decorators = [str(each.value) for each in found.decorators]
    lines = [f"@{decorator}" for decorator in decorators if decorator in DECORATORS]
    lines.append(("async def " if found.has_labels("async") else "def ") + found.signature())
    return "\n".join(map(_wrapped, lines))


def _wrapped(signature: str) -> str:
    """Put each parameter on a line if the signature is long."""
    if len(signature) <= LINE:
        return signature
    head, _, rest = signature.partition("(")
    parameters, _, tail = rest.rpartition(")")
    lines = re.sub(r", (?=\w+: |\*)", ",\n    ", parameters)
    return f"{head}(\n    {lines},\n){tail}"


def _class(found: griffe.Class) -> Iterator[str]:
    yield from _described(found)
    members = [
        member for name, member in found.members.items() if name not in HIDDEN and name[0] != "_"
    ]
    attributes = [member for member in members if member.is_attribute and _is_declared(member)]
    if found.name in ELSEWHERE:
        yield f"{ELSEWHERE[found.name]}\n"
        attributes = [member for member in attributes if member.has_labels("property")]
    if attributes:
        yield "\n".join(map(_attribute, attributes)) + "\n"
    for member in members:
        if member.is_function and member.docstring:  # else the base class describes it
            yield f"### {found.name}.{member.name}\n"
            yield from _described(member)


def _is_declared(found: griffe.Attribute) -> bool:
    """Return True for class attributes, fields and properties, False for `self.x = x`."""
    return bool(found.labels & {"class-attribute", "dataclass", "property"} or not found.value)


def _attribute(found: griffe.Attribute) -> str:
    annotation = f": {found.annotation}" if found.annotation else ""
    value = str(found.value or "")
    default = f" = {value}" if value and not value.startswith("field(") else ""
    summary = f": {_summary(found)}" if found.docstring else ""
    return f"- `{found.name}{annotation}{default}`{summary}"


def _section(section: griffe.DocstringSection) -> str:
    if section.kind is griffe.DocstringSectionKind.text:
        return f"{section.value}\n"
    if section.kind is griffe.DocstringSectionKind.examples:
        blocks = (
            text if kind is griffe.DocstringSectionKind.text else f"```python\n{text}\n```"
            for kind, text in section.value
        )
        return "\n\n".join(blocks) + "\n"
    if section.kind is griffe.DocstringSectionKind.admonition:
        text = section.value.description
        if section.title == "Example":
            return f"{section.title}:\n\n```python\n{text}\n```\n"
        return f"{section.title}: {text}\n"
    title = section.kind.value.capitalize()
    items = (
        f"- `{getattr(each, 'name', '') or each.annotation}`: {each.description}".replace("\n", " ")
        for each in section.value
    )
    return f"{title}:\n\n" + "\n".join(items) + "\n"
