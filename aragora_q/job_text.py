"""One-line texts about jobs: for tables of the command line, of the console and of the terminal's overview.

They are not escaped: what prints them does that.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from aragora_q.base import Job, JobStatus
from aragora_q.formats import count, price, truncate
from aragora_q.labels import encode_labels
from aragora_q.loose import number_or_none, whole

MAX_PROGRESS_CHARS = 66


def tags_text(tags: Mapping[str, str]) -> str:
    """Return, for example, `env=prod team=search`."""
    return " ".join(f"{name}={value}" for name, value in tags.items())


def labels_text(job: Job, known: Collection[str]) -> str:
    """Return, for example, `group:nightly tenant:acme env=prod`, without labels that are `known`."""
    labels = encode_labels(job).split()
    return " ".join(label.removeprefix("tag:") for label in labels if label not in known)


def summary(job: Job) -> str:
    """Return one line about a job: its hold, its error, its progress, or its question."""
    if job.hold is not None:
        return job.hold.text if job.status is JobStatus.HELD else f"to be held {job.hold.text}"
    if job.error and job.status in (JobStatus.FAILED, JobStatus.RETRYING):
        return job.error
    question = job.payload.get("question")
    text = str(question) if question else json.dumps(job.payload, ensure_ascii=False)
    if job.progress and job.status is JobStatus.PROCESSING:
        return f"{progress_text(job.progress)}: {text}"
    return text


def progress_text(progress: Mapping[str, Any]) -> str:
    """Return the last progress report of an executor as short text; of a debate, with its quote."""
    if "phase" not in progress:
        scalars = (f"{name} {value}" for name, value in progress.items() if _is_scalar(value))
        return truncate(", ".join(scalars), MAX_PROGRESS_CHARS)
    parts = [
        debate_phase(progress),
        f"{whole(progress.get('agents_done'))} of {count(whole(progress.get('agents')), 'agent')} done",
        f"{count(whole(progress['tokens']), 'token')} so far" if progress.get("tokens") else "",
        price(
            number_or_none(progress.get("cost_usd")),
            whole(progress.get("unpriced_calls")),
            number_or_none(progress.get("quote_usd")),
        ),
    ]
    return ", ".join(filter(None, parts))


def debate_phase(progress: Mapping[str, Any]) -> str:
    """Return the phase of a debate, for example `review, round 1 of 2`."""
    position = (
        f", round {progress['round']} of {progress['rounds']}" if progress.get("round") else ""
    )
    return f"{progress['phase']}{position}"


def _is_scalar(value: object) -> bool:
    return not isinstance(value, dict | list)
