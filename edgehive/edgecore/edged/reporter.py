"""Sends pod statuses: only what changed, the newest last, kept while the API is away; then the final delete.

For `pods.py`. One sender per pod, so a slow answer for one pod delays no other. A report that cannot be
delivered is held (the newest replaces older ones) and goes out when the cloud is back or the next try is due.

Go: pkg/kubelet/status/status_manager.go
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgehive.api.document import Document
from edgehive.api.registry import PODS
from edgehive.edgecore.edged.manifests import is_static
from edgehive.edgecore.edged.status import Status, status_patch
from edgehive.kit.backoff import Backoff
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import ApiError, Conflict, NotFound

log = logging.getLogger("edgehive.edged")

_SENDERS = 8


@dataclass(slots=True)
class _Outbox:
    """What one pod has to tell, and what the API is known to hold."""

    namespace: str
    name: str
    uid: str
    known: Mapping[str, Any]
    #: Whom the API is told of; "" while a static pod has no mirror there.
    api_uid: str
    version: int = 0
    #: Whether the API holds `known`: a report whose answer was lost may have been written all the same.
    sure: bool = True
    wanted: Status | None = None
    delete: bool = False
    gone: bool = False
    retry: asyncio.Event = field(default_factory=asyncio.Event)
    sender: "asyncio.Task[None] | None" = None

    @property
    def due(self) -> bool:
        if self.gone or not self.api_uid:
            return False
        return self.delete or (
            self.wanted is not None and status_patch(self.api_uid, self.known, self.wanted, sure=self.sure) is not None
        )


class Reporter:
    """`async with` it; leaving gives up what is not delivered (the next start computes it again)."""

    def __init__(self, client: Client, *, backoff: Backoff | None = None) -> None:
        self._client = client
        self._backoff = backoff or Backoff(first=1.0, limit=30.0)
        self._boxes: dict[str, _Outbox] = {}
        self._slots = asyncio.Semaphore(_SENDERS)

    async def __aenter__(self) -> "Reporter":
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel_and_join(*(box.sender for box in self._boxes.values()))

    def learn(self, document: Document) -> None:
        """What the API holds of this pod; an answer older than our own last report is no news."""
        meta, status, version = document.meta, _status(document), _version(document)
        box = self._boxes.get(meta.uid)
        if box is None:
            api_uid = "" if is_static(document) else meta.uid
            self._boxes[meta.uid] = _Outbox(meta.namespace, meta.name, meta.uid, status, api_uid, version)
        elif version > box.version:
            box.known, box.version = status, version
            self._send(box)

    def mirror(self, uid: str, mirror: Document) -> None:
        """The API shows this static pod as `mirror`: its status goes there."""
        box = self._boxes.get(uid)
        if box is None:
            return
        if box.api_uid != mirror.meta.uid or _version(mirror) > box.version:
            box.gone = box.gone and box.api_uid == mirror.meta.uid
            box.api_uid, box.known, box.version = mirror.meta.uid, _status(mirror), _version(mirror)
        self._send(box)

    def api_uid(self, uid: str) -> str:
        """The UID the API knows this pod by; "" when it does not know it."""
        box = self._boxes.get(uid)
        return box.api_uid if box else ""

    def last(self, uid: str) -> Mapping[str, Any]:
        """The newest status told or held: what the next one is computed from."""
        box = self._boxes.get(uid)
        if box is None:
            return {}
        return box.wanted if box.wanted is not None else box.known

    def report(self, uid: str, status: Status) -> None:
        """This is the pod's status now."""
        box = self._boxes.get(uid)
        if box is not None:
            box.wanted = status
            self._send(box)

    def finish(self, uid: str) -> None:
        """After the last status: tell the API that nothing of the pod is left here."""
        box = self._boxes.get(uid)
        if box is not None and not box.delete:
            box.delete = True
            self._send(box)

    async def forget(self, uid: str) -> None:
        """The API holds the pod no longer."""
        box = self._boxes.pop(uid, None)
        if box is not None:
            box.gone = True
            await cancel_and_join(box.sender)

    def retry_now(self) -> None:
        """The cloud is back: do not wait for the next try."""
        for box in self._boxes.values():
            box.retry.set()

    @property
    def waiting(self) -> int:
        """Pods with something undelivered."""
        return sum(1 for box in self._boxes.values() if box.due)

    def _send(self, box: _Outbox) -> None:
        if box.due and (box.sender is None or box.sender.done()):
            box.sender = spawn(self._deliver(box), name=f"report {box.namespace}/{box.name}")

    async def _deliver(self, box: _Outbox) -> None:
        failures = 0
        while box.due:
            try:
                async with self._slots:
                    await self._one(box)
                failures = 0
            except (NotFound, Conflict) as error:
                # Gone, or replaced by a pod of the same name: nobody waits for this report.
                log.info("pod %s/%s: %s", box.namespace, box.name, error)
                box.gone = True
            except ApiError as error:
                log.log(logging.INFO if error.transient else logging.WARNING, "status of pod %s/%s not delivered: %s",
                        box.namespace, box.name, error or type(error).__name__)  # fmt: skip
                await self._pause(box, self._backoff.delay(failures))
                failures += 1

    async def _one(self, box: _Outbox) -> None:
        wanted = box.wanted
        patch = status_patch(box.api_uid, box.known, wanted, sure=box.sure) if wanted is not None else None
        if patch is None or wanted is None:
            await self._client.delete(PODS, box.name, box.namespace, grace_period_seconds=0, uid=box.api_uid)
            box.gone = True
            return
        box.sure = False
        answer = await self._client.patch(
            PODS, box.name, patch, box.namespace, type=PatchType.STRATEGIC, subresource="status"
        )
        box.known, box.sure = _foreign_conditions(box.known, wanted), True
        box.version = _version(answer) or box.version

    async def _pause(self, box: _Outbox, delay: float) -> None:
        box.retry.clear()
        try:
            async with asyncio.timeout(delay):
                await box.retry.wait()
        except TimeoutError:
            return


def _status(document: Document) -> Status:
    return document.to_dict().get("status") or {}


def _version(document: Document) -> int:
    text = document.meta.resource_version
    return int(text) if text.isdigit() else 0


def _foreign_conditions(known: Mapping[str, Any], told: Status) -> Status:
    """What the API holds after our report: ours, and the conditions others wrote."""
    ours = {item["type"] for item in told.get("conditions") or ()}
    others = [item for item in known.get("conditions") or () if item.get("type") not in ours]
    return dict(known) | told | {"conditions": [*(told.get("conditions") or ()), *others]}
