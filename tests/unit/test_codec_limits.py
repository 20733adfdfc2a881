"""JSON that is stored can be read back, also as a part of other JSON."""

import pytest

from aragora_q import codec

LEVELS_AROUND_A_STORED_VALUE = 8
"""A payload is shown, listed, imported and passed to programs as a part of other JSON."""


def nested(levels, *, objects=False):
    value = 1
    for _ in range(levels):
        value = {"a": value} if objects else [value]
    return value


def refusal(value):
    """Why `value` is refused; None if it is not."""
    try:
        codec.encode(value)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("objects", [False, True])
def test_whatever_depth_is_accepted_can_be_read_back(objects):
    """A value is refused with a clear reason, or is readable inside eight more levels."""
    margin = LEVELS_AROUND_A_STORED_VALUE
    for levels in range(100, 300):
        value = nested(levels, objects=objects)
        if reason := refusal(value):
            assert levels > 180
            assert reason == "nested too deeply"
        else:
            encoded = codec.encode(value)
            assert codec.decode(encoded) == value
            codec.decode(b"[" * margin + encoded + b"]" * margin)


@pytest.mark.parametrize("digits", [1, 19, 20, 379, 4_000, 4_299, 4_300, 4_301, 5_000, 100_000])
@pytest.mark.parametrize("sign", [1, -1])
def test_whatever_integer_is_accepted_can_be_read_back(digits, sign):
    """Python reads no integer of more than 4,300 digits, so none is written."""
    value = {"n": [sign * 10 ** (digits - 1)]}
    if reason := refusal(value):
        assert digits > 4_300
        assert "more than 4,300 digits" in reason
    else:
        assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize("value", ["caf\udce9", {"\ud800": 1}, [["\udfff"]]])
def test_text_that_no_server_can_keep_is_refused(value):
    """Text from bytes that are not UTF-8, as arguments and file names give it."""
    assert refusal(value) == "contains text that is not UTF-8 (a surrogate)"


def test_a_message_around_a_stored_value_can_be_encoded():
    """What contains the deepest payload that can be stored is no stored value itself."""
    levels = next(n for n in range(150, 250) if refusal(nested(n + 1)))
    with pytest.raises(ValueError, match="nested too deeply"):
        codec.encode({"payload": nested(levels)})
    message = {"checkpoints": {"name": nested(levels)}}
    assert codec.decode(codec.encode(message, spare_levels=0)) == message


def test_long_values_are_accepted():
    """The limits are about depth and digits, not about size."""
    value = {"digits": "9" * 10_000, "brackets": "[" * 1_000, "list": [[n] for n in range(1_000)]}
    assert codec.decode(codec.encode(value)) == value
