"""The container runtime of a simulation: it outlives edged, and sees at every call that nothing runs twice.

edged may die at any call that changes something, before or after it was carried out.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from google.protobuf.message import Message

from edgehive.edgecore.edged.containerd import TaskEvent, read_task_event
from edgehive.edgecore.edged.cri import CriClient
from edgehive.edgecore.edged.podspec import POD_NAME, POD_NAMESPACE, POD_UID
from edgehive.edgecore.edged.rpc import Reply, RuntimeRefused
from edgehive.kit.clock import Clock
from edgehive.protos import cri_pb2 as cri
from edgehive.testing.cri import FakeRuntime
from edgehive.testing.pair.story import Story

_CHANGES = frozenset(
    {
        "RunPodSandbox", "StopPodSandbox", "RemovePodSandbox", "CreateContainer", "StartContainer", "StopContainer",
        "RemoveContainer",
    }
)  # fmt: skip


class SimulatedRuntime(FakeRuntime):
    """`faults` gathers what must never be seen."""

    def __init__(self, clock: Clock, story: Story, on_crash: Callable[[], None]) -> None:
        super().__init__(images=["localhost/app:1"], clock=clock)
        self.faults: list[tuple[str, str]] = []
        self.changes = 0
        self._story = story
        self._on_crash = on_crash
        self._left: int | None = None
        self._performed = False

    def crash_after(self, changes: int, *, performed: bool) -> None:
        """The edge dies at the change after so many."""
        self._left, self._performed = changes, performed

    def recover(self) -> None:
        self._left = None

    def heal(self) -> None:
        """It answers at once and refuses nothing."""
        self.recover()
        self.come_back()
        self._delays.clear()
        self._faults.clear()

    def client_of(self, life: "Life") -> CriClient:
        """Calls of one life of edged: none reaches the runtime after its end."""
        return CriClient(_Calls(self, life))

    async def events_of(self, life: "Life") -> AsyncIterator[TaskEvent]:
        async for envelope in self.task_events():
            event = read_task_event(envelope)
            if event is not None and life.alive:
                yield event

    async def called(self, method: str, request: Message) -> Message:
        self.calls.clear()
        if method not in _CHANGES:
            return await self.handle(method, request)
        self.changes += 1
        dying = self._left == 0
        if self._left:
            self._left -= 1
        if dying and not self._performed:
            await self._die(method)
        answer = await self.handle(method, request)
        self._note(method, request)
        if method == "StartContainer":
            self._look_for_twins(cast("cri.StartContainerRequest", request).container_id)
        if dying:
            await self._die(method)
        return answer

    def name_of(self, id: str) -> str:
        """Of the pod a container or a sandbox belongs to."""
        config = self.sandbox_configs.get(self.container_sandbox.get(id, id))
        return config.metadata.name if config is not None else ""

    def _note(self, method: str, request: Any) -> None:
        id = getattr(request, "container_id", "") or getattr(request, "pod_sandbox_id", "")
        config = getattr(request, "config", None)
        name = config.metadata.name if method == "RunPodSandbox" and config is not None else self.name_of(id)
        self._story.tell("runtime", f"{method} {id}".rstrip(), name)

    def _look_for_twins(self, started: str) -> None:
        labels = self.containers[started].labels
        pod, uid = (labels[POD_NAMESPACE], labels[POD_NAME]), labels[POD_UID]
        name = self.containers[started].metadata.name
        for id in self.running():
            other = self.containers[id]
            if id == started or (other.labels[POD_NAMESPACE], other.labels[POD_NAME]) != pod:
                continue
            if other.labels[POD_UID] != uid:
                self.faults.append((pod[1], f"two pods named {pod[1]} run: {id} and {started}"))
            elif other.metadata.name == name:
                self.faults.append((pod[1], f"container {name} of pod {pod[1]} runs twice: {id} and {started}"))

    async def _die(self, method: str) -> None:
        self._story.tell("runtime", f"the edge dies {'after' if self._performed else 'before'} {method}")
        self._left = None
        self._on_crash()
        await asyncio.Event().wait()


class Life:
    """One life of a process; what it still does after its end reaches nobody."""

    def __init__(self) -> None:
        self.alive = True


class _Calls:
    """A connection that is a function call; messages are copied, as a wire would."""

    path = "memory"

    def __init__(self, runtime: SimulatedRuntime, life: Life) -> None:
        self._runtime = runtime
        self._life = life

    async def call(self, method: str, request: Message, reply: type[Reply], *, timeout: float) -> Reply:
        name = method.rpartition("/")[2]
        if not self._life.alive:
            raise RuntimeRefused(name, "UNAVAILABLE", "the process is gone")
        try:
            async with asyncio.timeout(timeout):
                answer = await self._runtime.called(name, type(request).FromString(request.SerializeToString()))
        except TimeoutError:
            raise RuntimeRefused(name, "DEADLINE_EXCEEDED", "no answer in time") from None
        return reply.FromString(answer.SerializeToString())

    def close(self) -> None:
        """Nothing is open."""
