"""What a driver is: one class with `open`, `read`, `write` and `close`. There is nothing else to learn.

More methods may be there, for devices that do more: `call`, `detect` and `prepare`.

A mapper makes one driver for each device, opens it, reads its properties at their cycles, writes what is desired, and
closes it; when something fails it closes the driver and opens a new one after a pause. No two methods of one driver
ever run at the same time, and one that takes too long is cancelled.

Go: staging/src/github.com/kubeedge/mapper-framework/_template/mapper/driver/driver.go
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from edgehive.api.devices import PropertyType

#: What is read and written. A property's type says which: INT int, FLOAT and DOUBLE float, BOOLEAN bool, BYTES bytes,
#: STRING and STREAM str. A driver may return a neighbour (21 for FLOAT, 1 for BOOLEAN); it is given the exact one.
Value: TypeAlias = int | float | bool | str | bytes


@dataclass(frozen=True, slots=True)
class Visitor:
    """One property of a device as a driver sees it."""

    #: The property's name.
    property: str
    #: The type in the DeviceModel.
    type: PropertyType
    #: `visitors.configData`: where in the device the property is. Whole numbers are `int`.
    config: Mapping[str, Any]
    unit: str = ""
    #: accessMode is ReadWrite.
    writable: bool = False
    #: What is written keeps within these; `read` may return anything.
    minimum: float | None = None
    maximum: float | None = None


class Driver(Protocol):
    """Implement this for a protocol; subclassing is not needed."""

    #: `spec.protocol.protocolName` of the devices this driver is for.
    protocol: str

    async def open(self, config: Mapping[str, Any]) -> None:
        """Reach the device; `config` is its `spec.protocol.configData`. Raise anything when that fails."""
        ...

    async def read(self, visitor: Visitor) -> Value:
        """Return a property's value now.

        OSError (ConnectionError, TimeoutError...): the device is lost and will be opened again. Any other error: this
        property cannot be read, the others go on; when all fail, the device counts as lost.
        """
        ...

    async def write(self, visitor: Visitor, value: Value) -> None:
        """Set a property; `value` has the property's type and is within its limits. Errors: as for `read`."""
        ...

    async def close(self) -> None:
        """Let go of the device; also called when `open` failed half-way."""
        ...


@runtime_checkable
class CallsMethods(Protocol):
    """A driver that does something of its own when a method of its device is called; without it, `write` is called."""

    async def call(self, method: str, visitor: Visitor, value: Value) -> None:
        """Carry out one of `spec.methods` upon a property; `value` and errors: as for `write`."""
        ...


@runtime_checkable
class DetectsAnomalies(Protocol):
    """A driver that judges readings of properties which have a `pushMethod.anomalyDetection`."""

    async def detect(self, visitor: Visitor, value: Value, config: Mapping[str, Any]) -> str:
        """What is wrong with this reading, "" for nothing; `config` is `anomalyDetection`. What it raises is logged."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A driver that does something by itself, and so has to know whose it is before anything is read."""

    async def prepare(self, device: str, visitors: Sequence[Visitor]) -> None:
        """Called before `open` with the device (namespace/name) and all its properties. Errors: as for `open`."""
        ...
