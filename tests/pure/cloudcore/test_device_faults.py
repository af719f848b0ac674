"""Faults of devices and values, each in a sentence that says what to do; nothing that is right is complained of."""

from typing import Any

import msgspec
import pytest

from edgehive.api.device_faults import VALUE_LIMIT, faults_of, value_fault
from edgehive.api.devices import Device, DeviceModel, ModelProperty

RANGE = {"minimum": "-5", "maximum": "5", "unit": "C"}


def described(type: str, **more: Any) -> ModelProperty:
    return ModelProperty(name="p", type=type, **more)


@pytest.mark.parametrize(
    ("type", "value"),
    [
        ("INT", "5"),
        ("INT", "-5"),
        ("INT", "+3"),
        ("FLOAT", "4.5e0"),
        ("DOUBLE", "-0.25"),
        ("BOOLEAN", "true"),
        ("BOOLEAN", "False"),
        ("STRING", "ü…"),
        ("BYTES", "AAEC"),
        ("STREAM", ""),
        ("", "anything"),
        ("COMPLEX", "1+2i"),
    ],
)
def test_a_value_that_fits_has_no_fault(type: str, value: str) -> None:
    assert value_fault(described(type, **RANGE), value) == ""


@pytest.mark.parametrize(
    ("type", "value", "said"),
    [
        ("INT", "5.0", "is no INT"),
        ("INT", "", "is no INT"),
        ("INT", "1_000", "is no INT"),
        ("INT", str(2**63), "is no INT"),
        pytest.param("INT", "9" * 5000, "is no INT", id="long number"),
        ("INT", "6", "'6' is above the maximum 5 C"),
        ("FLOAT", "-5.01", "is below the minimum -5 C"),
        ("DOUBLE", "nan", "is no DOUBLE"),
        ("DOUBLE", "inf", "above the maximum"),
        ("BOOLEAN", "1", "write true or false"),
        pytest.param("STRING", "x" * (VALUE_LIMIT + 1), "are the limit", id="long text"),
    ],
)
def test_a_value_that_does_not_fit_is_named(type: str, value: str, said: str) -> None:
    assert said in value_fault(described(type, **RANGE), value)


def test_a_limit_that_is_no_number_is_the_models_fault() -> None:
    assert "the model's maximum 'hot' is no INT" in value_fault(described("INT", maximum="hot"), "1")


def faults(properties: Any, model: Any) -> list[str]:
    device = msgspec.convert({"spec": {"deviceModelRef": {"name": "m"}, "properties": properties}}, Device)
    return list(faults_of(device, msgspec.convert({"spec": {"properties": model}}, DeviceModel)))


def test_a_device_that_fits_its_model_has_no_faults() -> None:
    model = [{"name": "t", "type": "INT"}, {"name": "a.b/c:1", "type": "STRING", "accessMode": "ReadOnly"}]
    assert faults([{"name": "t", "desired": {"value": "1"}}, {"name": "a.b/c:1"}], model) == []
    assert faults(None, None) == []


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ([{"name": "t"}, {"name": "t"}], "'t' is there 2 times"),
        ([{}], "a property has no name"),
        ([{"name": "x y"}], "has a name that edges refuse"),
        ([{"name": "u"}], "is not in device model 'm'"),
        ([{"name": "r", "desired": {"value": "1"}}], "is ReadOnly"),
        ([{"name": "t", "desired": {"value": "x"}}], "its desired value 'x' is no INT"),
    ],
)
def test_each_fault_is_named(properties: Any, said: str) -> None:
    model = [{"name": "t", "type": "INT"}, {"name": "r", "accessMode": "ReadOnly"}, {"name": "x y"}, {"name": ""}]
    (found,) = faults(properties, model)
    assert said in found


def test_methods_are_of_properties_that_the_device_has() -> None:
    methods = [{"name": "boost", "propertyNames": ["t", "u"]}, {"propertyNames": ["t"]}, {"name": "idle"}]
    device = msgspec.convert({"spec": {"properties": [{"name": "t"}], "methods": methods}}, Device)
    assert list(faults_of(device, None)) == [
        "method 'boost' names property 'u', which the device does not have",
        "a method has no name",
    ]
