"""Who belongs to whom: a controller's claim on the objects it controls, by uid of the controller reference.

A claim adopts matching orphans (after a live read has shown that the owner still exists and is not being
deleted) and releases what no longer matches. It deletes nothing.

Go: pkg/controller/controller_ref_manager.go
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from edgehive.api.document import Document
from edgehive.api.registry import ApiResource
from edgehive.kube.client import Body, Client, PatchType
from edgehive.kube.errors import Conflict, Invalid, NotFound
from edgehive.kube.informer import Informer
from edgehive.kube.selectors import LabelSelector


def by_controller(document: Document) -> Iterable[str]:
    """Index: the uid of the controlling owner, or "" for an orphan's namespace."""
    ref = document.meta.controller_ref
    yield ref.uid if ref is not None else f"orphan/{document.meta.namespace}"


class Claims:
    """Claims of one kind of owner on one kind of dependent."""

    def __init__(
        self, client: Client, owners: ApiResource, informer: Informer, reference: Callable[[Document], dict[str, Any]]
    ) -> None:
        self._client = client
        self._owners = owners
        self._informer = informer
        self._reference = reference
        informer.add_indexer("controller", by_controller)

    async def of(self, owner: Document, selector: LabelSelector | None) -> list[Document]:
        """The dependents of `owner` after adopting and releasing (without a selector there is neither)."""
        meta = owner.meta
        mine: list[Document] = []
        for document in self._informer.by_index("controller", meta.uid):
            if selector is None or selector.matches(document.meta.labels) or document.meta.deletion_timestamp:
                mine.append(document)
            elif not meta.deletion_timestamp:
                await self._release(document, meta.uid)
        orphans = self._matching_orphans(meta.namespace, selector)
        if orphans and not meta.deletion_timestamp and await self._still_there(owner):
            adopted = [await self._adopt(owner, document) for document in orphans]
            mine += [document for document in adopted if document is not None]
        return mine

    def _matching_orphans(self, namespace: str, selector: LabelSelector | None) -> list[Document]:
        # An empty selector would adopt the whole namespace; validation refuses it, we do not rely on that.
        if not selector:
            return []
        orphans = self._informer.by_index("controller", f"orphan/{namespace}")
        return [item for item in orphans if not item.meta.deletion_timestamp and selector.matches(item.meta.labels)]

    async def _still_there(self, owner: Document) -> bool:
        try:
            live = await self._client.get(self._owners, owner.meta.name, owner.meta.namespace)
        except NotFound:
            return False
        return live.meta.uid == owner.meta.uid and not live.meta.deletion_timestamp

    async def _adopt(self, owner: Document, document: Document) -> Document | None:
        references = document.to_dict()["metadata"].get("ownerReferences") or []
        return await self._set_references(document, [*references, self._reference(owner)])

    async def _release(self, document: Document, owner_uid: str) -> None:
        references = document.to_dict()["metadata"].get("ownerReferences") or []
        await self._set_references(document, [item for item in references if item.get("uid") != owner_uid])

    async def _set_references(self, document: Document, references: list[dict[str, Any]]) -> Document | None:
        meta = document.meta
        patch = {"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references}}
        try:
            return await self._client.patch(
                self._informer.resource, meta.name, patch, meta.namespace, type=PatchType.MERGE
            )
        except (NotFound, Conflict, Invalid):
            # Gone or changed meanwhile: its own next event decides again.
            return None


async def slow_start(count: int, action: Callable[[int], Awaitable[None]]) -> int:
    """Do `action` `count` times in batches of 1, 2, 4 ...; the first failing batch is the last.

    Returns how often it succeeded; raises the first error. A broken template then fails once, not a thousand times.
    """
    done, batch = 0, 1
    while done < count:
        size = min(batch, count - done)
        results = await asyncio.gather(*(action(done + n) for n in range(size)), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        if errors:
            raise errors[0]
        done += size
        batch *= 2
    return done


async def write_status(client: Client, resource: ApiResource, document: Document, status: Body) -> None:
    """Replace an object's status, unless it is that already; a conflict is the caller's to retry."""
    current = document.to_dict()
    if current.get("status") == status:
        return
    await client.update(
        resource, {**current, "status": status}, document.meta.namespace, name=document.meta.name, subresource="status"
    )


def set_condition(conditions: Sequence[Any], new: dict[str, Any], now: str) -> list[dict[str, Any]]:
    """The conditions with `new` in its place; the transition time moves only with the status."""
    old = next((item for item in conditions if item["type"] == new["type"]), None)
    transition = old["lastTransitionTime"] if old and old["status"] == new["status"] else now
    entry = {**new, "lastTransitionTime": transition}
    return [entry if item["type"] == new["type"] else item for item in conditions] + ([] if old else [entry])
