"""Tables of flows and the engine that runs them: the one way objects go down and requests come up.

A flow file is one slice: `@downstream(KIND)` turns a change of the API into what nodes are to be told,
`@upstream(type, operation)` turns a node's request into an API call and its answer. A flow neither sends nor
addresses; the engine does. Requests on one resource of one node run in their order, others side by side and
bounded; an error of the API becomes the error reply of that request and never more.

Go: cloud/pkg/edgecontroller/controller/{upstream,downstream}.go
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import ModuleType
from typing import Any, Generic, TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from edgehive.api.document import Document
from edgehive.api.meta import Status
from edgehive.api.registry import ApiResource
from edgehive.beehive.bus import Bus, MailboxFull, NoSuchModule
from edgehive.beehive.message import Message, raw
from edgehive.cloudcore.objectsync import DeliveryRecords
from edgehive.kit import metrics
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import Clock, unix_millis
from edgehive.kit.mailbox import Mailbox
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.errors import ApiError, BadRequest, ServiceUnavailable, TooManyRequests, Unreachable
from edgehive.kube.informer import Change, Changes, Informers
from edgehive.wire import payloads
from edgehive.wire import resource as paths
from edgehive.wire.names import OK, CloudModule, Group, Operation, Source
from edgehive.wire.resource import Resource

log = logging.getLogger("edgehive.cloudcore.flows")

C = TypeVar("C")

#: A request that the API has not answered by then is answered with an error: the edge waits 60 s.
REQUEST_SECONDS = 40.0
#: Requests of one node about one object that wait; further ones are turned away.
LANE_LIMIT = 256
#: How what is never answered is tried again, and how many of those may wait; further ones are given up.
INSIST = Backoff(first=1.0, factor=2.0, limit=30.0, jitter=0.3)
INSIST_LIMIT = 4096


class Envelope(Enum):
    """How an answer is wrapped, and so how an error is."""

    BARE = "the object itself, or ErrStatus"
    OBJECT = "Object and Err"
    OK = "the text OK, or ErrStatus"
    NONE = "nothing is answered"


@dataclass(frozen=True, slots=True)
class Down:
    """Tell `node` of an object; `document` carries its kind, name, uid and version."""

    node: str
    operation: str
    resource: ApiResource
    document: Document


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The object has a new version that holds no news for `node`."""

    node: str
    old: Document
    new: Document


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; without `path` it goes under the request's."""

    content: Any
    resource_version: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One message from a node, its path taken apart."""

    message: Message
    resource: Resource

    @property
    def node(self) -> str:
        return self.resource.node

    @property
    def operation(self) -> str:
        return self.message.route.operation

    def read(self, type: type[C]) -> C:
        """Decode the content; a wrong shape is the node's BadRequest."""
        try:
            return self.message.read(type)
        except msgspec.MsgspecError as error:
            raise BadRequest(f"content of {self.operation} {self.message.route.resource!r}: {error}") from error

    def json(self) -> bytes:
        """The content as JSON bytes, whether it came as an object or as a string that holds one."""
        content = self.message.content_bytes()
        try:
            msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        except msgspec.MsgspecError as error:
            raise BadRequest(f"content of {self.operation} {self.message.route.resource!r}: {error}") from error
        return content


Answer = Reply | None | Sequence[Reply | Down]
#: What a change means for nodes; a message is sent as it is, for what is told and is no object.
Result = Down | Unchanged | Message
DownFunction = Callable[[Change, C], Iterable[Result]]
#: Takes a node's message where no table of requests does.
Take = Callable[[Message], Awaitable[None]]
UpFunction = Callable[[Request, C], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class DownFlow(Generic[C]):
    resource: ApiResource
    label_selector: str
    function: DownFunction[C]


@dataclass(frozen=True, slots=True)
class UpFlow(Generic[C]):
    type: str
    operations: tuple[str, ...]
    envelope: Envelope
    #: What stands in for the object of an OBJECT answer that is an error.
    empty: Mapping[str, Any] | None
    function: UpFunction[C]


def downstream(resource: ApiResource, *, label_selector: str = "") -> Callable[[DownFunction[C]], DownFlow[C]]:
    """Mark a function as the flow of one kind to the nodes."""

    def mark(function: DownFunction[C]) -> DownFlow[C]:
        return DownFlow(resource, label_selector, function)

    return mark


def upstream(
    type: str, *operations: str, envelope: Envelope = Envelope.BARE, empty: Mapping[str, Any] | None = None
) -> Callable[[UpFunction[C]], UpFlow[C]]:
    """Mark a function as the answer to requests of one type and some operations."""

    def mark(function: UpFunction[C]) -> UpFlow[C]:
        return UpFlow(type, operations, envelope, empty, function)

    return mark


def flows_of(*files: ModuleType) -> tuple[list[DownFlow[Any]], list[UpFlow[Any]]]:
    """The flows of flow files, in the order they stand there."""
    found = [value for file in files for value in vars(file).values()]
    return [flow for flow in found if isinstance(flow, DownFlow)], [flow for flow in found if isinstance(flow, UpFlow)]


def down_message(down: Down, *, source: str, timestamp: int) -> Message:
    """The message for cloudhub that tells a node of an object."""
    meta = down.document.meta
    path = paths.of(down.resource.edge_type, meta.namespace, meta.name, down.node)
    return Message.of(
        source=source,
        group=Group.RESOURCE,
        operation=down.operation,
        resource=str(path),
        content=msgspec.Raw(down.document.raw),
        resource_version=meta.resource_version,
        timestamp=timestamp,
    )


def error_status(error: ApiError) -> Status:
    """The Status a node is told; an API that did not answer is a service that is not available."""
    if isinstance(error, Unreachable):
        return Status(message=f"the Kubernetes API cannot be reached: {error}", reason="ServiceUnavailable", code=503)
    return error.status


def error_reply(flow: UpFlow[Any], error: ApiError) -> Reply | None:
    """The error answer in the envelope of the flow."""
    if flow.envelope is Envelope.NONE:
        return None
    status = error_status(error)
    if flow.envelope is Envelope.OBJECT:
        return Reply(payloads.object_response(flow.empty, status))
    return Reply(payloads.error_content(status))


class FlowEngine(Generic[C]):
    """Runs the flows of one module: `run` for what goes down, `serve` for what comes up."""

    def __init__(
        self,
        name: str,
        *,
        bus: Bus,
        informers: Informers,
        records: DeliveryRecords,
        clock: Clock,
        context: C,
        flows: tuple[list[DownFlow[C]], list[UpFlow[C]]],
        at_once: int = 128,
        source: str = Source.EDGE_CONTROLLER,
        owns: Callable[[str], bool] = lambda _: True,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._owns = owns
        self._name = name
        self._bus = bus
        self._informers = informers
        self._records = records
        self._clock = clock
        self._context = context
        self._source = source
        self._downs, ups = flows
        self._ups = {(flow.type, operation): flow for flow in ups for operation in flow.operations}
        self._lanes: dict[tuple[str, str, str], deque[Request]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(at_once)
        self._insisting = 0
        self._longest_lane = 0
        self._tell_metrics(registry)

    def _tell_metrics(self, registry: CollectorRegistry | None) -> None:
        for name, text, told in (
            ("edgehive_lane_requests", "Requests that wait for another of their object.", self._waiting),
            ("edgehive_lane_most_requests", "Requests about one object that waited, at most.", self._longest),
        ):
            metrics.gauge(name, text, ["module"], registry=registry).labels(self._name).set_function(told)

    def _waiting(self) -> int:
        return sum(map(len, self._lanes.values()))

    def _longest(self) -> int:
        return self._longest_lane

    # Down

    async def run(self, mailbox: Mailbox[Message], ready: Callable[[], None], take: Take | None = None) -> None:
        """Tell nodes everything there is, then what changes, and answer requests (or have `take` do it)."""
        informers = [self._informers.of(flow.resource, label_selector=flow.label_selector) for flow in self._downs]
        await asyncio.gather(*(informer.wait_synced() for informer in informers))
        lines = [informer.changes() for informer in informers]
        for flow, line in zip(self._downs, lines, strict=True):
            # In the order of the table: nodes and pods are known before what they refer to is sent.
            while len(line):
                await self._tell(flow, await anext(line))
        async with asyncio.TaskGroup() as group:
            for flow, line in zip(self._downs, lines, strict=True):
                group.create_task(self._follow(flow, line), name=f"{self._name} {flow.resource.plural}")
            group.create_task(self._serve(mailbox, take or self._admit), name=f"{self._name} requests")
            ready()

    async def _follow(self, flow: DownFlow[C], line: Changes) -> None:
        async with line:
            async for change in line:
                await self._tell(flow, change)

    async def _tell(self, flow: DownFlow[C], change: Change) -> None:
        try:
            results = list(flow.function(change, self._context))
        except msgspec.MsgspecError as error:
            log.warning("not sent: %s cannot be read: %s", change.document, error)
            return
        await self.deliver(results)

    async def deliver(self, results: Iterable[Result]) -> None:
        """Send what a flow has found, in its order."""
        for result in results:
            if isinstance(result, Unchanged):
                self._note_unchanged(result)
            elif isinstance(result, Message):
                await self.send(result)
            else:
                await self.send(down_message(result, source=self._source, timestamp=self._now()))

    def _note_unchanged(self, result: Unchanged) -> None:
        old, new = result.old.meta, result.new.meta
        if old.resource_version.isdecimal() and new.resource_version.isdecimal():
            self._records.unchanged(
                result.node, new.namespace, new.uid, int(old.resource_version), int(new.resource_version)
            )

    async def send(self, message: Message) -> None:
        """Hand a message to cloudhub; waits while the hub is full or restarting, since nothing may be lost."""
        while True:
            try:
                await self._bus.send(CloudModule.CLOUD_HUB, message)
                return
            except (MailboxFull, NoSuchModule) as error:
                log.warning("waiting for cloudhub: %s", error)
                await asyncio.sleep(1.0)

    def _now(self) -> int:
        return unix_millis(self._clock.now())

    # Up

    async def _serve(self, mailbox: Mailbox[Message], take: Take) -> None:
        try:
            async for message in mailbox:
                await take(message)
        finally:
            await cancel_and_join(*self._tasks)

    async def _admit(self, message: Message) -> None:
        """Put a request into its lane, where there is room; a lane without a worker waits for one."""
        try:
            resource = Resource.parse(message.route.resource, prefixed=True)
        except ValueError as error:
            log.warning("ignored a message of operation %r: %s", message.route.operation, error)
            return
        request = Request(message, resource)
        key = (resource.node, resource.namespace, resource.name)
        lane = self._lanes.get(key)
        if lane is None:
            await self._open_lane(key, request)
        elif len(lane) < LANE_LIMIT:
            lane.append(request)
            self._longest_lane = max(self._longest_lane, len(lane))
        else:
            await self._turn_away(request)

    async def _open_lane(self, key: tuple[str, str, str], request: Request) -> None:
        await self._at_once.acquire()
        self._lanes[key] = deque([request])
        task = spawn(self._work(key), name=f"{self._name} {request.message.route.resource}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _turn_away(self, request: Request) -> None:
        """So many requests about one object wait that this one would not be answered in time."""
        flow = self._ups.get((request.resource.type, request.operation))
        error = TooManyRequests(f"{LANE_LIMIT} requests about {request.resource._replace(node='')} wait: ask later")
        answer = error_reply(flow, error) if flow is not None else None
        if answer is not None:
            await self.send(self._reply_message(request, answer))

    async def _work(self, key: tuple[str, str, str]) -> None:
        lane = self._lanes[key]
        try:
            while lane:
                await self._answer(lane.popleft())
        finally:
            del self._lanes[key]
            self._at_once.release()

    async def _answer(self, request: Request) -> None:
        flow = self._ups.get((request.resource.type, request.operation))
        if flow is None:
            log.warning("node %s: nothing serves %s %s", request.node, request.operation, request.resource)
            return
        answer = await self._perform(flow, request)
        for item in [answer] if isinstance(answer, Reply) else answer or []:
            if isinstance(item, Reply):
                await self.send(self._reply_message(request, item))
            else:
                await self.send(down_message(item, source=self._source, timestamp=self._now()))

    async def _perform(self, flow: UpFlow[C], request: Request) -> Answer:
        if flow.envelope is Envelope.NONE:
            return await self._insist(flow, request)
        return await self._once(flow, request)

    async def _insist(self, flow: UpFlow[C], request: Request) -> Answer:
        """What is never answered nobody repeats: it is tried again here while the API is in trouble.

        Waiting takes no worker from the others. Done twice, such a request does no harm.
        """
        for delay in INSIST.delays():
            try:
                async with asyncio.timeout(REQUEST_SECONDS):
                    return await flow.function(request, self._context)
            except (ApiError, TimeoutError) as error:
                lasting = isinstance(error, ApiError) and not error.transient
                if lasting or self._insisting >= INSIST_LIMIT:
                    log.info("node %s: %s %s: %s", request.node, request.operation, request.resource, error)
                    return None
            except Exception:
                log.exception("node %s: %s %s failed", request.node, request.operation, request.resource)
                return None
            await self._step_aside(delay)
        return None

    async def _step_aside(self, delay: float) -> None:
        self._insisting += 1
        self._at_once.release()
        try:
            await asyncio.sleep(delay)
        finally:
            self._insisting -= 1
        await self._at_once.acquire()

    async def _once(self, flow: UpFlow[C], request: Request) -> Answer:
        if not self._owns(request.node):
            # The node asks the cloudcore it went to; done here too, it might undo what that one has done.
            return error_reply(flow, ServiceUnavailable("another cloudcore claims this node; ask again"))
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await flow.function(request, self._context)
        except ApiError as error:
            log.info("node %s: %s %s: %s", request.node, request.operation, request.resource, error)
            return error_reply(flow, error)
        except TimeoutError:
            return error_reply(flow, Unreachable(f"no answer within {REQUEST_SECONDS:g} s"))
        except Exception:
            # One request must not end the module that serves all nodes.
            log.exception("node %s: %s %s failed", request.node, request.operation, request.resource)
            return error_reply(flow, ApiError("cloudcore failed on this request; its log says why"))

    def _reply_message(self, request: Request, reply: Reply) -> Message:
        path = reply.path or str(request.resource._replace(node=""))
        return request.message.reply(
            reply.content,
            timestamp=self._now(),
            operation=Operation.RESPONSE,
            source=self._source,
            group=Group.RESOURCE,
            resource=paths.add_node(request.node, path),
            resource_version=reply.resource_version,
        )


def bare(document: Document) -> Reply:
    """A document as it is."""
    return Reply(msgspec.Raw(document.raw), document.meta.resource_version)


def object_reply(document: Document, *, versioned: bool = True) -> Reply:
    """A document in the Object/Err envelope."""
    version = document.meta.resource_version if versioned else ""
    return Reply(payloads.object_response(document), version)


def ok(*, path: str = "", resource_version: str = "") -> Reply:
    """The text OK."""
    return Reply(raw(OK), resource_version, path)
