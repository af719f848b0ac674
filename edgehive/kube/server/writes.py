"""create, update, patch and delete over a store: the order of steps, and what a race means.

Decoded body -> type and place -> server-owned metadata -> admission -> defaults -> validation -> store.
Conflicts the caller did not ask to see are retried on the fresh object.

Go: k8s.io/apiserver/pkg/registry/generic/registry/store.go, .../endpoints/handlers/patch.go
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from edgehive.api.meta import StatusDetails
from edgehive.kit.clock import Clock, rfc3339
from edgehive.kube import patch as patches
from edgehive.kube.client import PatchType
from edgehive.kube.errors import (
    AlreadyExists,
    BadRequest,
    NotFound,
    UnsupportedMediaType,
    already_exists,
    conflict,
    not_found,
)
from edgehive.kube.server import deletion, strategy, versions
from edgehive.kube.server.admission import Admission, admit_all, check_namespace_deletion
from edgehive.kube.server.deletion import Verdict
from edgehive.kube.server.options import Call, DeleteOptions
from edgehive.kube.server.reads import in_version, key_of
from edgehive.kube.server.rules import Rules
from edgehive.kube.store import Key, Stale, Store, Stored

Json = dict[str, Any]
Modify = Callable[[Json], Json]

_ATTEMPTS = 8
_NAME_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Removal:
    """What a DELETE left: the last or the lingering state."""

    stored: Stored
    gone: bool


class Writer:
    """The write verbs."""

    def __init__(self, store: Store, clock: Clock, admission: Sequence[Admission], rules: Rules) -> None:
        self._store = store
        self._clock = clock
        self._admission = admission
        self._rules = rules

    async def create(self, call: Call, body: Json) -> Stored:
        """Raises AlreadyExists, Invalid, BadRequest, NotFound (the namespace), Forbidden."""
        strategy.adopt_type(call.served, body)
        body = self._rules.shape(call, body)
        strategy.check_place(call, body)
        metadata = body["metadata"]
        base = "" if metadata.get("name") else metadata.get("generateName", "")
        for _ in range(_NAME_ATTEMPTS if base else 1):
            candidate = {**body, "metadata": dict(metadata)}
            if base:
                candidate["metadata"]["name"] = strategy.generated_name(base)
            try:
                return await self._create(call, candidate)
            except AlreadyExists as error:
                clash = error
        if base:
            raise AlreadyExists(
                f"{clash}, the server was not able to generate a unique name for the object",
                details=StatusDetails(
                    name=metadata.get("name", ""), group=call.served.resource.group, kind=call.served.resource.plural,
                    retry_after_seconds=1,
                ),
            ) from clash  # fmt: skip
        raise clash

    async def _create(self, call: Call, obj: Json) -> Stored:
        strategy.begin(call.served, obj, self._clock.now())
        self._rules.complete(call, obj)
        admit_all(self._admission, call, obj, None)
        strategy.require_name(call.served, obj)
        self._rules.check(call, obj, None)
        row, key = call.served.resource, key_of(call)._replace(name=obj["metadata"]["name"])
        if (present := self._store.get(key)) is not None:
            raise already_exists(
                row.plural, row.group, key.name, is_going=present.document.meta.deletion_timestamp is not None
            )
        if call.dry_run:
            return Stored(key, 0, msgspec.json.encode(obj))
        try:
            stored = await self._store.put(key, None, versions.stored_form(key.resource, obj))
            return in_version(call.served, stored)
        except Stale as error:
            raise already_exists(row.plural, row.group, key.name) from error

    async def update(self, call: Call, body: Json) -> tuple[Stored, bool]:
        """PUT; True when it created the object. Raises Conflict, NotFound, Invalid."""
        strategy.adopt_type(call.served, body)
        strategy.check_place(call, body)

        def change(old: Json) -> Json:
            shaped = self._rules.shape(call, body)
            strategy.check_version(call, old, shaped)
            return shaped

        pinned = body["metadata"].get("resourceVersion", "") not in ("", "0")
        try:
            return await self.modify(call, change, pinned=pinned), False
        except NotFound:
            if not call.served.create_on_update or call.subresource or pinned:
                raise
        body["metadata"].pop("resourceVersion", None)
        return await self.create(call, body), True

    async def patch(self, call: Call, kind: PatchType, patch: Mapping[str, Any] | Sequence[Any]) -> Stored:
        """Apply a patch to the newest object; raises Conflict only when the patch itself pins a version."""
        pinned = isinstance(patch, Mapping) and bool((patch.get("metadata") or {}).get("resourceVersion"))

        def change(old: Json) -> Json:
            new = apply_patch(call, kind, old, patch)
            strategy.adopt_type(call.served, new)
            new = self._rules.shape(call, new)
            strategy.check_place(call, new)
            strategy.check_version(call, old, new)
            return new

        return await self.modify(call, change, pinned=pinned)

    async def modify(self, call: Call, change: Modify, *, pinned: bool = False) -> Stored:
        """Read, change, write; again when someone was quicker, unless the caller pinned a version."""
        key, row = key_of(call), call.served.resource
        for _ in range(_ATTEMPTS):
            current = self._store.get(key)
            if current is None:
                raise not_found(row.plural, row.group, call.name)
            call.warnings.clear()
            old = in_version(call.served, current).to_dict()
            new = self._changed(call, old, change)
            if strategy.is_unchanged(old, new):
                return in_version(call.served, current)
            try:
                return in_version(call.served, await self._write(call, current, new))
            except Stale:
                if pinned:
                    break
        raise conflict(row.plural, row.group, call.name)

    def _changed(self, call: Call, old: Json, change: Modify) -> Json:
        wanted = change(msgspec.json.decode(msgspec.json.encode(old)))
        new = strategy.replaced(call.served, call.subresource, old, wanted)
        strategy.check_finalizers(call.served, old, new)
        self._rules.complete(call, new)
        admit_all(self._admission, call, new, old)
        if new.get("metadata", {}).get("finalizers") == []:
            del new["metadata"]["finalizers"]
        if call.subresource != "status":
            strategy.count_generation(call.served, old, new)
        if not strategy.is_unchanged(old, new):
            self._rules.check(call, new, old)
        return new

    async def _write(self, call: Call, current: Stored, new: Json) -> Stored:
        if call.dry_run:
            return Stored(current.key, 0, msgspec.json.encode(new))
        new = versions.stored_form(current.key.resource, new)
        if deletion.may_go(call.served.storage, new):
            return await self._store.remove(current.key, current, new)
        return await self._store.put(current.key, current, new)

    async def adjust(self, key: Key, change: Modify, *, dry_run: bool = False) -> Stored | None:
        """A change the server itself makes, past strategies and rules; None when the object is gone."""
        while (current := self._store.get(key)) is not None:
            old = current.to_dict()
            new = change(current.to_dict())
            if strategy.is_unchanged(old, new) or dry_run:
                return current
            try:
                if deletion.may_go(key.resource, new):
                    return await self._store.remove(key, current, new)
                return await self._store.put(key, current, new)
            except Stale:
                continue
        return None

    def now(self) -> str:
        """The instant as objects carry it."""
        return rfc3339(self._clock.now())

    async def delete(self, call: Call, options: DeleteOptions) -> Removal:
        """Raises NotFound, Conflict (a precondition), Forbidden."""
        check_namespace_deletion(call)
        row, key = call.served.resource, key_of(call)
        for _ in range(_ATTEMPTS):
            current = self._store.get(key)
            if current is None:
                raise not_found(row.plural, row.group, call.name)
            try:
                return await self._delete(call, current, options)
            except Stale:
                continue
        raise conflict(row.plural, row.group, call.name)

    async def _delete(self, call: Call, current: Stored, options: DeleteOptions) -> Removal:
        obj = in_version(call.served, current).to_dict()
        deletion.check_preconditions(call.served, obj, options)
        verdict = deletion.decide(call.served, obj, options, self._clock.now())
        if verdict is Verdict.UNCHANGED:
            return Removal(current, gone=False)
        if call.dry_run:
            return Removal(Stored(current.key, 0, msgspec.json.encode(obj)), gone=verdict is Verdict.GONE)
        last = versions.stored_form(current.key.resource, obj)
        if verdict is Verdict.GONE:
            gone = await self._store.remove(current.key, current, last)
            return Removal(in_version(call.served, gone), gone=True)
        return Removal(in_version(call.served, await self._store.put(current.key, current, last)), gone=False)


def apply_patch(call: Call, kind: PatchType, old: Json, patch: Mapping[str, Any] | Sequence[Any]) -> Json:
    """One patch on one object; raises BadRequest, Invalid, UnsupportedMediaType."""
    if kind is PatchType.JSON:
        if not isinstance(patch, Sequence) or isinstance(patch, str | bytes):
            raise BadRequest("error decoding patch: a JSON patch must be a list of operations")
        return patches.apply_json(old, patch)
    if not isinstance(patch, Mapping):
        raise BadRequest("error decoding patch: a merge patch must be an object")
    if kind is PatchType.MERGE:
        return patches.apply_merge(old, patch)
    row = call.served.resource
    if kind is PatchType.STRATEGIC and call.served.custom is None:
        return patches.apply_strategic(old, patch, row.api_version, row.kind)
    supported = "application/json-patch+json, application/merge-patch+json"
    raise UnsupportedMediaType(
        f"the body of the request was in an unknown format - accepted media types include: {supported}"
    )
