"""metamanager: what the cloud sent is stored before anyone acts on it; what the edge says is kept until answered.

Every message is looked up in `onward.py` and handled as its row says: objects are written, edged (or twin) is
told, the cloud gets its acknowledgement, in that order. Messages about one object are handled one after the
other; different objects do not wait for each other. It never runs pods and never holds the link.

Go: edge/pkg/metamanager
"""

import asyncio
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import msgspec
from prometheus_client import CollectorRegistry

from edgehive.api.document import Document
from edgehive.api.meta import Status
from edgehive.beehive.bus import Bus, MailboxFull, NoSuchModule, ReplyTimeout
from edgehive.beehive.message import Message
from edgehive.beehive.module import Ready
from edgehive.edgecore.metamanager import envelope, onward
from edgehive.edgecore.metamanager.cloud import Cloud
from edgehive.edgecore.metamanager.edge_writes import EdgeWrites
from edgehive.edgecore.metamanager.envelope import Age, BadObject
from edgehive.edgecore.metamanager.metastore import Metastore, Saved, Unanswered
from edgehive.edgecore.metamanager.onward import Ask, Keep, Onward
from edgehive.edgecore.metamanager.questions import Questions
from edgehive.kit import metrics
from edgehive.kit.clock import Clock, unix_millis
from edgehive.kit.sqlite import Database, DatabaseError
from edgehive.kube import errors
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError, BadRequest, NotFound, ServiceUnavailable, TooManyRequests, Unreachable
from edgehive.kube.recorder import Recorder
from edgehive.wire import device_edits, inventory
from edgehive.wire.names import CloudModule, EdgeModule, Group, Operation, Path, ResourceType, Source
from edgehive.wire.payloads import ObjectAnswer, error_content, read_connection_notice, read_reply
from edgehive.wire.resource import Resource

if TYPE_CHECKING:
    from edgehive.edgecore.metamanager.edge_store import EdgeStore
    from edgehive.edgecore.metamanager.metaserver import MetaServer

log = logging.getLogger("edgehive.metamanager")

#: Requests of this node's modules that may be in work at once; more are refused.
REQUEST_LIMIT = 1000
#: Messages of the cloud in work at once; more wait in the mailbox.
CLOUD_LIMIT = 64
#: Deleted lives remembered, so that nothing on its way brings one back.
ENDED_LIMIT = 4096
#: Requests replayed at once after a reconnection.
REPLAY_LIMIT = 8
#: Seconds until requests the cloud failed to answer are tried again over the same link.
REPLAY_INTERVAL = 60.0

_EDGE_SOURCES = frozenset(EdgeModule) | {"metaserver"}


@dataclass(frozen=True, slots=True)
class LocalApi:
    """Where MetaServer listens (host "": nowhere), and the base URL of the node's own kubelet API ("" for none)."""

    host: str = ""
    port: int = 0
    kubelet: str = ""


class MetaManager:
    """The module `metamanager`. `node` is this node's name, `hub` the module that holds the link.

    `local_api` has it serve one; `client` records Events.
    """

    name = str(EdgeModule.META_MANAGER)
    group = str(Group.META)
    needs: tuple[str, ...] = ()

    def __init__(
        self,
        bus: Bus,
        database: Database,
        clock: Clock,
        node: str,
        *,
        hub: str = EdgeModule.EDGE_HUB,
        timeout: float = 60.0,
        registry: CollectorRegistry | None = None,
        client: Client | None = None,
        local_api: LocalApi | None = None,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._node = node
        self._mailbox = bus.register(self.name, self.group)
        self._store = Metastore(database)
        self._cloud = Cloud(bus, hub, clock, timeout)
        self._questions = Questions(self._store, self._keep_queried, self._cloud, clock)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._recorder = Recorder(client, self.name, node, clock) if client is not None else None
        self._local_api_at = local_api
        self._shown: EdgeStore | None = None
        #: Once the module runs, and where one is configured.
        self.local_api: MetaServer | None = None
        self._room = asyncio.Semaphore(CLOUD_LIMIT)
        self._requests = 0
        self._untold: set[str] = set()
        self._unmourned: dict[str, Document] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._replay = asyncio.Event()
        #: By resource the newest patch that the disk could not drop and that the cloud need not hear any more.
        self._spent: dict[str, int] = {}
        self._newest_sequence = 0
        registry = registry or CollectorRegistry()
        self._refused = metrics.counter(
            "edgehive_meta_refused", "Messages of the cloud that were not stored.", ["why"], registry=registry
        )
        self._dropped = metrics.counter(
            "edgehive_meta_dropped_events", "Events dropped because the hub took none.", registry=registry
        )
        edits_waiting = metrics.gauge(
            "edgehive_meta_edits_waiting", "Objects written here that the cloud has not taken.", registry=registry
        )
        self._writes = EdgeWrites(
            self._store,
            self._cloud,
            clock,
            tell=self._tell_twin,
            happened=self._happened,
            turn=self._turn,
            waiting=edits_waiting.set,
        )
        self._connected = metrics.gauge("edgehive_meta_connected", "1 while the cloud is reachable.", registry=registry)

    async def run(self, ready: Ready) -> None:
        try:
            await self._writes.load()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._replay_unanswered(), name="replay")
                tasks.create_task(self._writes.run(), name="written at the edge")
                if self._local_api_at is not None:
                    await self._serve(self._local_api_at, tasks)
                ready()
                async for message in self._mailbox:
                    await self._admit(message, tasks)
        finally:
            await self._questions.close()
            if self._shown is not None:
                await self._shown.close()

    async def _serve(self, at: LocalApi, tasks: asyncio.TaskGroup) -> None:
        """Show what is stored, and have devicetwin say which desired values were set here."""
        from edgehive.edgecore.metamanager.edge_store import EdgeStore
        from edgehive.edgecore.metamanager.metaserver import MetaServer

        store = EdgeStore(
            self._writes, turn=self._turn, set_desired=self._set_desired, row=self._store.get, revision=self._now()
        )
        for resource, document in await self._store.everything():
            await store.show(resource, document)
        for item in await self._store.unanswered():
            await store.patched(
                envelope.row_of(Resource.parse(item.message.route.resource)), item.message.content_bytes()
            )
        self._store.changed, self._shown = store.show, store
        tasks.create_task(self._ask_desired(), name="desired values set here")
        self.local_api = MetaServer(store, self._clock, self._node, kubelet=at.kubelet)
        if at.host:
            tasks.create_task(self.local_api.run(at.host, at.port), name="MetaServer")

    async def _admit(self, message: Message, tasks: asyncio.TaskGroup) -> None:
        notice = read_connection_notice(message)
        if notice is not None:
            self._on_connection(notice)
        elif message.route.source in _EDGE_SOURCES:
            if self._requests >= REQUEST_LIMIT:
                self._answer_error(message, TooManyRequests(f"metamanager has {REQUEST_LIMIT} requests in work"))
                return
            self._requests += 1
            work = tasks.create_task(self._from_edge(message), name=f"request {message.route.resource}")
            work.add_done_callback(self._request_ended)
        else:
            await self._room.acquire()
            work = tasks.create_task(self._from_cloud(message), name=f"store {message.route.resource}")
            # Not in the work itself, which may be cancelled before it begins.
            work.add_done_callback(lambda _: self._room.release())

    def _request_ended(self, _: asyncio.Task[None]) -> None:
        self._requests -= 1

    def _on_connection(self, connected: bool) -> None:
        self._connected.set(connected)
        self._questions.doubt()
        if connected:
            self._cloud.link_came()
            self._replay.set()
        else:
            self._cloud.link_went()
        self._writes.link_changed()

    # From the cloud: store, tell, acknowledge

    async def _from_cloud(self, message: Message) -> None:
        path = message.route.resource
        try:
            async with self._turn(path):
                await self._take(message, Resource.parse(path))
        except (BadObject, ValueError) as error:
            await self._refuse(message, "bad object", f"{path} is refused: {error}")
        except (DatabaseError, sqlite3.Error) as error:
            await self._refuse(message, "not stored", f"{path} could not be stored: {error}")
        except MailboxFull as error:
            await self._refuse(message, "receiver full", f"{path} is stored, but its module is busy: {error}")
        except Unreachable as error:
            log.info("%s: %s; the cloud will send it again", path, error)

    async def _take(self, message: Message, resource: Resource) -> None:
        route = message.route
        if message.header.parent_id:
            resource = envelope.row_of(resource)
        decision = onward.from_cloud(route.operation, route.source, resource.type)
        if decision.refuse:
            if not message.header.parent_id:
                raise BadObject(decision.refuse)
            log.info("an answer that came too late, %s of %s, is of no use here", route.operation, route.resource)
            return
        if decision.ask is Ask.INVENTORY:
            await self._cloud.answer(message, inventory.content(await self._store.held()))
            self._writes.cloud_is_ours()
            return
        if decision.keep is Keep.REMOVE:
            await self._remove(message, resource, decision)
        elif message.header.parent_id:
            await self._take_late_answer(message, resource)
        else:
            document = envelope.pushed_object(bytes(message.content), resource)
            if envelope.is_for(document, resource, self._node):
                await self._put(resource, document, decision.tell, route.operation)
        await self._cloud.acknowledge(message)

    async def _take_late_answer(self, message: Message, resource: Resource) -> None:
        """Nobody waits for it any more; the object is stored where it is good, else only acknowledged."""
        answer = read_reply(message)
        if answer.error is not None or answer.object is None or resource.type == ResourceType.SERVICE_ACCOUNT_TOKEN:
            return
        try:
            document = envelope.answered_object(answer.object, resource)
        except BadObject as error:
            log.info("an answer that came too late, of %s, is not stored: %s", resource, error)
            return
        await self._put(resource, document, _listener(resource.type), Operation.UPDATE)

    async def _put(
        self, resource: Resource, document: Document, tell: str, operation: str, *, asked: bool = False
    ) -> None:
        """Store and tell; with `asked`, whoever asked for the object learns of it there and is told of news only."""
        if document.meta.uid in self._ended:
            # An answer or a repetition that its own deletion has overtaken: that life is over for good.
            log.info("%s is not stored: this life of it has ended", resource)
            return
        if resource.type in device_edits.TYPES and await self._writes.arrived(resource, document):
            return
        saved = await self._store.save(resource, document)
        key = str(resource)
        self._questions.confirm(resource)
        if saved.stored and resource.type == ResourceType.POD and _is_new_life(saved, document):
            self._questions.doubt(resource.namespace)
        if tell and (saved.stored or key in self._untold) and not (asked and saved.age is Age.NEW):
            self._untold.add(key)
            if saved.previous is not None and _is_new_life(saved, document):
                await self._tell(tell, Operation.DELETE, resource, saved.previous)
            await self._tell(tell, operation, resource, document)
            self._untold.discard(key)

    async def _keep_queried(self, resource: Resource, document: Document) -> None:
        """Pods that use an older version hear of this one: its push will look like a repetition."""
        try:
            async with self._turn(str(resource)):
                await self._put(resource, document, _listener(resource.type), Operation.UPDATE, asked=True)
        except MailboxFull as error:
            log.error("%s is stored, but its module is busy: %s", resource, error)

    async def _remove(self, message: Message, resource: Resource, decision: Onward) -> None:
        uid = envelope.deleted_uid(bytes(message.content))
        if not uid:
            return  # it means no life that is known here
        if resource.type not in onward.COME_AND_GO:
            self._ended[uid] = None
        if len(self._ended) > ENDED_LIMIT:
            self._ended.popitem(last=False)
        if resource.type in device_edits.TYPES and await self._writes.deleted(resource, uid):
            return
        removed = await self._store.remove(resource, uid) or self._unmourned.get(uid)
        if removed is not None and decision.tell:
            self._unmourned[uid] = removed
            # The stored object, since a resent deletion carries only its name and uid.
            await self._tell(decision.tell, Operation.DELETE, resource, removed)
            del self._unmourned[uid]

    async def _tell(self, group: str, operation: str, resource: Resource, document: Document) -> None:
        message = Message.of(
            source=self.name,
            group=group,
            operation=operation,
            resource=str(resource),
            content=msgspec.Raw(document.raw),
            resource_version=document.meta.resource_version,
            timestamp=self._now(),
        )
        await self._bus.send_group(group, message)

    async def _tell_twin(self, operation: str, resource: Resource, document: Document) -> None:
        await self._tell(Group.TWIN, operation, resource, document)

    async def _refuse(self, message: Message, why: str, text: str) -> None:
        self._refused.labels(why).inc()
        log.error("%s (message %s from %s)", text, message.id, message.route.source)
        try:
            await self._cloud.refuse(message, text)
        except Unreachable:
            log.debug("the refusal of %s could not be sent", message.id)

    # From this node's modules: answer

    async def _from_edge(self, message: Message) -> None:
        try:
            resource = Resource.parse(message.route.resource)
            decision = onward.from_edge(message.route.operation, resource.type)
            if decision.refuse:
                raise BadRequest(decision.refuse)
            if decision.post:
                await self._post(message)
                return
            if decision.show:
                await self._show_desired(message, resource)
                return
            self._answer(message, await self._answered(message, resource, decision))
        except ApiError as error:
            self._answer_error(message, error)
        except (DatabaseError, sqlite3.Error) as error:
            self._answer_error(message, Unreachable(f"the local database fails: {error}"))
        except ValueError as error:
            self._answer_error(message, BadRequest(str(error)))

    async def _answered(self, message: Message, resource: Resource, decision: Onward) -> msgspec.Raw | str:
        if decision.ask is Ask.ROWS:
            return await self._rows(resource)
        if decision.ask is Ask.CLOUD_OR_ROWS:
            return msgspec.Raw((await self._questions.answer(message, resource)).raw)
        if decision.keep is Keep.UNTIL_ANSWERED:
            return await self._patch(message, resource)
        return await self._call(message, resource, decision.keep is Keep.ANSWER)

    async def _rows(self, resource: Resource) -> msgspec.Raw:
        if resource.name:
            document = await self._store.get(str(resource))
            if document is None:
                raise errors.not_found(f"{resource.type}s", "", resource.name)
            return msgspec.Raw(document.raw)
        documents = await self._store.all_of(resource.type, resource.api_namespace)
        return msgspec.Raw(b"[" + b",".join(document.raw for document in documents) + b"]")

    async def _call(self, message: Message, resource: Resource, keep: bool) -> msgspec.Raw | str:
        reply = await self._cloud.call(message)
        answer = read_reply(reply)
        if keep and answer.error is None:
            await self._keep_answer(answer, resource)
        await self._cloud.acknowledge(reply)
        return _content(answer)

    async def _patch(self, message: Message, resource: Resource) -> msgspec.Raw | str:
        """Kept first, so that neither a cut nor a crash loses it; gone once the cloud has answered."""
        try:
            sequence = await self._store.keep_unanswered(message)
        except (DatabaseError, sqlite3.Error) as error:
            log.error("%s goes to the cloud without being kept: %s", resource, error)
            self._spend(resource, self._newest_sequence)
            return await self._call(message, resource, keep=False)
        self._newest_sequence = sequence
        if self._shown is not None:
            await self._shown.patched(envelope.row_of(resource), message.content_bytes())
        return await self._deliver(sequence, message, resource)

    async def _deliver(self, sequence: int, message: Message, resource: Resource) -> msgspec.Raw | str:
        async with self._turn(f"patch {resource}"):
            if not await self._store.is_unanswered(sequence):
                raise Unreachable(f"a newer patch of {resource} has taken the place of this one")
            answer = read_reply(await self._cloud.call(message))
            # The row first: a crash in between repeats the patch, the other way round it would leave an old row.
            if answer.error is None:
                await self._keep_answer(answer, resource)
            if answer.error is None or not errors.from_status(answer.error).transient:
                await self._forget(sequence, resource)
            if answer.error is None:
                return _content(answer)
            if isinstance(errors.from_status(answer.error), NotFound) and resource.type == ResourceType.NODE_PATCH:
                await self._forget_node(resource)
            return _content(answer)

    async def _forget(self, sequence: int, resource: Resource) -> None:
        try:
            await self._store.forget_unanswered(sequence)
        except (DatabaseError, sqlite3.Error) as error:
            log.error("the answered patch of %s stays on disk for now: %s", resource, error)
            self._spend(resource, sequence)

    def _spend(self, resource: Resource, sequence: int) -> None:
        """Have this patch and older ones of the resource dropped, not sent, once the disk can."""
        self._spent[str(resource)] = sequence
        asyncio.get_running_loop().call_later(REPLAY_INTERVAL, self._replay.set)

    async def _keep_answer(self, answer: ObjectAnswer, resource: Resource) -> None:
        """Store the object of an answer and pass news in it on, since its push then looks like a repetition."""
        if answer.object is None or resource.type == ResourceType.LEASE:
            return
        row = envelope.row_of(resource)
        try:
            document = envelope.answered_object(answer.object, resource)
            if not document.meta.uid:
                return
            async with self._turn(str(row)):
                await self._put(row, document, _listener(row.type), Operation.UPDATE)
        except (BadObject, DatabaseError, sqlite3.Error, MailboxFull) as error:
            log.error("the answer for %s was not stored: %s", resource, error)

    async def _forget_node(self, resource: Resource) -> None:
        """The node was deleted in the cloud: without its row, edged registers it again."""
        row = envelope.row_of(resource)
        stored = await self._store.get(str(row))
        if stored is not None:
            await self._store.remove(row, stored.meta.uid)

    async def _post(self, message: Message) -> None:
        try:
            await self._cloud.post(message)
        except Unreachable as error:
            self._dropped.inc()
            log.warning("%s is lost: %s", message.route.resource, error)

    # Devices written at this node

    async def _set_desired(self, resource: Resource, desired: Mapping[str, str]) -> None:
        """devicetwin has them on disk when this returns; raises ApiError."""
        message = self._to_twin(Operation.PATCH, str(resource), {"desired": desired})
        try:
            answer = await self._bus.request(EdgeModule.DEVICE_TWIN, message)
        except (NoSuchModule, MailboxFull, ReplyTimeout) as error:
            raise ServiceUnavailable(f"desired values cannot be set: {error}") from error
        if answer.route.operation == Operation.ERROR:
            raise BadRequest(answer.content_bytes().decode())

    async def _ask_desired(self) -> None:
        try:
            await self._bus.send(EdgeModule.DEVICE_TWIN, self._to_twin(Operation.QUERY, Path.DESIRED, None))
        except (NoSuchModule, MailboxFull) as error:
            log.warning("desired values set here are shown when they change: %s", error)

    async def _show_desired(self, message: Message, resource: Resource) -> None:
        if self._shown is not None and message.route.source == Source.TWIN:
            async with self._turn(str(resource)):
                await self._shown.desired_here(resource, message.read(dict[str, str]))

    def _to_twin(self, operation: str, resource: str, content: object) -> Message:
        return Message.of(
            source=self.name,
            group=Group.TWIN,
            operation=operation,
            resource=resource,
            content=content,
            timestamp=self._now(),
        )

    async def _happened(self, document: Document, reason: str, text: str) -> None:
        """An Event on a device."""
        if self._recorder is not None:
            await self._recorder.event(document, "Warning", reason, text)

    # After a reconnection

    async def _replay_unanswered(self) -> None:
        while True:
            await self._replay.wait()
            self._replay.clear()
            if await self._replay_once() and self._cloud.connected:
                asyncio.get_running_loop().call_later(REPLAY_INTERVAL, self._replay.set)

    async def _replay_once(self) -> bool:
        """Deliver what is kept; True when something is left."""
        room = asyncio.Semaphore(REPLAY_LIMIT)
        try:
            kept = await self._drop_spent(await self._store.unanswered())
            async with asyncio.TaskGroup() as tasks:
                for item in kept:
                    tasks.create_task(self._redeliver(item.sequence, item.message, room))
            return bool(kept) and bool(await self._store.unanswered())
        except (DatabaseError, sqlite3.Error) as error:
            log.error("what waits for the cloud cannot be read: %s", error)
            return True

    async def _drop_spent(self, kept: list[Unanswered]) -> list[Unanswered]:
        """What of it the cloud has yet to hear; the rest is gone from the disk, too."""
        self._newest_sequence = max([self._newest_sequence, *(item.sequence for item in kept)])
        spent = dict(self._spent)
        left = [item for item in kept if item.sequence > spent.get(item.message.route.resource, 0)]
        for item in kept:
            if item not in left:
                await self._store.forget_unanswered(item.sequence)
        self._spent = {key: sequence for key, sequence in self._spent.items() if spent.get(key) != sequence}
        return left

    async def _redeliver(self, sequence: int, message: Message, room: asyncio.Semaphore) -> None:
        async with room:
            try:
                await self._deliver(sequence, message, Resource.parse(message.route.resource))
            except (ApiError, DatabaseError, sqlite3.Error) as error:
                log.info("%s: %s", message.route.resource, error)

    # Answers

    def _answer(self, message: Message, content: msgspec.Raw | str) -> None:
        self._bus.reply(message.reply(content, source=self.name, timestamp=self._now()), sender=self.name)

    def _answer_error(self, message: Message, error: ApiError) -> None:
        content = error_content(_local_status(error))
        reply = message.reply(content, operation=Operation.ERROR, source=self.name, timestamp=self._now())
        self._bus.reply(reply, sender=self.name)

    def _turn(self, key: str) -> asyncio.Lock:
        """Messages about one object take turns, in the order they came."""
        lock = self._turns.get(key)
        if lock is None:
            lock = self._turns[key] = asyncio.Lock()
        return lock

    def _now(self) -> int:
        return unix_millis(self._clock.now())


def _listener(type: str) -> str:
    return onward.from_cloud(Operation.UPDATE, CloudModule.EDGE_CONTROLLER, type).tell


def _is_new_life(saved: Saved, document: Document) -> bool:
    return saved.previous is None or saved.previous.meta.uid != document.meta.uid


def _local_status(error: ApiError) -> Status:
    """The Status for a module of this node; `Unreachable` has none of a server's, so it is named."""
    if isinstance(error, Unreachable):
        return Status(message=str(error), reason="Unreachable")
    return error.status


def _content(answer: ObjectAnswer) -> msgspec.Raw | str:
    """What the sender gets: the object, or `OK` where there is none; raises the cloud's error."""
    if answer.error is not None:
        raise errors.from_status(answer.error)
    return "OK" if answer.object is None else msgspec.Raw(answer.object.raw)
