"""Desired values that were set at the edge: taken into the Device when the cloud has said nothing else (decision 0021).

The edge decides who wins; here its word is written down. A value is taken only where the Device still says what the
edge saw, under the Device's version, so that nothing is overwritten unseen. A conflict is shown on the Device.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from edgehive.api.device_faults import VALUE_LIMIT, shown
from edgehive.api.document import Document
from edgehive.api.registry import DEVICES
from edgehive.cloudcore.devicecontroller.conditions import Conditions, ConditionType, Finding
from edgehive.kube.client import Client, PatchType
from edgehive.wire.devices import Conflict, Twin

Json = dict[str, Any]

CONFLICT_ANNOTATION = "edgehive.io/desired-conflict"


class Wish(NamedTuple):
    """The edge's desired value of a property, and the cloud's that it knew (None: there was none)."""

    value: str
    base: str | None


def wishes_of(twins: Mapping[str, Twin | None], properties: Iterable[str]) -> dict[str, Wish]:
    """What was set at the edge and has not lost against the cloud."""
    found: dict[str, Wish] = {}
    for name in properties:
        twin = twins.get(name)
        if twin is None or twin.local is None or twin.expected is None or twin.expected.value is None:
            continue
        lost = twin.local.conflict is not None and twin.local.conflict.winner == "cloud"
        if not lost and len(twin.expected.value) <= VALUE_LIMIT:
            found[name] = Wish(twin.expected.value, twin.local.base)
    return found


def conflicts_of(twins: Mapping[str, Twin | None], properties: Iterable[str]) -> dict[str, Conflict]:
    """Values that lost, and to whom."""
    told = {name: twin.local.conflict for name in properties if (twin := twins.get(name)) and twin.local}
    return {name: conflict for name, conflict in told.items() if conflict is not None}


def with_wishes(properties: list[Json], wishes: Mapping[str, Wish], taken: Mapping[str, str]) -> list[Json]:
    """The properties of a Device with the values it takes; those it says something else about stay.

    `taken` are values that came from the edge before: it may not have seen yet that they were taken.
    """
    return [_with_wish(one, wishes.get(name), taken.get(name)) for one in properties if (name := str(one.get("name")))]


def _with_wish(one: Json, wish: Wish | None, taken: str | None) -> Json:
    desired = one.get("desired") or {}
    # An empty value and none are the same to an edge.
    present = desired.get("value") or None
    if wish is None or present == wish.value or present not in (wish.base or None, taken or wish.base or None):
        return one
    return one | {"desired": desired | {"value": wish.value}}


class DesiredValues:
    """Writes them to Devices."""

    def __init__(self, client: Client, conditions: Conditions) -> None:
        self._client = client
        self._conditions = conditions
        #: The version a Device got by what was written here, by its uid.
        self._written: dict[str, str] = {}
        #: Values that were taken from the edge, by uid and property.
        self._taken: dict[str, dict[str, str]] = {}

    async def agree(self, device: Document, wishes: Mapping[str, Wish], conflicts: Mapping[str, Conflict]) -> str:
        """Take over what can be; gives the version of the Device this was held against. Raises ApiError."""
        meta, body = device.meta, device.to_dict()
        before = body.get("spec", {}).get("properties") or []
        taken = self._taken.get(meta.uid, {})
        after = with_wishes(before, wishes, taken)
        patch: Json = {} if after == before else {"spec": {"properties": after}}
        annotation = msgspec.json.encode(conflicts).decode()
        news = bool(conflicts) and (meta.annotations or {}).get(CONFLICT_ANNOTATION) != annotation
        if not patch and not news:
            return meta.resource_version
        patch["metadata"] = {"resourceVersion": meta.resource_version}
        if news:
            patch["metadata"]["annotations"] = {CONFLICT_ANNOTATION: annotation}
        answer = await self._client.patch(DEVICES, meta.name, patch, meta.namespace, type=PatchType.MERGE)
        self._written[meta.uid] = answer.meta.resource_version
        if wishes:
            self._taken[meta.uid] = taken | {name: wish.value for name, wish in wishes.items()}
        if news:
            self._conditions.find(answer, _finding(conflicts))
        return answer.meta.resource_version

    def settle(self, device: Document) -> None:
        """The Device was changed; by somebody else than us that ends a conflict there was."""
        meta = device.meta
        if self._written.get(meta.uid) != meta.resource_version:
            said = "the Device was changed since"
            settled = Finding(ConditionType.DESIRED_AGREED, True, "Settled", said, ends=CONFLICT_ANNOTATION)
            self._conditions.find(device, settled)

    def forget(self, device: Document) -> None:
        self._written.pop(device.meta.uid, None)
        self._taken.pop(device.meta.uid, None)


def _finding(conflicts: Mapping[str, Conflict]) -> Finding:
    said = [
        f"property {shown(name)}: the desired value {shown(conflict.value or '')} gave way to the "
        f"{'edge' if conflict.winner == 'edge' else 'cloud'}'s"
        for name, conflict in conflicts.items()
    ]
    return Finding(ConditionType.DESIRED_AGREED, False, "DesiredValueConflict", "; ".join(said))
