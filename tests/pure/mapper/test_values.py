"""Values between a property's type and text."""

import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehive.api.devices import PropertyType
from edgehive.mapper import Visitor
from edgehive.mapper.values import exact, text_of, wanted

#: What a Go edge lets pass.
ALPHABET = re.compile(r"[a-zA-Z0-9\-_.,:/@#]{0,512}")


@pytest.mark.parametrize(
    ("type", "value", "text"),
    [
        ("INT", 5, "5"),
        ("INT", 5.0, "5"),
        ("INT", True, "1"),
        ("INT", "-7", "-7"),
        ("FLOAT", 21, "21.0"),
        ("FLOAT", struct.unpack("<f", struct.pack("<f", 21.3))[0], "21.3"),
        ("DOUBLE", 0.1 + 0.2, "0.30000000000000004"),
        ("DOUBLE", 1e300, "1e300"),
        ("BOOLEAN", True, "true"),
        ("BOOLEAN", 0, "false"),
        ("BOOLEAN", "TRUE", "true"),
        ("STRING", "on", "on"),
        ("STRING", 5, "5"),
        ("BYTES", b"\x00\xff", "00ff"),
        ("BYTES", "00ff", "00ff"),
        ("STREAM", "rtsp://camera/1", "rtsp://camera/1"),
    ],
)
def test_what_a_driver_reads_becomes_text(type: str, value: object, text: str) -> None:
    kind = PropertyType(type)
    assert text_of(kind, exact(kind, value)) == text


@pytest.mark.parametrize(
    ("type", "value", "why"),
    [
        ("INT", "5.5", "no whole number"),
        ("INT", 5.5, "the property's type is INT"),
        ("INT", None, "nothing \\(None\\)"),
        ("INT", 2**63, "64 bits"),
        ("FLOAT", "warm", "no number"),
        ("FLOAT", float("inf"), "no number that can be sent"),
        ("DOUBLE", 10**400, "no number"),
        ("BOOLEAN", "maybe", "neither true nor false"),
        ("BYTES", "xyz", "hexadecimal"),
        ("BYTES", b"x" * 3000, "the limit is 2048"),
        ("STRING", "x" * 5000, "the limit is 4096"),
        ("STRING", b"x", "not text"),
    ],
)
def test_what_is_no_value_of_the_type_is_refused_with_its_reason(type: str, value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        exact(PropertyType(type), value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_double_survives_the_journey_in_letters_go_lets_pass(number: float) -> None:
    text = text_of(PropertyType.DOUBLE, number)
    assert ALPHABET.fullmatch(text)
    assert exact(PropertyType.DOUBLE, text) == number


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_float_survives_as_a_float(number: float) -> None:
    text = text_of(PropertyType.FLOAT, number)
    assert ALPHABET.fullmatch(text)
    assert struct.pack("<f", float(text)) == struct.pack("<f", number)


@given(st.integers(-(2**63), 2**63 - 1))
def test_an_integer_survives(number: int) -> None:
    assert exact(PropertyType.INT, text_of(PropertyType.INT, number)) == number


@given(st.binary(max_size=256))
def test_bytes_survive_in_letters_go_lets_pass(data: bytes) -> None:
    text = text_of(PropertyType.BYTES, data)
    assert ALPHABET.fullmatch(text)
    assert exact(PropertyType.BYTES, text) == data


@pytest.mark.parametrize(("text", "why"), [("4", "below the minimum 5"), ("31", "above the maximum 30"), ("x", "INT")])
def test_a_desired_value_outside_its_limits_is_refused_with_the_property(text: str, why: str) -> None:
    visitor = Visitor("target", PropertyType.INT, {}, writable=True, minimum=5, maximum=30)
    with pytest.raises(ValueError, match=f"property 'target': desired value '{text}' .*{why}"):
        wanted(visitor, text)
    assert wanted(visitor, "30") == 30
