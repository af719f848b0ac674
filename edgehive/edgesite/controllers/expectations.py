"""What a controller has done and its informer does not show yet.

A cache lags behind one's own writes; counting pods before it has caught up would create them twice. After
each create or delete the uid is noted here, and `pending` tells whether the cache still lacks any of it.

Go: pkg/controller/controller_utils.go (UIDTrackingControllerExpectations)
"""

import asyncio
from dataclasses import dataclass

from edgehive.api.document import Document
from edgehive.edgesite.controllers.engine import Key
from edgehive.kube.informer import Informer

#: After this long a missing event is taken for lost: reconciling on stale news is then the smaller evil.
PATIENCE = 10.0


@dataclass(frozen=True)
class _Write:
    name: str
    namespace: str
    uid: str
    deleted: bool
    deadline: float


class Expectations:
    """Per key of the owner, the writes to its dependents that the informer must show first."""

    def __init__(self, informer: Informer) -> None:
        self._informer = informer
        self._writes: dict[Key, list[_Write]] = {}

    def created(self, key: Key, document: Document) -> None:
        self._note(key, document, deleted=False)

    def deleted(self, key: Key, document: Document) -> None:
        self._note(key, document, deleted=True)

    def pending(self, key: Key) -> bool:
        """Whether the informer is still behind this key's writes."""
        now = asyncio.get_running_loop().time()
        left = [item for item in self._writes.pop(key, ()) if item.deadline > now and not self._seen(item)]
        if left:
            self._writes[key] = left
        return bool(left)

    def _note(self, key: Key, document: Document, *, deleted: bool) -> None:
        meta = document.meta
        deadline = asyncio.get_running_loop().time() + PATIENCE
        write = _Write(meta.name, meta.namespace, meta.uid, deleted, deadline)
        self._writes.setdefault(key, []).append(write)

    def _seen(self, write: _Write) -> bool:
        current = self._informer.get(write.name, write.namespace)
        same = current is not None and current.meta.uid == write.uid
        if write.deleted:
            return not same or (current is not None and current.meta.deletion_timestamp is not None)
        return same
