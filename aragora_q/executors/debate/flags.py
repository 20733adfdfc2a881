"""Recognize answers that address the voters or imitate the marks of a debate."""

from __future__ import annotations


def flags(text: str) -> list[str]:  # noqa: ARG001 - rules follow
    """Return why `text` looks as if it addressed its readers or imitated the debate's marks; else nothing."""
    return []
