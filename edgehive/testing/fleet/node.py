"""`HollowNode`: says what a stock edge says, acknowledges what it must, and pretends that pods run.

All state of a node is here; it has no task of its own. It offers nothing beyond Go, so any cloudcore treats it as a
stock edge. Devices are not spoken of.

Go: edge/pkg/edgehub, edge/pkg/metamanager, edge/pkg/edged
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import msgspec

from edgehive.api.meta import Status
from edgehive.beehive.message import Message
from edgehive.kit.clock import Clock, rfc3339_micro, unix_millis
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.testing.fleet import objects
from edgehive.testing.fleet.hub_socket import HubSocket, dial, upgrade_request
from edgehive.testing.fleet.journal import Journal
from edgehive.wire import codec, payloads
from edgehive.wire.link import LinkClosed, ProtocolError
from edgehive.wire.names import Group, Operation, ResourceType, Source
from edgehive.wire.resource import Resource

ANSWER_SECONDS = 30.0


class Refused(Exception):
    """The cloud answered a node's request with an error; the text names both."""


class _Meta(msgspec.Struct, rename="camel"):
    name: str = ""
    uid: str = ""
    deletion_timestamp: str | None = None


class _ConfigMapSource(msgspec.Struct):
    name: str = ""


class _Volume(msgspec.Struct, rename="camel"):
    config_map: _ConfigMapSource | None = None


class _Spec(msgspec.Struct):
    volumes: list[_Volume] | None = None


class _Pod(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


_pod_decoder = msgspec.json.Decoder(_Pod)
_OBJECT_OPERATIONS = (Operation.INSERT, Operation.UPDATE, Operation.DELETE)
Answer = Callable[[Message], None]
#: Until a status that was refused is said again.
SAY_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Hub:
    """Where nodes connect to, and how they name their project."""

    host: str
    port: int
    project_id: str


class HollowNode:
    """One node of the fleet."""

    def __init__(self, name: str, hub: Hub, journal: Journal, clock: Clock) -> None:
        self.name = name
        self.uid = ""
        #: Wire path and uid of every pod it was told to run.
        self.pods: dict[str, str] = {}
        self.context: ssl.SSLContext | None = None
        self._hub = hub
        self._journal = journal
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._socket: HubSocket | None = None
        self._dials = 0
        self._asked: dict[str, tuple[str, float, Answer | None]] = {}
        self._futures: set[asyncio.Future[Message]] = set()
        self._lease: dict[str, Any] | None = None
        self._configs: set[str] = set()
        self._ending: set[str] = set()

    @property
    def connected(self) -> bool:
        return self._socket is not None

    # The link

    async def connect(self) -> None:
        """Dial and say hello; raises LinkClosed."""
        assert self.context is not None
        hub, began = self._hub, perf_counter()
        request = upgrade_request(f"{hub.host}:{hub.port}", self.name, hub.project_id)
        self._dials += 1
        ended = partial(self._ended, self._dials)
        self._socket = await dial((hub.host, hub.port), self.context, request, self._receive, ended)
        self._journal.took("connect", perf_counter() - began)
        self.keepalive()

    def cut(self) -> None:
        """Lose the connection without a word."""
        if self._socket is not None:
            self._socket.cut("cut by the fleet")

    def keepalive(self) -> None:
        """Nothing happens while the connection is ending."""
        if self._socket is None:
            return
        with contextlib.suppress(LinkClosed):
            self._send(payloads.keepalive(timestamp=self._now()))
            self._journal.counts["keepalives"] += 1

    def _ended(self, dial: int, reason: str) -> None:
        self._journal.count("connections ended")
        if dial != self._dials:
            return  # another has taken its place
        self._socket = None
        self._asked.clear()
        for future in self._futures:
            if not future.done():
                future.set_exception(LinkClosed(reason))
        self._futures.clear()

    def _send(self, message: Message) -> None:
        if self._socket is None:
            raise LinkClosed(f"{self.name} is not connected")
        self._socket.send(codec.encode(message))

    # Asking

    def ask(self, what: str, operation: str, resource: str, content: Any, on_answer: Answer | None = None) -> None:
        """Send a request of edged; the time to its answer goes under `what`."""
        message = Message.of(
            source=Source.EDGED,
            group=Group.META,
            operation=operation,
            resource=resource,
            content=content,
            timestamp=self._now(),
        )
        self._asked[message.id] = (what, perf_counter(), on_answer)
        self._send(message)

    async def request(self, what: str, operation: str, resource: str, content: Any = None) -> Message:
        """The answer; raises LinkClosed, or Refused when none comes."""
        future: asyncio.Future[Message] = self._loop.create_future()
        self._futures.add(future)

        def answered(answer: Message) -> None:
            if not future.done():
                future.set_result(answer)

        try:
            self.ask(what, operation, resource, content, answered)
            async with asyncio.timeout(ANSWER_SECONDS):
                return await future
        except TimeoutError:
            self._journal.count("answers missing")
            raise Refused(f"{self.name}: no answer to {what} in {ANSWER_SECONDS:g} s") from None
        finally:
            self._futures.discard(future)

    # What a node says

    async def register(self) -> None:
        """As a stock edge: asks for its lease, inserts its Node, reports its status, takes its lease."""
        known = spawn(self.request("lease query", Operation.QUERY, self._lease_path), name=f"{self.name} lease")
        try:
            node = objects.node(self.name, self._clock.now())
            self._learn(await self.request("node insert", Operation.INSERT, f"null/node/{self.name}", node))
            await self.report_node()
            self._keep_lease(await known)
        finally:
            await cancel_and_join(known)
        if self._lease is None:
            lease = objects.lease(self.name, self.uid, self._clock.now())
            answer = await self.request("lease create", Operation.INSERT, self._lease_path, lease)
            self._keep_lease(answer)
            if self._lease is None:
                raise Refused(f"{self.name}: its lease was refused: {_said(payloads.read_reply(answer).error)}")

    async def report_node(self) -> None:
        patch = objects.node_patch(self._clock.now())
        answer = await self.request("node status", Operation.PATCH, f"null/nodepatch/{self.name}", patch)
        if error := payloads.read_reply(answer).error:
            raise Refused(f"{self.name}: its status was refused: {_said(error)}")
        self._learn(answer)

    def renew_lease(self) -> None:
        """Renew it without waiting; nothing happens while that is not possible."""
        if self._lease is not None and self._socket is not None:
            lease = self._renewed(self._lease)
            with contextlib.suppress(LinkClosed):
                self.ask("lease renewal", Operation.UPDATE, self._lease_path, lease, self._lease_answered)

    async def renewed(self) -> None:
        """Renew the lease and wait for the answer."""
        if self._lease is None:
            raise Refused(f"{self.name} has no lease: it is not registered")
        lease = self._renewed(self._lease)
        self._lease_answered(await self.request("lease renewal", Operation.UPDATE, self._lease_path, lease))

    async def report_pod(self, path: str, restarts: int) -> None:
        """Another status of a pod it runs, in a closed loop."""
        patch = objects.pod_status(self.pods[path], self._clock.now(), restarts)
        resource = path.replace("/pod/", "/podpatch/")
        answer = await self.request("pod status patch", Operation.PATCH, resource, patch)
        if error := payloads.read_reply(answer).error:
            raise Refused(f"{self.name}: the status of {path} was refused: {_said(error)}")

    def run_pod(self, path: str) -> None:
        """Say that a pod runs, without waiting; what is refused is said again, as edges do."""
        if path not in self.pods or not self.connected:
            return
        patch = objects.pod_status(self.pods[path], self._clock.now())
        resource = path.replace("/pod/", "/podpatch/")

        def answered(answer: Message) -> None:
            if payloads.read_reply(answer).error is not None:
                self._journal.count("pod statuses refused")
                self._loop.call_later(SAY_AGAIN_SECONDS, self.run_pod, path)

        self.ask("pod reported Running", Operation.PATCH, resource, patch, answered)

    # What it is told

    def _receive(self, frame: bytes) -> None:
        try:
            message = codec.decode(frame)
        except ProtocolError as error:
            self._journal.count("broken frames")
            if self._socket is not None:
                self._socket.cut(str(error))
            return
        try:
            self._take(message)
        except LinkClosed:
            self._journal.count("words lost with their connection")

    def _take(self, message: Message) -> None:
        control = payloads.control_answer(message, timestamp=self._now())
        if control is not None:
            self._send(control)
            return
        route = message.route
        path = Resource.parse(route.resource) if route.resource.count("/") >= 2 else None
        # A stock edge acknowledges what is told of leases too.
        if payloads.needs_ack(message) or (path is not None and path.type == ResourceType.LEASE):
            self._send(payloads.acknowledge(message, timestamp=self._now()))
            self._journal.counts["acknowledgements"] += 1
        if message.header.parent_id:
            self._answered(message)
        elif path is not None and route.operation in _OBJECT_OPERATIONS:
            self._told(path.type, message)

    def _answered(self, message: Message) -> None:
        asked = self._asked.pop(message.header.parent_id, None)
        if asked is None:
            self._journal.count("answers nobody waits for")
            return
        what, since, on_answer = asked
        self._journal.took(what, perf_counter() - since)
        if on_answer is not None:
            on_answer(message)

    def _told(self, type: str, message: Message) -> None:
        path = message.route.resource
        if type == ResourceType.POD:
            self._told_pod(path, message)
        elif type == ResourceType.CONFIG_MAP:
            version = message.header.resourceversion
            self._journal.config_delivered(path, int(version) if version.isdecimal() else 0, perf_counter())

    def _told_pod(self, path: str, message: Message) -> None:
        pod = _pod_decoder.decode(message.content)
        uid = pod.metadata.uid
        if message.route.operation == Operation.DELETE:
            if self.pods.get(path) == uid:
                del self.pods[path]
            self._ending.discard(uid)
            self._journal.pod_gone(pod.metadata.name, perf_counter())
            return
        new = self.pods.get(path) != uid
        if new:
            self.pods[path] = uid
            self._journal.pod_delivered(pod.metadata.name, perf_counter())
        if pod.metadata.deletion_timestamp:
            self._end_pod(path, uid)
        elif new:
            self._fetch_configs(path, pod)
            if self._journal.answering:
                self.run_pod(path)

    def _end_pod(self, path: str, uid: str) -> None:
        if uid not in self._ending:
            self._ending.add(uid)
            self.ask("pod end confirmed", Operation.DELETE, path, objects.delete_options(uid))

    def _fetch_configs(self, path: str, pod: _Pod) -> None:
        """What a pod mounts is asked for once, as by an edge whose database has it then."""
        namespace = path.partition("/")[0]
        for volume in pod.spec.volumes or ():
            if volume.config_map is not None:
                wanted = f"{namespace}/{ResourceType.CONFIG_MAP}/{volume.config_map.name}"
                if wanted not in self._configs:
                    self._configs.add(wanted)
                    self.ask("ConfigMap query", Operation.QUERY, wanted, None)

    # Inside

    @property
    def _lease_path(self) -> str:
        return f"{objects.LEASE_NAMESPACE}/lease/{self.name}"

    def _renewed(self, lease: dict[str, Any]) -> dict[str, Any]:
        spec = lease.get("spec", {}) | {"renewTime": rfc3339_micro(self._clock.now())}
        return lease | {"spec": spec}

    def _lease_answered(self, answer: Message) -> None:
        if not self._keep_lease(answer):
            self._journal.count("lease renewals refused")

    def _keep_lease(self, answer: Message) -> bool:
        reply = payloads.read_reply(answer)
        if reply.error is not None or reply.object is None:
            return False
        self._lease = reply.object.to_dict()
        return True

    def _learn(self, answer: Message) -> None:
        reply = payloads.read_reply(answer)
        if reply.error is None and reply.object is not None:
            self.uid = reply.object.meta.uid
        elif reply.error is not None and reply.error.reason != "AlreadyExists":
            raise Refused(f"{self.name}: the cloud refuses the node: {_said(reply.error)}")

    def _now(self) -> int:
        return unix_millis(self._clock.now())


def _said(error: Status | None) -> str:
    return (error.message or error.reason) if error is not None else "no reason given"
