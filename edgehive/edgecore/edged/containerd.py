"""The part of containerd that CRI does not speak: task events, and importing images without a registry.

For edged (events) and edgesite (images). It uses containerd's `k8s.io` namespace, the one CRI looks into.
"""

import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from edgehive.edgecore.edged.rpc import Connection, RuntimeRefused
from edgehive.kit.clock import Clock, SystemClock, rfc3339
from edgehive.protos import containerd_content_pb2 as content
from edgehive.protos import containerd_events_pb2 as events
from edgehive.protos import containerd_images_pb2 as images
from edgehive.protos import containerd_leases_pb2 as leases
from edgehive.protos import containerd_tasks_pb2 as tasks
from edgehive.protos import containerd_types_pb2 as types
from edgehive.protos import containerd_version_pb2 as version

if TYPE_CHECKING:
    from grpclib.client import Stream

NAMESPACE = "k8s.io"
_CHUNK = 1024 * 1024
_TIMEOUT = 30.0
_WRITE_TIMEOUT = 300.0
#: A lease a crashed import leaves behind ends by itself.
_LEASE = timedelta(minutes=10)


class TaskEventKind(Enum):
    """The endings of containerd's task topics that matter for pods."""

    START = "start"
    EXIT = "exit"
    OOM = "oom"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """Something happened to a container's (or a sandbox's) process; the id is CRI's id."""

    kind: TaskEventKind
    container_id: str
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class Blob:
    """One content-addressed piece of an image."""

    digest: str
    media_type: str
    data: bytes
    labels: Mapping[str, str] | None = None


class Containerd:
    """Calls on containerd's own services."""

    def __init__(self, endpoint: str, clock: Clock | None = None) -> None:
        self._connection = Connection(endpoint, {"containerd-namespace": NAMESPACE})
        self._clock = clock or SystemClock()

    async def __aenter__(self) -> "Containerd":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    async def version(self) -> str:
        """Its version text; the cheapest proof that it answers."""
        method = "/containerd.services.version.v1.Version/Version"
        return (await self._connection.call(method, Empty(), version.VersionResponse, timeout=5.0)).version

    async def task_events(self) -> AsyncIterator[TaskEvent]:
        """Live task events, none from before; ends with RuntimeRefused when containerd goes: relist and come back."""
        request = events.SubscribeRequest(filters=[f'namespace=="{NAMESPACE}",topic~="^/tasks/"'])
        method = "/containerd.services.events.v1.Events/Subscribe"
        async for envelope in self._connection.subscribe(method, request, events.Envelope):
            event = read_task_event(envelope)
            if event is not None:
                yield event

    async def import_image(self, name: str, blobs: list[Blob], manifest: Blob) -> None:
        """Store the blobs (layers, config), then the manifest, and give it this full name. Idempotent."""
        lease = await self._lease()
        try:
            for blob in (*blobs, manifest):
                await self._write(blob, lease)
            await self._name(name, manifest, lease)
        finally:
            await self._connection.call(
                "/containerd.services.leases.v1.Leases/Delete",
                leases.DeleteRequest(id=lease["containerd-lease"]),
                Empty,
                timeout=_TIMEOUT,
            )

    async def _lease(self) -> dict[str, str]:
        """Metadata that keeps what the following calls write from the garbage collector."""
        request = leases.CreateRequest(
            id=f"edgehive-{uuid.uuid4()}", labels={"containerd.io/gc.expire": rfc3339(self._clock.now() + _LEASE)}
        )
        method = "/containerd.services.leases.v1.Leases/Create"
        reply = await self._connection.call(method, request, leases.CreateResponse, timeout=_TIMEOUT)
        return {"containerd-lease": reply.lease.id}

    async def _write(self, blob: Blob, lease: Mapping[str, str]) -> None:
        method = "/containerd.services.content.v1.Content/Write"
        try:
            async with self._connection.converse(
                method,
                content.WriteContentRequest,
                content.WriteContentResponse,
                timeout=_WRITE_TIMEOUT,
                metadata=lease,
            ) as stream:
                await _send(stream, blob, ref=f"{lease['containerd-lease']}-{blob.digest}")
        except RuntimeRefused as error:
            if not error.already_exists:
                raise

    async def _name(self, name: str, manifest: Blob, lease: Mapping[str, str]) -> None:
        target = types.Descriptor(media_type=manifest.media_type, digest=manifest.digest, size=len(manifest.data))
        image = images.Image(name=name, target=target)
        service = "/containerd.services.images.v1.Images/"
        try:
            await self._connection.call(
                service + "Create",
                images.CreateImageRequest(image=image),
                images.CreateImageResponse,
                timeout=_TIMEOUT,
                metadata=lease,
            )
        except RuntimeRefused as error:
            if not error.already_exists:
                raise
            await self._connection.call(
                service + "Update",
                images.UpdateImageRequest(image=image, update_mask=FieldMask(paths=["target"])),
                images.UpdateImageResponse,
                timeout=_TIMEOUT,
                metadata=lease,
            )


def read_task_event(envelope: events.Envelope) -> TaskEvent | None:
    """What an envelope says, None for topics that do not matter and for processes started by exec."""
    try:
        kind = TaskEventKind(envelope.topic.removeprefix("/tasks/"))
    except ValueError:
        return None
    if kind is TaskEventKind.EXIT:
        exited = tasks.TaskExit.FromString(envelope.event.value)
        if exited.id not in ("", exited.container_id):
            return None
        return TaskEvent(kind, exited.container_id, exited.exit_status)
    # Every task event carries the container's id in field 1.
    return TaskEvent(kind, tasks.TaskOOM.FromString(envelope.event.value).container_id)


async def _send(
    stream: "Stream[content.WriteContentRequest, content.WriteContentResponse]", blob: Blob, *, ref: str
) -> None:
    """Write the blob in pieces, each acknowledged, and commit with its digest."""
    total = len(blob.data)
    for offset, piece in _pieces(blob.data):
        await stream.send_message(
            content.WriteContentRequest(
                action=content.WRITE, ref=ref, total=total, expected=blob.digest, offset=offset, data=piece
            )
        )
        await stream.recv_message()
    await stream.send_message(
        content.WriteContentRequest(
            action=content.COMMIT,
            ref=ref,
            total=total,
            expected=blob.digest,
            offset=total,
            labels=dict(blob.labels or {}),
        ),
        end=True,
    )
    await stream.recv_message()


def _pieces(data: bytes) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, len(data), _CHUNK):
        yield offset, data[offset : offset + _CHUNK]
