"""A method of a device called, or a property read at once, from outside its cycles.

`checked` holds a call against the device's definition; the device's task carries it out between two readings.

Go: staging/src/github.com/kubeedge/mapper-framework/_template/mapper/device/device.go
"""

import asyncio
from dataclasses import dataclass, field

from edgehive.mapper import values
from edgehive.mapper.definition import Definition, Property
from edgehive.mapper.driver import Value

#: Calls that may wait for one device.
CALLS_WAITING = 32


class NoSuch(Exception):
    """The device has no such property or method."""


class BadValue(Exception):
    """A method cannot be called with this."""


class CallFailed(Exception):
    """The device did not do it."""


@dataclass(slots=True, eq=False)
class Call:
    """`method` "" only reads; `value` is what a method gets."""

    property: str
    method: str = ""
    value: Value | None = None
    answer: "asyncio.Future[Value]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def succeeds(self, value: Value) -> None:
        if not self.answer.done():
            self.answer.set_result(value)

    def fails(self, error: "BadValue | CallFailed") -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def property_of(definition: Definition, name: str) -> Property:
    """Raises NoSuch."""
    if name not in definition.properties:
        known = ", ".join(definition.properties) or "none"
        raise NoSuch(f"device {definition.id} has no property {name[:100]!r}; it has: {known}")
    return definition.properties[name]


def checked(definition: Definition, method: str, name: str, text: str) -> Value:
    """The value a method is called with; raises NoSuch or BadValue with a sentence."""
    if method not in definition.methods:
        known = ", ".join(definition.methods) or "none"
        raise NoSuch(f"device {definition.id} has no method {method[:100]!r}; it has: {known}")
    if name not in definition.methods[method]:
        known = ", ".join(definition.methods[method]) or "none"
        raise NoSuch(f"method {method!r} of device {definition.id} has no property {name[:100]!r}; it has: {known}")
    try:
        return values.wanted(property_of(definition, name).visitor, text, "value")
    except ValueError as error:
        raise BadValue(str(error)) from None
