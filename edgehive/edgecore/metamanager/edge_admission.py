"""What applications at the edge may write: Devices of this node and the models made for them.

A refusal is one sentence that names the field and who may write it. Go's MetaServer passes every write to the cloud;
ours takes these while the cloud is away, so it says no before anything acts on a write that the cloud would refuse.
"""

from collections import Counter
from typing import Any

import msgspec

from edgehive.api.registry import DEVICE_MODELS, DEVICES
from edgehive.kube.errors import BadRequest, Forbidden, RequestTooLarge, invalid
from edgehive.kube.server import schema
from edgehive.kube.server.options import Call
from edgehive.wire import device_edits
from edgehive.wire.device_edits import CREATED_ANNOTATION, CREATOR_ANNOTATION

Json = dict[str, Any]

#: Bytes of one object written at the edge; an edit carries two, and the cloud's API takes 1.5 MiB.
SIZE_LIMIT = 512 * 1024
_OURS = "edgehive.io/"
_OTHERS = ("finalizers", "ownerReferences")


class EdgeAdmission:
    """Implements `kube.server.admission.Admission` for one node."""

    def __init__(self, node: str) -> None:
        self._node = node

    def admit(self, call: Call, obj: Json, old: Json | None) -> None:
        """Raises Forbidden, BadRequest, RequestTooLarge."""
        row = call.served.resource
        if len(msgspec.json.encode(obj)) > SIZE_LIMIT:
            raise RequestTooLarge(f"{row.kind} {call.name} is larger than {SIZE_LIMIT} bytes; make it smaller")
        _check_shape(call, obj)
        for field in _OTHERS:
            if (obj["metadata"].get(field) or []) != ((old or {}).get("metadata", {}).get(field) or []):
                raise Forbidden(f"metadata.{field} of {row.plural} is written in the cloud only; leave it as it is")
        _keep_annotations(obj, old)
        _check_annotations(obj, old)
        if row.plural == DEVICES.plural:
            self._admit_device(obj, old)
        elif row.plural == DEVICE_MODELS.plural:
            self.check_model(old)
        _check_properties(obj, old)
        if old is None:
            self._mark(obj, row.plural)

    def _admit_device(self, obj: Json, old: Json | None) -> None:
        spec = obj.get("spec") or {}
        bound = spec.get("nodeName") or ""
        if old is not None:
            if "status" in old:
                obj.setdefault("status", old["status"])
            if obj.get("status") != old.get("status"):
                raise Forbidden("status of a Device is written by cloudcore; what a device reports comes by its mapper")
            if bound != ((old.get("spec") or {}).get("nodeName") or ""):
                raise Forbidden("spec.nodeName is written in the cloud only: it decides which node has the device")
            return
        obj.pop("status", None)
        if bound not in ("", self._node):
            raise Forbidden(
                f"spec.nodeName is {bound!r}, and only devices of node {self._node} are made here; "
                "leave it out, or make the device in the cloud"
            )
        obj["spec"] = {**spec, "nodeName": self._node}

    def check_model(self, old: Json | None) -> None:
        """A model of the cloud may serve other nodes; raises Forbidden."""
        if old is not None and device_edits.annotation(old, CREATOR_ANNOTATION) != self._node:
            raise Forbidden(
                f"DeviceModel {old['metadata']['name']} was not made at node {self._node} and may serve other nodes; "
                "change it in the cloud, or make one of another name here"
            )

    def _mark(self, obj: Json, plural: str) -> None:
        notes = {CREATED_ANNOTATION: obj["metadata"]["uid"]}
        if plural == DEVICE_MODELS.plural:
            notes[CREATOR_ANNOTATION] = self._node
        obj["metadata"] = device_edits.with_annotations(obj, notes)["metadata"]


def _keep_annotations(obj: Json, old: Json | None) -> None:
    """A whole object that is written without them, as from somebody's file, leaves them as they are."""
    missing = {name: value for name, value in _reserved(old).items() if name not in _reserved(obj)}
    if missing:
        obj["metadata"] = device_edits.with_annotations(obj, missing)["metadata"]


def _check_annotations(obj: Json, old: Json | None) -> None:
    """Those of ours say who may do what; nobody gives that to himself."""
    before, after = (_reserved(one) for one in (old, obj))
    if before != after:
        name = sorted(before.items() ^ after.items())[0][0]
        raise Forbidden(f"annotation {name} is written in the cloud only; leave it as it is")


def _check_shape(call: Call, obj: Json) -> None:
    """What follows reads the object as its schema has it; raises Invalid."""
    custom, row = call.served.custom, call.served.resource
    causes = schema.validate(custom.schema, obj) if custom is not None and custom.schema else []
    if causes:
        raise invalid(row.kind, row.group, str(obj["metadata"].get("name") or ""), causes)


def _reserved(obj: Json | None) -> dict[str, str]:
    notes = ((obj or {}).get("metadata") or {}).get("annotations") or {}
    found = notes if isinstance(notes, dict) else {}
    return {name: str(value) for name, value in found.items() if name.startswith(_OURS)}


def _check_properties(obj: Json, old: Json | None) -> None:
    listed = (obj.get("spec") or {}).get("properties") or []
    for name, count in Counter(str(one.get("name") or "") for one in listed).items():
        if not name:
            raise BadRequest("spec.properties holds one without a name; give each a name of its own")
        if count > 1:
            raise BadRequest(f"spec.properties holds {name!r} {count} times; give each a name of its own")
    after, before = device_edits.properties(obj), device_edits.properties(old)
    for name, one in before.items():
        if name in after and device_edits.desired_of(one) and not device_edits.desired_of(after[name]):
            raise BadRequest(
                f"the desired value of property {name!r} is taken away, which only the cloud does; set another one"
            )
