"""Rows of devices, attributes, twins and mappers in `edgecore.db`; tables and columns are the Go project's.

devicetwin collects what changed in a `Batch` and commits it in one transaction before anything is told to anybody.
A row that cannot be read is left out and logged, never removed.

Go: edge/pkg/metamanager/dao (device*.go), edge/pkg/devicetwin/dmiserver (saveMapper)
"""

import logging
import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from edgehive.edgecore.devicetwin.membership import Device
from edgehive.edgecore.devicetwin.twins import NO_MERGE, Merge, Record, Value
from edgehive.kit.sqlite import Database
from edgehive.wire.devices import Attribute, TwinVersion, TypeMetadata, ValueMetadata
from edgehive.wire.names import ResourceType

log = logging.getLogger("edgehive.devicetwin")

_encode = msgspec.json.Encoder().encode
_metadata = msgspec.json.Decoder(ValueMetadata)
_version = msgspec.json.Decoder(TwinVersion)
_merge = msgspec.json.Decoder(Merge)

_Statement = tuple[str, tuple[object, ...]]

_PUT_DEVICE = (
    "INSERT INTO device (id, name, description, state, last_online, uid, unconfirmed, told) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description, state = excluded.state, "
    "last_online = excluded.last_online, uid = excluded.uid, unconfirmed = excluded.unconfirmed, told = excluded.told"
)
_TWIN_COLUMNS = (
    "expected", "actual", "expected_meta", "actual_meta", "expected_version", "actual_version", "optional", "attr_type",
    "merge", "unconfirmed",
)  # fmt: skip
_UPDATE_TWIN = (
    f"UPDATE device_twin SET {', '.join(f'{name} = ?' for name in _TWIN_COLUMNS)} "  # noqa: S608
    "WHERE deviceid = ? AND name = ?"
)
_INSERT_TWIN = (
    f"INSERT INTO device_twin ({', '.join(_TWIN_COLUMNS)}, deviceid, name, description, metadata) "  # noqa: S608
    f"VALUES ({', '.join('?' * len(_TWIN_COLUMNS))}, ?, ?, '', '')"
)
_UPDATE_ATTRIBUTE = "UPDATE device_attr SET value = ?, optional = ?, attr_type = ? WHERE deviceid = ? AND name = ?"
_INSERT_ATTRIBUTE = (
    "INSERT INTO device_attr (value, optional, attr_type, deviceid, name, description, metadata) "
    "VALUES (?, ?, ?, ?, ?, '', '')"
)


class MapperRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A mapper's registration. wire: Go's keys, `address` in base64; `registered` (milliseconds) is ours."""

    name: str = ""
    version: str = ""
    api_version: str = ""
    protocol: str = ""
    address: bytes = b""
    state: str = ""
    registered: int = 0


class Batch:
    """Changes to be committed together; of several changes of one row the last is written."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}
        self._twins: dict[tuple[str, str], tuple[Device, str]] = {}
        self._attributes: dict[tuple[str, str], Device] = {}
        self._dropped: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._devices or self._twins or self._attributes or self._dropped)

    def device(self, device: Device) -> None:
        """Its own fields; twins and attributes are named one by one."""
        self._devices[device.id] = device

    def twin(self, device: Device, name: str) -> None:
        self._twins[device.id, name] = (device, name)

    def attribute(self, device: Device, name: str) -> None:
        self._attributes[device.id, name] = device

    def drop(self, id: str) -> None:
        """A life of a device is over, with all that hangs on it. What is named later belongs to the next."""
        self._dropped.add(id)
        self._devices.pop(id, None)
        for table in (self._twins, self._attributes):
            for key in [key for key in table if key[0] == id]:
                del table[key]

    def statements(self) -> tuple[list[_Statement], list[tuple[_Statement, _Statement]]]:
        """What to execute; and pairs of which the second is needed where the first met no row."""
        plain: list[_Statement] = []
        for id in self._dropped:
            plain += [
                ("DELETE FROM device WHERE id = ?", (id,)),
                ("DELETE FROM device_attr WHERE deviceid = ?", (id,)),
                ("DELETE FROM device_twin WHERE deviceid = ?", (id,)),
            ]
        plain += [(_PUT_DEVICE, _device_values(device)) for device in self._devices.values()]
        pairs = []
        for device, name in self._twins.values():
            values = (*_twin_values(device.twins[name], name in device.unconfirmed), device.id, name)
            pairs.append(((_UPDATE_TWIN, values), (_INSERT_TWIN, values)))
        for (id, name), device in self._attributes.items():
            attribute = device.attributes.get(name)
            if attribute is None:
                plain.append(("DELETE FROM device_attr WHERE deviceid = ? AND name = ?", (id, name)))
                continue
            type = attribute.metadata.type if attribute.metadata is not None else ""
            set_values = (attribute.value, attribute.optional is not False, type, id, name)
            pairs.append(((_UPDATE_ATTRIBUTE, set_values), (_INSERT_ATTRIBUTE, set_values)))
        return plain, pairs


class Rows:
    """The tables; one per devicetwin."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def commit(self, batch: Batch) -> None:
        """All of it or nothing; it is on disk when this returns."""
        plain, pairs = batch.statements()

        def work(connection: sqlite3.Connection) -> None:
            for statement, values in plain:
                connection.execute(statement, values)
            for (update, values), (insert, inserted) in pairs:
                if not connection.execute(update, values).rowcount:
                    connection.execute(insert, inserted)

        await self._database.write(work)

    async def load(self) -> list[Device]:
        """Every device with its attributes and twins."""
        return await self._database.read(_load)

    async def told(self, digests: Mapping[str, str]) -> None:
        """What the mappers of these devices were last told."""
        values = [(digest, id) for id, digest in digests.items()]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("UPDATE device SET told = ? WHERE id = ?", values)

        await self._database.write(work)

    async def keep_mapper(self, row: MapperRow) -> None:
        """In place of whoever served the protocol before."""

        def work(connection: sqlite3.Connection) -> None:
            for key, older in _mappers(connection):
                if older.protocol == row.protocol:
                    connection.execute("DELETE FROM meta WHERE key = ?", (key,))
            connection.execute(
                "INSERT OR REPLACE INTO meta (key, type, value) VALUES (?, ?, ?)",
                (_mapper_key(row.name), ResourceType.DEVICE_MAPPER, _encode(row).decode()),
            )

        await self._database.write(work)

    async def mappers(self) -> list[MapperRow]:
        """The newest registration of each protocol."""
        rows = await self._database.read(lambda connection: [row for _, row in _mappers(connection)])
        newest = {row.protocol: row for row in sorted(rows, key=lambda row: row.registered)}
        return list(newest.values())


def _mapper_key(name: str) -> str:
    """wire: Go's key, in which the first three words are just words."""
    return f"node/nodeID/namespace/{ResourceType.DEVICE_MAPPER}/{name}"


def _mappers(connection: sqlite3.Connection) -> Iterable[tuple[str, MapperRow]]:
    found = []
    query = "SELECT key, value FROM meta WHERE type = ?"
    for key, value in connection.execute(query, (ResourceType.DEVICE_MAPPER,)).fetchall():
        try:
            found.append((key, msgspec.json.decode(value, type=MapperRow)))
        except msgspec.MsgspecError as error:
            log.error("the registration of a mapper kept as %s cannot be read: %s", key, error)
    return found


def _device_values(device: Device) -> tuple[object, ...]:
    return (
        device.id, device.name, device.description, device.state, device.last_online, device.uid,
        device.state_unconfirmed, device.told,
    )  # fmt: skip


def _twin_values(record: Record, unconfirmed: bool) -> tuple[object, ...]:
    expected, actual = record.expected, record.actual
    return (
        expected.value if expected is not None else None, actual.value if actual is not None else None,
        _meta_text(expected), _meta_text(actual), _version_text(expected), _version_text(actual),
        record.optional, record.type, "" if record.merge == NO_MERGE else _encode(record.merge).decode(), unconfirmed,
    )  # fmt: skip


def _meta_text(value: Value | None) -> str:
    return "" if value is None or value.value is None else f'{{"timestamp":{value.timestamp}}}'


def _version_text(value: Value | None) -> str:
    return "" if value is None else f'{{"cloud":{value.cloud},"edge":{value.edge}}}'


def _load(connection: sqlite3.Connection) -> list[Device]:
    devices: dict[str, Device] = {}
    for id, name, description, state, last_online, uid, unconfirmed, told in connection.execute(
        "SELECT id, name, description, state, last_online, uid, unconfirmed, told FROM device ORDER BY id"
    ):
        devices[id] = Device(
            id, name or id, description or "", state or "", last_online or "", uid,
            state_unconfirmed=bool(unconfirmed), told=told,
        )  # fmt: skip
    for id, name, value, optional, type in connection.execute(
        "SELECT deviceid, name, value, optional, attr_type FROM device_attr"
    ):
        if id in devices:
            devices[id].attributes[name] = Attribute(value or "", bool(optional), TypeMetadata(type or ""))
    query = f"SELECT deviceid, name, {', '.join(_TWIN_COLUMNS)} FROM device_twin ORDER BY id"  # noqa: S608
    for id, name, *columns in connection.execute(query):
        if id in devices:
            _load_twin(devices[id], name, columns)
    return list(devices.values())


def _load_twin(device: Device, name: str, columns: list[object]) -> None:
    expected, actual, expected_meta, actual_meta, expected_version, actual_version, optional, type, merge, told = (
        columns
    )
    try:
        record = Record(
            type=str(type or ""),
            optional=bool(optional),
            expected=_value(expected, expected_meta, expected_version),
            actual=_value(actual, actual_meta, actual_version),
            merge=_merge.decode(str(merge)) if merge else NO_MERGE,
        )
    except msgspec.MsgspecError as error:
        log.error("the twin %s of %s kept on disk cannot be read: %s", name, device.id, error)
        return
    device.twins[name] = record
    if told:
        device.unconfirmed.add(name)


def _value(value: object, metadata: object, version: object) -> Value | None:
    """wire: Go writes an empty text where there is no value."""
    if not version and not value:
        return None
    numbers = _version.decode(str(version)) if version else TwinVersion()
    timestamp = _metadata.decode(str(metadata)).timestamp if metadata else 0
    text = None if value is None or (value == "" and not metadata) else str(value)
    return Value(text, timestamp, numbers.cloud, numbers.edge)
