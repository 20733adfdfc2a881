"""The receipt of an ended job: what went in, what came out, what it took, and what of it is degraded.

A receipt is one line of canonical JSON (RFC 8785) with a digest and, with a key, a signature: the same job
makes the same bytes on every host. Used by `aragora-q receipt` and by the HTTP API. Pure: a job and its calls
go in, bytes come out. Must not know queues or files. The only importer of rfc8785.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import rfc8785
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from aragora_q.base import Job, JobStatus
from aragora_q.errors import InvalidPayload
from aragora_q.job_rules import is_debate
from aragora_q.loose import mapping, mappings
from aragora_q.moments import iso_time
from aragora_q.report.calls import Call, Calls
from aragora_q.report.debate import Debate
from aragora_q.report.degradation import Cancel, cancel_of, degradations

VERSION = 1
"""Of the form of receipts."""

MAX_BYTES = 512 * 1024 * 1024
"""A longer file is not a receipt: payload and result have at most 64 MiB each in Redis, where numbers are
shorter.
"""

MAX_INTEGER = 2**53 - 1
"""Larger integers have no canonical form: programs that read JSON round them differently."""

Digest = Literal["ok", "differs"]
Signature = Literal["ok", "differs", "none", "unknown_key", "no_key"]


class DegradationJson(TypedDict):
    """One thing that is less than what was asked for."""

    code: str
    text: str


class Receipt(TypedDict):
    """A receipt. `sha256` and `hmac_sha256` are over the canonical form of `degradation` and `receipt`."""

    degradation: list[DegradationJson]
    hmac_sha256: str | None
    key_id: str | None
    receipt: dict[str, Any]
    sha256: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found out about a receipt."""

    receipt: Receipt
    is_canonical: bool
    """False: the file was written by another program, or changed."""
    digest: Digest
    signature: Signature
    """`none`: not signed; `unknown_key`: by another key than the one given; `no_key`: none was given."""

    def is_verified(self, *, requires_signature: bool) -> bool:
        """Return True if no check failed; with `requires_signature`, if also the key signed it."""
        accepted = {"ok"} if requires_signature else {"ok", "none", "unknown_key", "no_key"}
        return self.is_canonical and self.digest == "ok" and self.signature in accepted


def make_receipt(
    queue: str,
    job: Job,
    calls: Calls,
    key: str | None,
    history: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """Return the receipt of an ended job, without a newline; with a `key`, signed.

    Its `history` says who cancelled it.

    Raises:
        InvalidPayload: the job's data has a number that canonical JSON cannot hold.
    """
    cancel = cancel_of(job, history)
    try:
        signed: dict[str, Any] = {
            "degradation": [each._asdict() for each in degradations(job, calls, cancel)],
            "receipt": _facts(queue, job, calls, cancel),
        }
        content = rfc8785.dumps(signed)
    except ValueError as error:
        raise _without_form(job, error) from None
    signature: dict[str, str | None] = {"hmac_sha256": None, "key_id": None}
    if key is not None:
        signature = {"hmac_sha256": _hmac(key, content), "key_id": key_id(key)}
    return rfc8785.dumps({**signed, **signature, "sha256": sha256(content).hexdigest()})


def key_id(key: str) -> str:
    """Return what names a key in receipts: the beginning of its SHA-256."""
    return sha256(key.encode()).hexdigest()[:8]


def verify(data: bytes, key: str | None) -> Verification:
    """Check a receipt: its form, its digest and, with a `key`, its signature. One newline may follow it.

    Raises:
        InvalidPayload: it is not a receipt.
    """
    data = data.removesuffix(b"\n")
    found = _parsed(data)
    signed = {name: found[name] for name in ("degradation", "receipt")}
    try:
        content = rfc8785.dumps(signed)
        is_canonical = hmac.compare_digest(rfc8785.dumps(found), data)
    except (ValueError, RecursionError) as error:
        raise _not_a_receipt(_reason(error)) from None
    is_same = hmac.compare_digest(sha256(content).hexdigest(), found["sha256"])
    digest: Digest = "ok" if is_same else "differs"
    return Verification(_as_receipt(found), is_canonical, digest, _signature(found, content, key))


def _signature(found: Mapping[str, Any], content: bytes, key: str | None) -> Signature:
    if found["hmac_sha256"] is None:
        return "none"
    if key is None:
        return "no_key"
    is_signed = hmac.compare_digest(_hmac(key, content), found["hmac_sha256"])
    if found["key_id"] == key_id(key):
        return "ok" if is_signed else "differs"
    return "differs" if is_signed else "unknown_key"  # signed by it, with another name


def _as_receipt(found: Mapping[str, Any]) -> Receipt:
    return Receipt(
        degradation=found["degradation"],
        hmac_sha256=found["hmac_sha256"],
        key_id=found["key_id"],
        receipt=found["receipt"],
        sha256=found["sha256"],
    )


def _parsed(data: bytes) -> dict[str, Any]:
    """Return a receipt as JSON data, with the types of its fields checked. Raises InvalidPayload."""
    try:
        found = json.loads(data.decode(), parse_int=_number, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise _not_a_receipt(_reason(error)) from None
    if not isinstance(found, dict) or found.keys() != Receipt.__annotations__.keys():
        raise _not_a_receipt(f"not a JSON object with just {', '.join(Receipt.__annotations__)}")
    if not isinstance(found["receipt"], dict):
        raise _not_a_receipt("its receipt is not a JSON object")
    rows = found["degradation"]
    if not isinstance(rows, list) or len(mappings(rows)) < len(rows):
        raise _not_a_receipt("its degradation is not a list of JSON objects")
    _check_hex(found, "sha256", 64)
    if (found["hmac_sha256"], found["key_id"]) != (None, None):
        _check_hex(found, "hmac_sha256", 64)
        _check_hex(found, "key_id", 8)
    return found


def _number(digits: str) -> int | float:
    """Return a number as it was before it was written: canonical JSON writes 1e20 as an integer."""
    number = float(digits)
    return int(digits) if abs(number) <= MAX_INTEGER else number


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _check_hex(found: Mapping[str, Any], name: str, digits: int) -> None:
    value = found[name]
    if not (
        isinstance(value, str) and len(value) == digits and set(value) <= set("0123456789abcdef")
    ):
        raise _not_a_receipt(f"its {name} does not have {digits} hex digits")


def _not_a_receipt(reason: str) -> InvalidPayload:
    return InvalidPayload(
        f"not a receipt: {reason}", hint="a receipt is what aragora-q receipt ID writes, unchanged"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start + 1:,})"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}".removesuffix(" (decode using utf-8-sig)")
    return str(error)


def _hmac(key: str, content: bytes) -> str:
    return hmac.digest(key.encode(), content, "sha256").hex()


def _without_form(job: Job, error: ValueError) -> InvalidPayload:
    """Return the error of a job with data that has no canonical form; it says where that is."""
    parts = {"payload": job.payload, "result": job.result}
    where = next((name for name, value in parts.items() if not _has_form(value)), "journal")
    return InvalidPayload(
        f"job {job.id} cannot have a receipt: its {where} has no canonical JSON: {error!s:.100}",
        hint=f"integers are at most {MAX_INTEGER}; put longer numbers into texts",
    )


def _has_form(value: Any) -> bool:
    try:
        rfc8785.dumps(value)
    except ValueError:
        return False
    return True


def _facts(queue: str, job: Job, calls: Calls, cancel: Cancel) -> dict[str, Any]:
    debate = Debate(job, calls)
    return {
        "version": VERSION,
        "queue": queue,
        "id": job.id,
        "status": job.status.value,
        "attempts": job.attempts,
        "enqueued_at": iso_time(job.created_at),
        "started_at": iso_time(job.started_at),
        "ended_at": iso_time(job.completed_at),
        "group": job.group,
        "tenant": job.tenant,
        "tags": dict(job.tags),
        "payload": job.payload,
        "result": job.result,
        "error": job.error if job.status is JobStatus.FAILED else None,
        "cancelled_by": cancel.by or None,
        "cancelled_reason": cancel.reason or None,
        "cost_usd": debate.cost(),
        "unpriced_calls": debate.unpriced_calls(),
        "calls": _calls(calls) if is_debate(job) else [],
    }


def _calls(calls: Calls) -> list[dict[str, Any]]:
    """Return what each call took, in their order, with a digest of its reply; those without one last."""
    return [
        {"phase": call.phase, "round": call.round, **_call(call)}
        for call in (*(call for phase in calls.phases for call in phase.calls), *calls.faults)
    ]


def _call(call: Call) -> dict[str, Any]:
    found = call.to_dict()
    value, _said = found.pop("value"), found.pop("said")
    digest = None if value is None else sha256(rfc8785.dumps(dict(mapping(value)))).hexdigest()
    return {**found, "reply_sha256": digest}
