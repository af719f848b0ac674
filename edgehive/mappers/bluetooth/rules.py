"""What happens at a device by itself, in the words of the 2019 mapper: actions, schedules and the watcher.

    mqtt             the broker of the runtime topics: tcp://127.0.0.1:1883, or as in 2019 {mode, server,
                     internal-server}
    action-manager   {actions: [{name, device-property-name, perform-immediately}]}
    scheduler        {schedules: [{name, interval, occurrence-limit, actions}]}
    watcher          {device-twin-attributes: [{device-property-name, actions}]}

They stand in a device's `configData`, or in the file that `configFile` there names, which is a `config.yaml` of 2019.
Names of actions, schedules and properties are the same in small and large letters, as then.

Go: mappers/bluetooth_mapper/{configuration,action_manager,scheduler,watcher} (until 1.7)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml

from edgehive.mappers.bluetooth.conversion import bytes_of, listed, shown, structure, uuid_of

FILE_LIMIT = 1024 * 1024
#: Milliseconds between two rounds of a schedule that says nothing, and at least.
DEFAULT_INTERVAL, SHORTEST_INTERVAL = 5000, 10
#: Actions, or schedules, in one list.
LIST_LIMIT = 256
_KEYS = ("configFile", "mqtt", "action-manager", "scheduler", "watcher")
_BROKERS = {0: ("internal-server", "tcp://127.0.0.1:1884"), 1: ("server", "tcp://127.0.0.1:1883")}
_SCHEMES = ("tcp", "mqtt", "ssl", "tls", "mqtts", "tcps")
T = TypeVar("T")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class Operation(msgspec.Struct, frozen=True, rename="kebab"):
    """What an action does, where it names no property."""

    characteristic_uuid: str
    #: read or write, in any letters.
    action: str = "read"
    value: str | list[int] | None = None


class Action(msgspec.Struct, frozen=True, rename="kebab"):
    """One reading or writing."""

    name: Name
    property: str = msgspec.field(default="", name="device-property-name")
    perform_immediately: bool = False
    operation: Operation | None = None


class Schedule(msgspec.Struct, frozen=True, rename="kebab"):
    """Actions in a row, again and again."""

    name: Name
    actions: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=LIST_LIMIT)]
    #: Milliseconds; 0: the default.
    interval: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    #: 0: for ever.
    occurrence_limit: Annotated[int, msgspec.Meta(ge=0)] = 0

    @property
    def seconds(self) -> float:
        return max(self.interval or DEFAULT_INTERVAL, SHORTEST_INTERVAL) / 1000


class Watched(msgspec.Struct, frozen=True, rename="kebab"):
    """What is done when this property is to have another value."""

    property: Name = msgspec.field(name="device-property-name")
    actions: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=LIST_LIMIT)]


class _Watcher(msgspec.Struct, rename="kebab"):
    device_twin_attributes: Annotated[list[Watched], msgspec.Meta(max_length=LIST_LIMIT)] = []


class _Named(msgspec.Struct):
    name: Name


@dataclass(slots=True)
class Rules:
    """Keys are names in small letters."""

    actions: dict[str, Action] = field(default_factory=dict)
    schedules: dict[str, Schedule] = field(default_factory=dict)
    watched: dict[str, Watched] = field(default_factory=dict)

    def action(self, name: str, who: str) -> Action:
        """Raises ValueError."""
        found = self.actions.get(name.casefold())
        if found is None:
            known = listed([item.name for item in self.actions.values()])
            raise ValueError(f"{who}: there is no action {name!r}; there are: {known}")
        return found


def is_automatic(config: Mapping[str, Any]) -> bool:
    return any(key in config for key in _KEYS)


def with_file(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with what its `configFile` has besides; raises ValueError."""
    if "configFile" not in config:
        return config
    path = Path(str(config["configFile"]))
    try:
        with path.open("rb") as file:
            told = yaml.safe_load(_within_limit(file.read(FILE_LIMIT + 1)))
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise ValueError(f"configFile {path} cannot be read: {why}") from error
    if not isinstance(told, dict):
        raise ValueError(f"configFile {path} is no document like the bluetooth mapper's config.yaml")
    model = str(told.get("device-model-name", ""))
    # Devices of 2019 are told by their model's name.
    named = (
        {} if "macAddress" in config or "localName" in config or not model else {"localName": model.replace("-", " ")}
    )
    return {**told, **named, **config}


def broker_of(config: Mapping[str, Any]) -> str:
    """The broker's address, "" without one; raises ValueError."""
    told = config.get("mqtt", "")
    if isinstance(told, dict) and told.get("mode", 0) in _BROKERS:
        key, default = _BROKERS[told.get("mode", 0)]
        told = told.get(key) or default
    if not isinstance(told, str) or (told and not _is_address(told)):
        raise ValueError(f"mqtt is {shown(told)}, no address like tcp://127.0.0.1:1883, and has no mode 0 or 1")
    return told


def _is_address(text: str) -> bool:
    try:
        place = urlsplit(text)
        return place.scheme in _SCHEMES and bool(place.hostname) and place.port != 0
    except ValueError:
        return False


def rules_of(config: Mapping[str, Any]) -> Rules:
    """Raises ValueError."""
    rules = Rules()
    rules.actions = actions_of(_section(config, "action-manager", "actions"))
    rules.schedules = schedules_of(_section(config, "scheduler", "schedules"), rules)
    rules.watched = watched_of(structure(config, "watcher") or {}, rules)
    return rules


def actions_of(told: Any) -> dict[str, Action]:
    """Raises ValueError."""
    found = _keyed(_converted(told, list[Action], "actions"), "actions")
    for item in found.values():
        if bool(item.property) == bool(item.operation):
            raise ValueError(f"action {item.name!r} needs device-property-name, or an operation in its place")
        if item.operation is not None:
            _require_operation(item.name, item.operation)
    return found


def schedules_of(told: Any, rules: Rules) -> dict[str, Schedule]:
    """Raises ValueError, also for an action that is not there."""
    found = _keyed(_converted(told, list[Schedule], "schedules"), "schedules")
    for item in found.values():
        for name in item.actions:
            rules.action(name, f"schedule {item.name!r}")
    return found


def watched_of(told: Any, rules: Rules) -> dict[str, Watched]:
    """Raises ValueError, also for an action that is not there."""
    found: dict[str, Watched] = {}
    for item in _converted(told, _Watcher, "watcher").device_twin_attributes:
        for name in item.actions:
            rules.action(name, f"watcher of {item.property!r}")
        if item.property.casefold() in found:
            raise ValueError(f"watcher: property {item.property!r} is there twice")
        found[item.property.casefold()] = item
    return found


def names_of(told: Any) -> list[str]:
    """What is to be deleted; raises ValueError."""
    return [item.name for item in _converted(told, list[_Named], "names")]


def written_by(operation: Operation) -> bytes | None:
    """What it writes; None: it reads."""
    return bytes_of(operation.value, "value") if operation.action.casefold() == "write" else None


def _require_operation(name: str, operation: Operation) -> None:
    if operation.action.casefold() not in ("read", "write"):
        raise ValueError(f"action {name!r}: its operation {shown(operation.action)} is neither read nor write")
    try:
        uuid_of(operation.characteristic_uuid, "characteristic-uuid")
        written_by(operation)
    except ValueError as error:
        raise ValueError(f"action {name!r}: {error}") from None


def _section(config: Mapping[str, Any], name: str, items: str) -> Any:
    return (structure(config, name) or {}).get(items) or []


def _converted(told: Any, type: type[T], what: str) -> T:
    try:
        found = msgspec.convert(_lowered(told), type)
    except msgspec.ValidationError as error:
        raise ValueError(f"{what}: {str(error)[:300]}") from None
    if isinstance(found, list) and len(found) > LIST_LIMIT:
        raise ValueError(f"{what}: {len(found)} of them are too many; the limit is {LIST_LIMIT}")
    return found


def _lowered(told: Any) -> Any:
    """Keys in small letters: Go's programs write `Actions` and read either."""
    if isinstance(told, dict):
        return {str(key).lower(): _lowered(item) for key, item in told.items()}
    return [_lowered(item) for item in told] if isinstance(told, list) else told


def _keyed(items: list[Any], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        if item.name.casefold() in found:
            raise ValueError(f"{what}: {item.name!r} is there twice")
        found[item.name.casefold()] = item
    return found


def _within_limit(data: bytes) -> bytes:
    if len(data) > FILE_LIMIT:
        raise ValueError(f"it is longer than {FILE_LIMIT} bytes")
    return data
