"""Module `synccontroller`: a node that was away gets what it missed, and nothing twice.

When a node connects, its delivery records are compared with the objects as they are now: what is gone, or
lives again under another uid, is deleted; what is newer than the node acknowledged, and every pod of it without
a record, is sent. Deletions go first, and only after the API itself has said that the object is gone. A slow
round over all nodes repairs what was lost on the way. Records of nodes that no longer exist end. Of several cloudcores
each sees to its own nodes, and the leader to those that are no more.

Go: cloud/pkg/synccontroller
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Any, TypeVar

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import CONFIG_MAPS, DEVICE_MODELS, DEVICES, NODES, PODS, SECRETS, ApiResource, by_kind
from edgehive.beehive.bus import MailboxFull, NoSuchModule
from edgehive.beehive.message import Message
from edgehive.beehive.module import Ready
from edgehive.cloudcore.deps import EDGE_NODE_SELECTOR, CloudDeps
from edgehive.cloudcore.flows import Down, down_message
from edgehive.cloudcore.objectsync import DeliveryRecords, ObjectRef, Record
from edgehive.cloudcore.placement import BY_MODEL, BY_NODE, by_model, by_node, model_key, node_of
from edgehive.kit.clock import unix_millis
from edgehive.kube.errors import ApiError, NotFound, Unauthorized
from edgehive.kube.informer import Changes, Informer
from edgehive.wire import inventory
from edgehive.wire import resource as paths
from edgehive.wire.names import CloudModule, Group, Operation, Source

log = logging.getLogger("edgehive.synccontroller")

T = TypeVar("T")

#: Seconds between two rounds over everything.
ROUND_SECONDS = 60.0
#: Nodes compared at a time.
AT_ONCE = 8
RETRY_SECONDS = 5.0


class SyncController:
    """See the file's head."""

    name: str = CloudModule.SYNC_CONTROLLER
    group: str = CloudModule.SYNC_CONTROLLER
    needs: tuple[str, ...] = (CloudModule.CLOUD_HUB,)

    def __init__(self, deps: CloudDeps, records: DeliveryRecords) -> None:
        self._deps = deps
        self._records = records
        self._mailbox = deps.bus.register(self.name, self.group, size=8192)
        informers = deps.informers
        self._caches: dict[ApiResource, Informer] = {
            resource: informers.of(resource) for resource in (PODS, CONFIG_MAPS, SECRETS)
        }
        informers.of(PODS, indexers={BY_NODE: by_node})
        if deps.config.modules.device_controller.enable:
            self._caches[DEVICES] = informers.of(DEVICES, indexers={BY_NODE: by_node, BY_MODEL: by_model})
            self._caches[DEVICE_MODELS] = informers.of(DEVICE_MODELS)
        self._nodes = informers.of(NODES, label_selector=EDGE_NODE_SELECTOR)
        self._caches[NODES] = self._nodes
        self._due: OrderedDict[str, None] = OrderedDict()
        self._wake = asyncio.Event()
        #: Nodes whose question for an inventory could not be handed over.
        self._unasked: set[str] = set()

    async def run(self, ready: Ready) -> None:
        # Not for devices: in a cluster without these kinds everything else goes on.
        needed = (cache for resource, cache in self._caches.items() if resource not in (DEVICES, DEVICE_MODELS))
        await asyncio.gather(*(cache.wait_synced() for cache in needed))
        await self._records.wait_loaded()
        async with asyncio.TaskGroup() as group:
            for number in range(AT_ONCE):
                group.create_task(self._work(), name=f"compare nodes {number}")
            group.create_task(self._rounds(), name="rounds")
            group.create_task(self._follow_nodes(self._nodes.changes()), name="follow nodes")
            ready()
            async for message in self._mailbox:
                if message.route.operation == Operation.CONNECT:
                    self._mark(paths.strip_node(message.route.resource)[0])

    def _mark(self, node: str) -> None:
        self._due[node] = None
        self._wake.set()

    async def _rounds(self) -> None:
        while True:
            for node in self._records.nodes():
                if self._is_mine(node):
                    self._mark(node)
            await asyncio.sleep(ROUND_SECONDS)

    def _is_mine(self, node: str) -> bool:
        standing = self._deps.standing
        return standing.owns(node) or (standing.leads and self._nodes.get(node) is None)

    async def _follow_nodes(self, changes: Changes) -> None:
        async with changes:
            async for change in changes:
                node = change.document.meta.name
                if change.new is None:
                    if self._is_mine(node):
                        self._mark(node)
                elif change.old is None:
                    self._mark(node)
                    # Registered anew, perhaps: what ended while there was no node is known to nobody but the edge.
                    await self._ask_what_it_holds(node)

    async def _work(self) -> None:
        while True:
            while not self._due:
                self._wake.clear()
                await self._wake.wait()
            node, _ = self._due.popitem(last=False)
            try:
                await self._compare_node(node)
            except ApiError as error:
                log.warning("node %s is compared again later: %s", node, error)
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._mark, node)

    async def _compare_node(self, node: str) -> None:
        """Send a node what it misses, deletions first. What cannot be judged is left out and costs nothing else."""
        if node in self._unasked:
            await self._ask_what_it_holds(node)
        for ref, version in self._records.strays(node):
            if await self._judged(node, ref, self._mend_stray(node, ref, version)) is not False:
                self._records.dealt_with(node, ref)
        if self._nodes.get(node) is None and (not self._records.of_node(node) or not await self._exists(node)):
            self._records.forget_node(node)
            return
        if not self._is_mine(node):
            return
        updates: list[Down] = []
        for record in self._records.of_node(node):
            if (update := await self._judged(node, record.ref, self._mend_record(record))) is not None:
                updates.append(update)
        # Models before their devices and what pods read before the pods, all else as it comes.
        updates = [*updates, *self._unrecorded_pods(node), *self._unrecorded_devices(node)]
        for update in sorted(updates, key=lambda down: down.resource in (DEVICES, PODS)):
            await self._send(update)

    async def _judged(self, node: str, ref: ObjectRef, work: Awaitable[T]) -> T | None:
        """The outcome for one object; None when the API refuses to say. Trouble of the API itself is raised."""
        try:
            return await work
        except ApiError as error:
            if error.transient or isinstance(error, Unauthorized):
                raise
            log.warning("node %s: %s %s/%s is left as it is: %s", node, ref.kind, ref.namespace, ref.name, error)
            return None

    async def _mend_record(self, record: Record) -> Down | None:
        """End what is gone; give back what the node has yet to get."""
        current = await self._current(record)
        if current is None or current.meta.uid != record.ref.uid:
            await self._end(record)
            return None
        record.last = None
        if _version(current) > record.acked:
            return Down(record.node, _operation(record), _resource(record.ref), current)
        if not record.exists:
            self._records.ensure(record.node, record.ref)
        return None

    async def _end(self, record: Record) -> None:
        if _resource(record.ref) is NODES:
            # The node has registered anew; a message about its former life would end its session.
            self._records.deleted(record.node, record.ref)
            return
        if record.last is not None:
            await self._send(Down(record.node, Operation.DELETE, _resource(record.ref), record.last))
            return
        await self._send(_deletion(record.node, record.ref, record.protocol))

    async def _mend_stray(self, node: str, ref: ObjectRef, version: int) -> bool:
        """An object that only the node knows of ends there; one that lives is not sent for being claimed.

        False when that could not be handed over.
        """
        current, resource = await self._lookup(ref), _resource(ref)
        if resource is NODES:
            return True
        if current is None or current.meta.uid != ref.uid:
            return await self._send(_deletion(node, ref))
        if resource in (CONFIG_MAPS, SECRETS) and _version(current) > version:
            return await self._ask_for(node, ref)
        return True

    async def _ask_for(self, node: str, ref: ObjectRef) -> bool:
        """Ask edgecontroller in the node's place, which answers the node if a pod of it needs the object."""
        path = paths.of(_resource(ref).edge_type, ref.namespace, ref.name, node)
        question = Message.of(
            source=Source.EDGED,
            group=Group.META,
            operation=Operation.QUERY,
            resource=str(path),
            timestamp=self._now(),
        )
        return await self._hand_over(CloudModule.EDGE_CONTROLLER, node, question)

    def _unrecorded_pods(self, node: str) -> list[Down]:
        """Pods of the node that were never handed to the hub, or got lost on the way when a module failed."""
        if self._nodes.get(node) is None:
            return []
        pods = self._caches[PODS].by_index(BY_NODE, node)
        return [
            Down(node, Operation.UPDATE, PODS, pod)
            for pod in pods
            if self._records.version(node, pod.meta.namespace, pod.meta.uid) is None
        ]

    def _unrecorded_devices(self, node: str) -> list[Down]:
        """Devices of the node that were never handed to the hub, as when it joined after them, and their models."""
        if self._nodes.get(node) is None or not self._knows_devices():
            return []
        found: dict[str, Down] = {}
        for device in self._caches[DEVICES].by_index(BY_NODE, node):
            model = self._model_of(device)
            if model is None and model_key(device):
                continue  # devicecontroller sends it as soon as there is its model
            for resource, document in ((DEVICE_MODELS, model), (DEVICES, device)):
                if document is not None and self._is_unrecorded(node, document):
                    found[document.meta.uid] = Down(node, Operation.INSERT, resource, document)
        return list(found.values())

    def _model_of(self, device: Document) -> Document | None:
        namespace, _, name = model_key(device).partition("/")
        return self._caches[DEVICE_MODELS].get(name, namespace)

    def _knows_devices(self) -> bool:
        kinds = [self._caches.get(resource) for resource in (DEVICES, DEVICE_MODELS)]
        return all(cache is not None and cache.synced for cache in kinds)

    def _is_unrecorded(self, node: str, document: Document) -> bool:
        return self._records.version(node, document.meta.namespace, document.meta.uid) is None

    def _belongs(self, record: Record, current: Document) -> bool:
        """Whether the node is still to have the object: a device may have moved, and a model have no device left."""
        resource = _resource(record.ref)
        if resource is DEVICES:
            return node_of(current) == record.node
        if resource is not DEVICE_MODELS or not self._knows_devices():
            return True
        devices = self._caches[DEVICES].by_index(BY_MODEL, f"{record.ref.namespace}/{record.ref.name}")
        return any(node_of(device) == record.node for device in devices)

    async def _exists(self, node: str) -> bool:
        try:
            await self._deps.client.get(NODES, node)
        except NotFound:
            return False
        return True

    async def _current(self, record: Record) -> Document | None:
        """The object as it is; None only when the API has said that it is gone, or is another node's now."""
        if by_kind(record.ref.api_version, record.ref.kind) is None:
            # Of a kind this process does not know: nothing can be said about it.
            return _unknown(record)
        current = await self._lookup(record.ref)
        return current if current is not None and self._belongs(record, current) else None

    async def _lookup(self, ref: ObjectRef) -> Document | None:
        resource = _resource(ref)
        cache = self._caches.get(resource)
        held = cache.get(ref.name, ref.namespace) if cache is not None else None
        if held is not None and held.meta.uid == ref.uid:
            return held
        try:
            return await self._deps.client.get(resource, ref.name, ref.namespace)
        except NotFound:
            return None

    async def _send(self, down: Down) -> bool:
        # wire: these messages come in the name of the kind's own controller; from edgecontroller a Go edge would
        # store a device without telling its twin (wire.md B5)
        source = Source.DEVICE_CONTROLLER if down.resource in (DEVICES, DEVICE_MODELS) else Source.EDGE_CONTROLLER
        return await self._hand_over(
            CloudModule.CLOUD_HUB, down.node, down_message(down, source=source, timestamp=self._now())
        )

    async def _ask_what_it_holds(self, node: str) -> None:
        question = inventory.question(timestamp=self._now())
        question = question.with_route(resource=paths.add_node(node, question.route.resource))
        if await self._hand_over(CloudModule.CLOUD_HUB, node, question):
            self._unasked.discard(node)
        else:
            self._unasked.add(node)

    async def _hand_over(self, module: str, node: str, message: Message) -> bool:
        """False, and the node is compared again later, when the module took nothing."""
        try:
            await self._deps.bus.send(module, message)
        except (NoSuchModule, MailboxFull) as error:
            log.warning("node %s is compared again later: %s", node, error)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._mark, node)
            return False
        return True

    def _now(self) -> int:
        return unix_millis(self._deps.clock.now())


def _resource(ref: ObjectRef) -> ApiResource:
    resource = by_kind(ref.api_version, ref.kind)
    assert resource is not None  # asked for known kinds only
    return resource


def _operation(record: Record) -> str:
    """`insert` for a device the node never acknowledged: its mappers are told to begin with it, not to change it."""
    new = record.acked == 0 and _resource(record.ref) in (DEVICES, DEVICE_MODELS)
    return Operation.INSERT if new else Operation.UPDATE


def _deletion(node: str, ref: ObjectRef, protocol: str = "") -> Down:
    """The end of an object of which no more is known than its name; `protocol` is that of a device or a model."""
    resource = _resource(ref)
    metadata = {"name": ref.name, "uid": ref.uid} | ({"namespace": ref.namespace} if ref.namespace else {})
    skeleton: dict[str, Any] = {"apiVersion": ref.api_version, "kind": ref.kind, "metadata": metadata}
    if protocol:
        skeleton["spec"] = {"protocol": {"protocolName": protocol} if resource is DEVICES else protocol}
    return Down(node, Operation.DELETE, resource, Document.of(skeleton))


def _unknown(record: Record) -> Document:
    return Document(msgspec.json.encode({"metadata": {"uid": record.ref.uid, "resourceVersion": str(record.acked)}}))


def _version(document: Document) -> int:
    version = document.meta.resource_version
    return int(version) if version.isdecimal() else 0
