"""Receipts: canonical bytes, and what `verify` finds out about them."""

import json
import struct
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sample_debates import SAMPLES

from aragora_q.base import Job, JobStatus
from aragora_q.errors import InvalidPayload
from aragora_q.report.calls import Calls, read_calls
from aragora_q.report.receipt import key_id, make_receipt, verify

KEY, OTHER_KEY = "k" * 32, "o" * 32
JOB = Job(
    {"question": "Tea?"},
    id="job",
    status=JobStatus.COMPLETED,
    attempts=1,
    created_at=1_795_834_979.123,
    started_at=1_795_834_981.0,
    completed_at=1_795_835_012.5,
    group="nightly",
    tenant="ann",
    tags={"env": "prod"},
    result={"words": 1},
)


def receipt_of(job=JOB, calls=Calls(), key=KEY):  # noqa: B008 - an empty one
    return make_receipt("debates", job, calls, key)


def sample(name):
    """A debate as a worker leaves it, and its calls."""
    made, entries = SAMPLES[name]()
    return made, read_calls(entries, None)


def test_the_facts_of_a_job():
    """Each fact of a job is in its receipt, times as ISO 8601 in UTC; the keys are in order."""
    found = json.loads(receipt_of())
    assert list(found) == ["degradation", "hmac_sha256", "key_id", "receipt", "sha256"]
    assert found["degradation"] == []
    assert found["key_id"] == key_id(KEY) == sha256(KEY.encode()).hexdigest()[:8]
    assert found["receipt"] == {
        "attempts": 1,
        "calls": [],
        "cancelled_by": None,
        "cancelled_reason": None,
        "cost_usd": None,
        "ended_at": "2026-11-28T03:03:32.500Z",
        "enqueued_at": "2026-11-28T03:02:59.123Z",
        "error": None,
        "group": "nightly",
        "id": "job",
        "payload": {"question": "Tea?"},
        "queue": "debates",
        "result": {"words": 1},
        "started_at": "2026-11-28T03:03:01.000Z",
        "status": "completed",
        "tags": {"env": "prod"},
        "tenant": "ann",
        "unpriced_calls": 0,
        "version": 1,
    }


def test_each_call_with_a_digest_of_its_reply():
    """A receipt has each call of a debate with what it took, but of its reply only a SHA-256."""
    job, calls = sample("agreeing")
    rows = json.loads(receipt_of(job, calls))["receipt"]["calls"]
    assert len(rows) == len(list(calls.all())) > 0
    first = calls.phases[0].calls[0]
    text = json.dumps(first.value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert rows[0]["reply_sha256"] == sha256(text.encode()).hexdigest()
    assert (rows[0]["agent"], rows[0]["cost_usd"]) == (first.agent, first.cost_usd)
    assert not {"value", "said"} & rows[0].keys()


def test_the_examples_of_rfc_8785():
    """A payload that is an example of RFC 8785, 3.2.2 and 3.2.3, has that RFC's bytes in a receipt."""
    literals = json.loads(
        r"""{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}"""
    )
    found = receipt_of(replace(JOB, payload=literals)).decode()
    assert (
        r"""{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"""
        r""""string":"€$\u000f\nA'B\"\\\\\"/"}"""
    ) in found
    order = json.loads(
        r"""{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis"}"""
    )
    found = receipt_of(replace(JOB, payload=order)).decode()
    places = [
        found.index(text)
        for text in ("Carriage Return", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("ffefffffffffffff", "-1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555554", "333333333.33333325"),
        ("41b3de4355555555", "333333333.3333333"),
        ("41b3de4355555556", "333333333.3333334"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_the_numbers_of_rfc_8785(bits, text):
    """A number of RFC 8785, appendix B, is in a receipt as there, and the receipt verifies."""
    [number] = struct.unpack(">d", bytes.fromhex(bits))
    made = receipt_of(replace(JOB, payload={"n": number}))
    assert f'"payload":{{"n":{text}}}' in made.decode()
    assert verify(made, KEY).is_verified(requires_signature=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=4))
def test_every_payload_makes_a_receipt_that_verifies(payload):
    """Whatever is in a payload: the receipt has it, and verifies, with a newline at its end or without."""
    job = replace(JOB, payload=payload)
    made = receipt_of(job)
    assert json.loads(made, parse_int=float)["receipt"]["payload"] == payload  # JSON has one kind
    for data in (made, made + b"\n"):
        assert verify(data, KEY).is_verified(requires_signature=True)


SIGNED, UNSIGNED = receipt_of(), receipt_of(key=None)


def is_accepted(data, key=KEY):
    """True if `receipt verify` would exit with 0."""
    try:
        return verify(data, key).is_verified(requires_signature=False)
    except InvalidPayload:
        return False


@pytest.mark.parametrize("made", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
def test_each_bit_that_changes_is_found(made):
    """Any one bit of a receipt that changes makes it fail, at every place."""
    assert is_accepted(made)
    for place in range(len(made)):
        for bit in range(8):
            changed = bytearray(made)
            changed[place] ^= 1 << bit
            assert not is_accepted(bytes(changed)), (place, bit)


@given(st.integers(0, len(SIGNED) - 1), st.integers(0, 255))
def test_each_byte_that_changes_is_found(place, byte):
    """Any byte that is replaced, inserted or removed makes a receipt fail."""
    before, after = SIGNED[:place], SIGNED[place + 1 :]
    replaced = before + bytes([byte]) + after
    assert is_accepted(replaced) == (replaced == SIGNED)
    inserted = before + bytes([byte]) + SIGNED[place:]
    assert not is_accepted(inserted)
    assert not is_accepted(before + after)


def test_without_the_key_only_the_signature_can_change():
    """Without the key, what changes is found, or it is the signature, which `verify` says it did not check."""
    start = SIGNED.index(b'"hmac_sha256"')
    end = SIGNED.index(b'"receipt"')
    for place in range(len(SIGNED)):
        changed = SIGNED[:place] + bytes([SIGNED[place] ^ 1]) + SIGNED[place + 1 :]
        if is_accepted(changed, None):
            assert start < place < end
            assert verify(changed, None).signature == "no_key"


def parts(**changes):
    return {**json.loads(SIGNED), **changes}


def written(value, **options):
    return json.dumps(
        value, **{"ensure_ascii": False, "separators": (",", ":"), "sort_keys": True} | options
    ).encode()


@pytest.mark.parametrize(
    "data",
    [
        written(parts(), separators=(", ", ": ")),
        json.dumps(dict(reversed(parts().items())), separators=(",", ":")).encode(),
        SIGNED.replace(b'"id":"job"', b'"id":"jo\\u0062"'),
        SIGNED.replace(b'"id":"job"', b'"id":"other","id":"job"'),
        SIGNED.replace(b'{"degradation":[]', b'{"degradation":[{}],"degradation":[]'),
        SIGNED.replace(b'"attempts":1', b'"attempts":1.0'),
        SIGNED.replace(b'"attempts":1', b'"attempts":1e0'),
        SIGNED.replace(b'"unpriced_calls":0', b'"unpriced_calls":-0'),
        SIGNED + b" ",
        SIGNED + b"\n\n",
        SIGNED + b"\r\n",
    ],
    ids=[
        "spaces", "order", "escape", "twice", "twice on top", "fraction", "exponent", "minus zero",
        "blank", "two newlines", "CR LF",
    ],
)  # fmt: skip
def test_the_same_content_in_other_bytes_is_not_canonical(data):
    """Other bytes that JSON readers take for the same are found, though the digest is that of the content."""
    found = verify(data, KEY)
    assert (found.is_canonical, found.digest, found.signature) == (False, "ok", "ok")
    assert not found.is_verified(requires_signature=False)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"\n", "Expecting value"),
        (b"[]", "not a JSON object with just"),
        (b'{"id": "job"}', "not a JSON object with just"),
        (written(parts(more=1)), "not a JSON object with just"),
        (b"\xef\xbb\xbf" + SIGNED, "BOM"),
        (SIGNED.decode().encode("utf-16"), "not UTF-8"),
        (SIGNED + SIGNED, "Extra data"),
        (SIGNED.replace(b'"attempts":1', b'"attempts":NaN'), "NaN is not a number"),
        (SIGNED.replace(b'"attempts":1', b'"attempts":-Infinity'), "-Infinity is not a number"),
        (SIGNED.replace(b'"attempts":1', b'"attempts":1e999'), "not representable"),
        (SIGNED.replace(b'"attempts":1', b'"attempts":' + b"9" * 5_000), "not representable"),
        (SIGNED.replace(b'"id":"job"', b'"id":"\\ud800"'), "non-UTF-8"),
        (SIGNED.replace(b'"attempts":1', b'"attempts":' + b"[" * 100_000), "nested too deeply"),
        (b"[" * 1_000_000, "nested too deeply"),
        (written(parts(sha256="A" * 64)), "its sha256 does not have 64 hex digits"),
        (written(parts(sha256=None)), "its sha256 does not have 64 hex digits"),
        (written(parts(key_id=None)), "its key_id does not have 8 hex digits"),
        (written(parts(hmac_sha256=[])), "its hmac_sha256 does not have 64 hex digits"),
        (written(parts(degradation={})), "its degradation is not a list"),
        (written(parts(degradation=["x"])), "its degradation is not a list of JSON objects"),
        (written(parts(receipt=[])), "its receipt is not a JSON object"),
    ],
)  # fmt: skip
def test_what_is_not_a_receipt(data, reason):
    """What is not a receipt raises InvalidPayload with the reason, never another error."""
    with pytest.raises(InvalidPayload, match="not a receipt: ") as caught:
        verify(data, KEY)
    assert reason in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_verified_or_refused(data):
    """No bytes make `verify` raise anything but InvalidPayload."""
    assert not is_accepted(data)


def resealed(**changes):
    """A receipt with changes and a digest that fits them, as someone without the key can make it."""
    found = parts(**changes)
    content = written({name: found[name] for name in ("degradation", "receipt")})
    return written({**found, "sha256": sha256(content).hexdigest()})


@pytest.mark.parametrize(
    ("data", "key", "signature", "is_verified", "is_required"),
    [
        (SIGNED, KEY, "ok", True, True),
        (SIGNED, OTHER_KEY, "unknown_key", True, False),
        (SIGNED, None, "no_key", True, False),
        (UNSIGNED, KEY, "none", True, False),
        (UNSIGNED, None, "none", True, False),
        (resealed(hmac_sha256=None, key_id=None), KEY, "none", True, False),
        (resealed(hmac_sha256="0" * 64), KEY, "differs", False, False),
        (resealed(key_id="00000000"), KEY, "differs", False, False),
        (resealed(receipt={"id": "other"}), KEY, "differs", False, False),
        (resealed(degradation=[{"code": "x"}]), KEY, "differs", False, False),
        (resealed(receipt={"id": "other"}, key_id="00000000"), KEY, "unknown_key", True, False),
    ],
    ids=[
        "ok", "rotated", "no key", "not signed", "nor a key", "stripped", "wrong signature",
        "renamed key", "forged", "forged degradation", "forged by another key",
    ],
)  # fmt: skip
def test_keys(data, key, signature, is_verified, is_required):
    """What a signature says with each key; only one by the key given passes where it is required."""
    found = verify(data, key)
    assert (found.is_canonical, found.digest, found.signature) == (True, "ok", signature)
    assert found.is_verified(requires_signature=False) == is_verified
    assert found.is_verified(requires_signature=True) == is_required


@pytest.mark.parametrize("number", [2**53, -(2**53), 10**4_000], ids=["+", "-", "long"])
@pytest.mark.parametrize("where", ["payload", "result"])
def test_a_number_without_a_canonical_form(where, number):
    """An integer that JSON readers round differently is refused, with the part of the job that has it."""
    with pytest.raises(InvalidPayload, match=f"its {where} has no canonical JSON") as caught:
        receipt_of(replace(JOB, **{where: {"n": [number]}}))
    assert "9007199254740991" in caught.value.hint
    assert len(str(caught.value)) < 500


def test_a_call_without_a_canonical_form():
    """The same in a reply of a call, which the journal has."""
    job, _ = sample("agreeing")
    entry = {"phase": "propose", "seat": 0, "value": {"answer": 2**60, "reasons": "x"}}
    calls = read_calls({"call/propose.0.0": entry}, None)
    with pytest.raises(InvalidPayload, match="its journal has no canonical JSON"):
        receipt_of(job, calls)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_every_sample_verifies(name):
    """Debates of all kinds make receipts that verify; their calls are in them."""
    job, calls = sample(name)
    if job.status.is_terminal:
        assert verify(receipt_of(job, calls), KEY).is_verified(requires_signature=True)
