"""What was written at the edge about Devices and DeviceModels, and how it is merged with the cloud's word. Pure.

An edit carries the object as the edge wants it and the cloud's object it was made on. Both sides merge with `merged`,
so both come to the same result: every part of an object is merged by itself, and who wins where both sides wrote is
decision 0023. Desired values of properties the cloud knows are no part of it: decision 0021 merges those.

    edge  -> cloud   patch      <ns>/device/<name>    an Edit (likewise devicemodel)
    cloud -> edge    response   <ns>/device/<name>    the object as it is now, "OK" where there is none, or an error
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from edgehive.beehive.message import Message
from edgehive.wire.names import Group, Operation, ResourceType, Source

Json = dict[str, Any]

#: The uid an object had at the edge that made it, until the cloud gave it one.
CREATED_ANNOTATION = "edgehive.io/created-at-edge"
#: The node at which a DeviceModel was made, which may go on writing it.
CREATOR_ANNOTATION = "edgehive.io/created-by-node"
#: The number of the last edit that is in the object.
NUMBER_ANNOTATION = "edgehive.io/edge-version"
#: Names the parts of a Device's definition that the edge owns, comma-separated, or `*`.
OWNED_DEFINITION_ANNOTATION = "edgehive.io/edge-owned-definition"
#: Annotations of these say who may do what, or what was found: the cloud's.
_RESERVED = "edgehive.io/"
#: Rewritten by every `kubectl apply`; a conflict in it is one about the parts it repeats.
_UNTOLD = frozenset({"annotations.kubectl.kubernetes.io/last-applied-configuration"})
#: Characters of a value that lost.
LOST_SHOWN = 4096
TYPES = frozenset({ResourceType.DEVICE, ResourceType.DEVICE_MODEL})


class Lost(msgspec.Struct, frozen=True):
    """A part that both sides wrote: its name, the value that is gone, and whose stands (`edge` or `cloud`)."""

    part: str
    value: Any
    winner: str


class Edit(msgspec.Struct, frozen=True, omit_defaults=True):
    """One object as written at the edge; `local` None: deleted there, `base` None: the cloud had none."""

    uid: str
    number: int
    base: Json | None = None
    local: Json | None = None
    #: What lost at the edge before it could be told.
    lost: tuple[Lost, ...] = ()


class Merged(msgspec.Struct, frozen=True):
    """The object both sides go on with, and what lost."""

    object: Json
    lost: list[Lost]


def message(path: str, edit: Edit, *, timestamp: int) -> Message:
    """The edit for the cloud."""
    return Message.of(
        source=Source.META_SERVER,
        group=Group.RESOURCE,
        operation=Operation.PATCH,
        resource=path,
        content=edit,
        timestamp=timestamp,
    )


def annotation(obj: Mapping[str, Any] | None, name: str) -> str:
    notes = ((obj or {}).get("metadata") or {}).get("annotations") or {}
    return str(notes.get(name) or "")


def number_of(obj: Mapping[str, Any] | None) -> int:
    """The number of the last edit that is in the object."""
    text = annotation(obj, NUMBER_ANNOTATION)
    return int(text) if text.isdecimal() and len(text) < 20 else 0


def with_annotations(obj: Json, notes: Mapping[str, str]) -> Json:
    """The object with these annotations, too."""
    metadata = dict(obj.get("metadata") or {})
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **notes}
    return {**obj, "metadata": metadata}


# Parts


def parts(obj: Mapping[str, Any] | None, *, known: frozenset[str] = frozenset()) -> Json:
    """What is merged each by itself, by name. `known`: properties whose desired values are merged elsewhere."""
    if obj is None:
        return {}
    found: Json = {}
    for key, value in (obj.get("spec") or {}).items():
        if key != "properties":
            found[f"spec.{key}"] = value
    for name, one in properties(obj).items():
        found[f"properties.{name}"] = {
            key: value for key, value in one.items() if key != "desired" or name not in known
        }
    metadata = obj.get("metadata") or {}
    for group in ("labels", "annotations"):
        for key, value in (metadata.get(group) or {}).items():
            if not key.startswith(_RESERVED):
                found[f"{group}.{key}"] = value
    return found


def properties(obj: Mapping[str, Any] | None) -> dict[str, Json]:
    """By name; of several with one name the first counts."""
    found: dict[str, Json] = {}
    for one in ((obj or {}).get("spec") or {}).get("properties") or ():
        if isinstance(one, dict):
            found.setdefault(str(one.get("name") or ""), one)
    return found


def desired_of(one: Mapping[str, Any]) -> str | None:
    value = (one.get("desired") or {}).get("value")
    return None if value is None else str(value)


def same_definition(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Apart from desired values of properties that both have."""
    known = frozenset(properties(one)) & frozenset(properties(other))
    return parts(one, known=known) == parts(other, known=known)


def edge_owns(obj: Mapping[str, Any]) -> Callable[[str], bool]:
    """Which parts the cloud's object leaves to the edge: by full name, or without `spec.`."""
    names = {name.strip() for name in annotation(obj, OWNED_DEFINITION_ANNOTATION).split(",")} - {""}
    return lambda part: "*" in names or part in names or part.removeprefix("spec.") in names


# Merging


def merged(base: Json | None, local: Json, current: Json) -> Merged:
    """What the edge made of `base`, brought into what the cloud has now."""
    known = frozenset(properties(base)) & frozenset(properties(current))
    was, here, there = (parts(obj, known=known) for obj in (base, local, current))
    if base is None:
        # Made on both sides: the desired values of a property that both have are the cloud's.
        here, there = (parts(obj, known=frozenset(properties(current))) for obj in (local, current))
    owned = edge_owns(current)
    changes: Json = {}
    lost: list[Lost] = []
    for part in sorted(here.keys() | there.keys() | was.keys()):
        before, mine, theirs = was.get(part), here.get(part), there.get(part)
        if mine in (before, theirs):
            continue
        if theirs == before or owned(part):
            changes[part] = mine
        if theirs != before and part not in _UNTOLD:
            winner = "edge" if owned(part) else "cloud"
            lost.append(Lost(part, _brief(theirs if winner == "edge" else mine), winner))
    return Merged(_with(current, changes), lost)


def _brief(value: Any) -> Any:
    """What is gone is told, and told with the next edit, too: as much of it as anybody reads."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return value if len(text) <= LOST_SHOWN else text[:LOST_SHOWN]


def _with(current: Json, changes: Json) -> Json:
    """The object with these parts; None takes one away."""
    spec, metadata = dict(current.get("spec") or {}), current.get("metadata") or {}
    defined: dict[str, Json | None] = {}
    notes = {group: dict(metadata.get(group) or {}) for group in ("labels", "annotations")}
    for part, value in changes.items():
        group, _, name = part.partition(".")
        if group == "spec":
            _put(spec, name, value)
        elif group == "properties":
            defined[name] = value
        else:
            _put(notes[group], name, value)
    listed = _with_properties(spec.get("properties") or (), defined)
    if listed or "properties" in spec:
        spec["properties"] = listed
    metadata = metadata | {group: kept for group, kept in notes.items() if kept or group in metadata}
    return {**current, "metadata": metadata, "spec": spec}


def _put(holder: Json, name: str, value: Any) -> None:
    if value is None:
        holder.pop(name, None)
    else:
        holder[name] = value


def _with_properties(listed: Sequence[Json], changes: Mapping[str, Json | None]) -> list[Json]:
    """The list with these definitions; desired values stay where a definition brings none."""
    after, left = [], dict(changes)
    for one in listed:
        name = str(one.get("name") or "")
        if name not in left:
            after.append(one)
        elif (value := left.pop(name)) is not None:
            after.append(({"desired": one["desired"]} if "desired" in one else {}) | value)
    return after + [value for value in left.values() if value is not None]


def untouched(base: Json | None, current: Json) -> bool:
    """Whether nobody in the cloud has changed the object since: what decides whether a deletion here stands."""
    return base is not None and parts(base) == parts(current)
