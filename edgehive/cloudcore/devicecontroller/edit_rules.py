"""What a node may write of Devices and DeviceModels, and what comes of an edit: decision record 0023. Pure.

A node writes Devices that are bound to it and models that were made at it, whatever it claims about itself.
"""

from typing import Any

import msgspec

from edgehive.api.device_faults import shown
from edgehive.api.registry import DEVICE_MODELS, DEVICES, ApiResource
from edgehive.kube.errors import AlreadyExists, BadRequest, Forbidden
from edgehive.wire import device_edits
from edgehive.wire.device_edits import (
    CREATED_ANNOTATION,
    CREATOR_ANNOTATION,
    NUMBER_ANNOTATION,
    Edit,
    Json,
    Lost,
)

#: Devices one node may have, and models that were made at it, before it makes no more of them.
DEVICE_LIMIT, MODEL_LIMIT = 20_000, 1000
#: Parts named in one condition.
PARTS_SHOWN = 5
_RESERVED = "edgehive.io/"


def check_wanted(kind: ApiResource, node: str, edit: Edit) -> None:
    """The object as the edge wants it; raises BadRequest, Forbidden."""
    local = edit.local
    if local is None:
        return
    if not isinstance(local.get("spec"), dict) or not isinstance(local.get("metadata"), dict):
        raise BadRequest(f"what node {node} wrote of a {kind.kind} has no metadata and spec")
    if kind is DEVICES and node_of(local) != node:
        raise Forbidden(f"node {node} may not give a Device to {node_of(local) or 'no node'}")


def node_of(obj: Json) -> str:
    return str((obj.get("spec") or {}).get("nodeName") or "")


def is_same_life(edit: Edit, current: Json) -> bool:
    """Whether the edit is about this object, under the uid it had at the edge or the one it has."""
    return edit.uid in (current["metadata"].get("uid"), device_edits.annotation(current, CREATED_ANNOTATION))


def check_device(node: str, edit: Edit, current: Json) -> None:
    """Raises Forbidden, AlreadyExists."""
    bound, name = node_of(current), _name(current)
    if bound == node:
        return
    if edit.base is None:
        raise AlreadyExists(f"Device {name} exists already and is bound to {bound or 'no node'}; take another name")
    raise Forbidden(f"node {node} may not write Device {name}, which is bound to {bound or 'no node'}")


def check_model(node: str, edit: Edit, current: Json, *, used_elsewhere: bool) -> None:
    """Raises Forbidden, AlreadyExists."""
    name = _name(current)
    if device_edits.annotation(current, CREATOR_ANNOTATION) != node:
        if edit.base is None:
            raise AlreadyExists(f"DeviceModel {name} exists already and is another one; take another name")
        raise Forbidden(f"node {node} may not write DeviceModel {name}, which was not made at it")
    if used_elsewhere:
        raise Forbidden(f"node {node} may not write DeviceModel {name} any more: devices of other nodes have it, too")


def _name(obj: Json) -> str:
    return f"{obj['metadata'].get('namespace')}/{obj['metadata'].get('name')}"


def new_object(kind: ApiResource, node: str, namespace: str, name: str, edit: Edit) -> Json:
    """What is created for an object that was made at the edge."""
    local: Json = edit.local or {}
    meta: Json = local.get("metadata") or {}
    notes = _open_only(meta.get("annotations")) | {CREATED_ANNOTATION: edit.uid, NUMBER_ANNOTATION: str(edit.number)}
    if kind is DEVICE_MODELS:
        notes[CREATOR_ANNOTATION] = node
    metadata: Json = {"name": name, "namespace": namespace, "annotations": notes}
    if meta.get("labels"):
        metadata["labels"] = meta["labels"]
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, "spec": local.get("spec") or {}}


def _open_only(notes: Any) -> dict[str, str]:
    given = notes if isinstance(notes, dict) else {}
    return {str(name): str(value) for name, value in given.items() if not str(name).startswith(_RESERVED)}


def with_edit(edit: Edit, local: Json, current: Json) -> tuple[Json, list[Lost]]:
    """The object with what of the edit stands, and what lost."""
    base = edit.base
    after = device_edits.merged(base, local, current)
    obj = device_edits.with_annotations(after.object, {NUMBER_ANNOTATION: str(edit.number)})
    if base is None and not device_edits.annotation(current, CREATED_ANNOTATION):
        # Made on both sides: it lives on at the edge under this uid.
        obj = device_edits.with_annotations(obj, {CREATED_ANNOTATION: edit.uid})
    return obj, [*edit.lost, *after.lost]


def lost_text(lost: list[Lost]) -> str:
    """For a condition and an Event: nobody is to wonder where a value went."""
    said = []
    for one in lost[:PARTS_SHOWN]:
        loser, winner = ("edge", "cloud") if one.winner == "cloud" else ("cloud", "edge")
        value = "nothing" if one.value is None else shown(_text(one.value))
        said.append(f"{one.part} was made {value} at the {loser} and otherwise in the {winner}, whose word stands")
    if len(lost) > PARTS_SHOWN:
        said.append(f"and {len(lost) - PARTS_SHOWN} more")
    return "; ".join(said)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


KEPT_TEXT = "it was deleted at the edge, which had not seen what the cloud has changed since; it is kept"
