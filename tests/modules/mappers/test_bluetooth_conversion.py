"""Bytes of Bluetooth characteristics as values and back, as visitors say."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehive.api.devices import PropertyType
from edgehive.mapper import Value, Visitor
from edgehive.mappers.bluetooth.conversion import Place, data_of, place_of, value_of

ON_OFF = {"ON": [1], "OFF": [0]}


def at(type: str = "FLOAT", **config: Any) -> Visitor:
    return Visitor("p", PropertyType(type), config, writable=True)


def converter(*operations: tuple[str, float], type: str = "FLOAT", **rest: Any) -> Visitor:
    done = [{"operationType": name, "operationValue": value} for name, value in operations]
    return at(type, dataConverter={"orderOfOperations": done, **rest})


SENSOR_TAG = converter(("Multiply", 0.03125), startIndex=1, endIndex=0, shiftRight=2)


@pytest.mark.parametrize(
    ("data", "celsius"),
    [
        ("3010", 32.375),
        ("00000000", 0.0),
        ("200ba00d", 22.25),
        ("fc3fffff", 127.96875),
    ],
)
def test_the_sensor_tag_of_2019_has_the_right_degrees(data: str, celsius: float) -> None:
    assert value_of(SENSOR_TAG, bytes.fromhex(data)) == celsius


def test_it_is_below_zero_where_the_converter_is_signed() -> None:
    frosty = converter(("Multiply", 0.03125), startIndex=1, endIndex=0, shiftRight=2, signed=True)
    assert value_of(frosty, (-40 * 32 << 2).to_bytes(2, "little", signed=True)) == -40.0


@pytest.mark.parametrize(
    ("visitor", "data", "value"),
    [
        (converter(startIndex=0, endIndex=1), "0102", 0x0102),
        (converter(startIndex=1, endIndex=0), "0102", 0x0201),
        (converter(startIndex=2, endIndex=2), "010203", 3),
        (converter(), "07", 7),
        (converter(shiftLeft=4), "07", 0x70),
        (converter(("Add", 1), ("Divide", 4), ("Subtract", 0.5), ("multiply", 10)), "07", 15),
        (converter(("Add", 1), ("Add", 2)), "01", 4),
        (converter(("Multiply", 0.03125), endIndex=1, type="INT"), "0418", 33),
        (converter(type="BOOLEAN"), "04", True),
        (at("FLOAT", dataConverter=json.dumps({"startIndex": 1, "endIndex": 1})), "0105", 5),
        (at("FLOAT"), "0000c03f", 1.5),
        (at("DOUBLE"), "000000000000f83f", 1.5),
        (at("FLOAT"), "2a", 42),
        (at("INT"), "0102", 0x0201),
        (at("INT", signed=True), "feff", -2),
        (at("BOOLEAN"), "0001", True),
        (at("STRING"), "616263c3a90000", "abcé"),
        (at("BYTES"), "ff00", b"\xff\0"),
        (at("STRING", dataWrite=ON_OFF), "01", "ON"),
        (at("STRING", dataWrite={"ON": "AQ==", "OFF": "AA=="}), "00", "OFF"),
        (at("STRING", dataWriteToBluetooth=ON_OFF), "00", "OFF"),
        (at("BOOLEAN", dataWrite={"true": [255], "false": [0]}), "ff", "true"),
        (at("INT", dataWrite={"1": [16]}), "20", 32),
    ],
)
def test_bytes_are_a_value(visitor: Visitor, data: str, value: Value) -> None:
    assert value_of(visitor, bytes.fromhex(data)) == value


@pytest.mark.parametrize(
    ("visitor", "value", "data"),
    [
        (at("STRING", dataWrite=ON_OFF), "ON", "01"),
        (at("STRING", dataWrite='{"ON": [1, 2]}'), "ON", "0102"),
        (at("BOOLEAN", dataWrite={"true": [7], "false": []}), True, "07"),
        (at("INT", dataWrite={"3": [9, 9]}), 3, "0909"),
        (at("INT"), 0, "00"),
        (at("INT"), 255, "ff"),
        (at("INT"), 256, "0001"),
        (at("INT", length=4), 1, "01000000"),
        (at("INT", signed=True), -2, "fe"),
        (at("INT", signed=True), 128, "8000"),
        (at("BOOLEAN"), True, "01"),
        (at("FLOAT"), 1.5, "0000c03f"),
        (at("DOUBLE"), 1.5, "000000000000f83f"),
        (at("STRING"), "é", "c3a9"),
        (at("BYTES"), b"\0\1", "0001"),
        (SENSOR_TAG, 32.375, "3010"),
        (converter(("Divide", 2), ("Add", 1)), 4.0, "06"),
        (converter(shiftLeft=4), 0x70, "07"),
    ],
)
def test_a_value_is_bytes(visitor: Visitor, value: Value, data: str) -> None:
    assert data_of(visitor, value).hex() == data


@pytest.mark.parametrize(
    ("visitor", "data", "sentence"),
    [
        (converter(startIndex=1, endIndex=5), "0102", r"takes bytes 1 to 5, and the device has 2 \(from 0\)"),
        (converter(startIndex=5, endIndex=1), "", "takes bytes 5 to 1, and the device has 0"),
        (converter(startIndex=-1), "01", "startIndex -1 is no number from 0 to 511"),
        (converter(endIndex=512), "01", "endIndex 512 is no number from 0 to 511"),
        (converter(endIndex="b"), "01", "endIndex 'b' is no number"),
        (converter(endIndex=8), "01" * 9, "takes 9 bytes; a number has 8 at most"),
        (converter(shiftLeft=1, shiftRight=1), "01", "shiftLeft and shiftRight; give one"),
        (converter(shiftRight=65), "01", "shiftRight 65 is no number from 0 to 64"),
        (converter(("Modulo", 2)), "01", "operationType 'Modulo' is none of Add, Subtract, Multiply, Divide"),
        (converter(("Divide", 0)), "01", "nothing can be divided by it"),
        (converter(("Add", "x")), "01", "operationValue 'x' of Add is no number"),  # type: ignore[arg-type]
        (converter(*[("Multiply", 1e300)] * 3), "01", "orderOfOperations leads beyond all numbers"),
        (converter(*[("Multiply", 2**63)] * 16, ("Multiply", 0.5)), "01", "is no list of at most 16 operations"),
        (converter(("Add", float("inf"))), "01", "operationValue inf of Add is no number"),
        (at(dataConverter=3), "01", "dataConverter is 3, not an object"),
        (at(dataConverter="{"), "01", "dataConverter is no JSON"),
        (at(dataConverter={"orderOfOperations": 5}), "01", "orderOfOperations 5 is no list"),
        (at("STRING", dataWrite=ON_OFF), "07", "the device has '07', which is none of dataWrite: ON, OFF"),
        (at("STRING", dataWrite={"ON": [256]}), "07", r"dataWrite of 'ON' is \[256\], no list of numbers"),
        (at("STRING", dataWrite=[1]), "07", r"dataWrite is \[1\], not an object"),
        (at("STRING"), "ff", "which is no text; use type BYTES"),
        (at("INT"), "", "the device has 0 bytes; pick those of the number"),
        (at("FLOAT"), "00" * 20, "the device has 20 bytes"),
    ],
)
def test_bytes_that_are_no_value_are_told(visitor: Visitor, data: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        value_of(visitor, bytes.fromhex(data))


@pytest.mark.parametrize(
    ("visitor", "value", "sentence"),
    [
        (at("STRING", dataWrite=ON_OFF), "Red", "'Red' is none of dataWrite: ON, OFF"),
        (at("FLOAT"), 1e300, r"1e\+300 does not fit into 4 bytes"),
        (at("INT"), -1, "-1 does not fit into 1 bytes; say signed: true"),
        (at("INT", length=1), 256, "256 does not fit into 1 bytes"),
        (at("INT", length=9), 1, "length 9 is no number from 1 to 8"),
        (converter(startIndex=2, endIndex=3), 1.0, "leaves out the first bytes cannot be written with"),
        (converter(("Multiply", 0)), 1.0, "multiplies with 0"),
        (converter(), 300.0, "300 does not fit into 1 bytes"),
        (at("STRING"), "x" * 10_000_000, "10000000 bytes do not fit into a characteristic, which holds 512 at most"),
        (at("STRING", dataWrite={"a": "A" * 10_000_000}), "a", "has 10000000 letters; a characteristic holds 512"),
        (at("STRING", dataWrite={"a": [1] * 513}), "a", "513 bytes do not fit"),
    ],
)
def test_a_value_that_cannot_be_written_is_told(visitor: Visitor, value: Value, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        data_of(visitor, value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("uuid", ["f000aa0104514000b000000000000000", "F000AA01-0451-4000-B000-000000000000"])
def test_a_characteristic_is_named_with_hyphens_or_without(uuid: str) -> None:
    assert place_of({"characteristicUUID": uuid}) == Place("f000aa01-0451-4000-b000-000000000000")


@pytest.mark.parametrize("uuid", ["2a1c", "0x2A1C", "00002a1c"])
def test_a_characteristic_of_the_standard_has_a_short_name(uuid: str) -> None:
    assert place_of({"characteristicUUID": uuid, "serviceUUID": "1809", "notify": True}) == Place(
        "00002a1c-0000-1000-8000-00805f9b34fb", "00001809-0000-1000-8000-00805f9b34fb", True
    )


@pytest.mark.parametrize("config", [{}, {"characteristicUUID": 7}, {"characteristicUUID": "temperature" * 1_000_000}])
def test_a_characteristic_by_no_name_is_told(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"characteristicUUID .* is no UUID like") as caught:
        place_of(config)
    assert len(str(caught.value)) < 300


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 1000) | st.floats() | st.text(max_size=8) | st.just("[" * 3000),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
OPERATION = st.fixed_dictionaries(
    {}, optional={"operationType": st.sampled_from(["Add", "Divide"]), "operationValue": JUNK}
)
CONVERTER = st.fixed_dictionaries(
    {},
    optional={
        "startIndex": JUNK,
        "endIndex": JUNK,
        "shiftLeft": JUNK,
        "shiftRight": JUNK,
        "signed": JUNK,
        "orderOfOperations": JUNK | st.lists(OPERATION | JUNK, max_size=3),
    },
)
CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "dataConverter": CONVERTER | JUNK,
        "dataWrite": JUNK,
        "characteristicUUID": JUNK,
        "serviceUUID": JUNK,
        "length": JUNK,
        "signed": JUNK,
    },
)


@given(CONFIG, st.binary(max_size=12), st.sampled_from(PropertyType), st.integers() | st.floats(allow_nan=False))
@settings(deadline=None, max_examples=400)
def test_whatever_a_visitor_says_there_is_a_value_or_a_sentence(
    config: dict[str, Any], data: bytes, type: PropertyType, number: float
) -> None:
    visitor = Visitor("p", type, config)
    for act in (lambda: place_of(config), lambda: value_of(visitor, data), lambda: data_of(visitor, number)):
        try:
            act()
        except ValueError as error:
            assert 0 < len(str(error)) < 400
