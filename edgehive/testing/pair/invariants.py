"""What must hold once everything works again and both halves have come to rest.

`differences` compares what the API says with what the edge stores, runs and reports; `at_rest` looks at what is left
over in memory and at how much is said while nothing happens.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from edgehive.api.document import Document
from edgehive.api.edge import split_object_sync_name
from edgehive.api.registry import (
    CLUSTER_OBJECT_SYNCS,
    CONFIG_MAPS,
    EVENTS,
    LEASES,
    NODES,
    OBJECT_SYNCS,
    PODS,
    SECRETS,
    ApiResource,
)
from edgehive.edgecore.edged.podspec import POD_UID
from edgehive.kit.clock import parse_rfc3339
from edgehive.kube.errors import NotFound
from edgehive.protos import cri_pb2 as cri
from edgehive.testing.pair.world import NODE, World

#: While nothing happens but that pods wait for objects: requests and messages in a minute; tasks in the process.
REQUESTS_A_MINUTE, MESSAGES_A_MINUTE, TASKS = 150, 150, 250
#: In one queue at once: a schedule makes a dozen objects, and one node tells of them.
QUEUED = 50
_STORED = {"configmap": CONFIG_MAPS, "secret": SECRETS}
Object = dict[str, Any]


class Finding(NamedTuple):
    """Something that must not be, and the name of the object it is about."""

    about: str
    text: str


async def differences(world: World, events: Iterable[str]) -> list[Finding]:
    """What edge and API disagree about."""
    pods = {item.meta.uid: item.to_dict() for item in (await world.client.list(PODS)).items}
    objects = {
        type: {item.meta.name: item.to_dict() for item in (await world.client.list(kind)).items}
        for type, kind in _STORED.items()
    }
    told = {item.meta.name for item in (await world.client.list(EVENTS)).items}
    found = [*_stored(world, pods), *_stored_objects(world, pods, objects), *_left_over(world, pods)]
    for pod in pods.values():
        found += _runs(world, pod, objects)
    found += [Finding(name, f"event {name} was on the edge's disk and never arrived") for name in set(events) - told]
    found += [Finding("", text) for text in await _node(world)]
    return found + await _records(world)


def _stored(world: World, pods: Mapping[str, Object]) -> Iterable[Finding]:
    rows = {item["metadata"]["uid"]: item for item in _rows(world, "pod")}
    for uid in {*rows, *pods}:
        name = (pods.get(uid) or rows[uid])["metadata"]["name"]
        if uid not in rows:
            yield Finding(name, f"pod {name} ({uid}) is not on the edge's disk")
        elif uid not in pods:
            yield Finding(name, f"pod {name} ({uid}) is on the edge's disk and not in the API")
        elif _essence(rows[uid]) != _essence(pods[uid]):
            yield Finding(name, f"pod {name} is stored as {_essence(rows[uid])}, the API says {_essence(pods[uid])}")


def _stored_objects(
    world: World, pods: Mapping[str, Object], objects: Mapping[str, Mapping[str, Object]]
) -> Iterable[Finding]:
    """An old row that no pod needs any more may stay (decision 0013); nobody reads it without asking the cloud."""
    used = {source for pod in pods.values() for source in _needs(pod)}
    for type, wanted in objects.items():
        for row in _rows(world, type):
            name = row["metadata"]["name"]
            if name not in wanted:
                yield Finding(name, f"{type} {name} is on the edge's disk and not in the API")
            elif (type, name) in used and _essence(row) != _essence(wanted[name]):
                yield Finding(name, f"{type} {name} is stored as {_essence(row)}, not {_essence(wanted[name])}")


def _left_over(world: World, pods: Mapping[str, Object]) -> Iterable[Finding]:
    """What nobody wants: sandboxes, containers, folders, and reports that stay on disk."""
    runtime = world.runtime
    for id, sandbox in runtime.sandboxes.items():
        if sandbox.labels[POD_UID] not in pods:
            yield Finding(sandbox.metadata.name, f"{id} of pod {sandbox.metadata.name} is left over")
    for id, status in runtime.containers.items():
        if runtime.container_sandbox[id] not in runtime.sandboxes:
            yield Finding(status.metadata.name, f"{id} is left over without its sandbox")
    folder = world.root / "pods"
    for place in folder.iterdir() if folder.is_dir() else ():
        if place.name not in pods:
            yield Finding("", f"the folder of pod {place.name} is left over")
    for table in ("outbox", "unanswered"):
        for (message,) in world.database.look(f"SELECT message FROM {table}"):  # noqa: S608
            yield Finding("", f"{table} still holds {str(message)[:300]}")


def _runs(world: World, pod: Object, objects: Mapping[str, Mapping[str, Object]]) -> Iterable[Finding]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    if "deletionTimestamp" in pod["metadata"]:
        yield Finding(name, f"pod {name} is still ending")
        return
    if not _blocked(pod, objects):
        yield from _mounted(world, pod, objects)
    expected = "Running" if pod["spec"].get("restartPolicy", "Always") == "Always" else "Succeeded or Running"
    if status.get("phase") not in expected.split(" or ") and not _blocked(pod, objects):
        yield Finding(name, f"pod {name} is {status.get('phase')!r}, not {expected}: {_short(status)}")
    shown = {
        item["name"]: item for key in ("containerStatuses", "initContainerStatuses") for item in status.get(key) or ()
    }
    for container in (*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ())):
        yield from _shown(world, pod, container["name"], shown.get(container["name"], {}))


def _shown(world: World, pod: Object, container: str, shown: Object) -> Iterable[Finding]:
    """Whether the API tells of the container what the runtime would."""
    name = pod["metadata"]["name"]
    found = [
        item
        for item in world.runtime.containers.values()
        if item.labels[POD_UID] == pod["metadata"]["uid"] and item.metadata.name == container
    ]
    running = [item.id for item in found if item.state == cri.CONTAINER_RUNNING]
    if len(running) > 1:
        yield Finding(name, f"container {container} of pod {name} runs {len(running)} times")
    latest = max(found, key=lambda item: (item.metadata.attempt, item.created_at), default=None)
    if latest is None:
        if shown.get("containerID"):
            yield Finding(name, f"container {container} of pod {name} is shown as {_short(shown)}, and there is none")
        return
    state = {cri.CONTAINER_RUNNING: "running", cri.CONTAINER_EXITED: "terminated"}.get(latest.state, "waiting")
    if state not in (shown.get("state") or {}) or shown.get("containerID", "").rpartition("/")[2] != latest.id:
        yield Finding(name, f"container {container} of pod {name} is {latest.id} ({state}), shown as {_short(shown)}")


def _blocked(pod: Object, objects: Mapping[str, Mapping[str, Object]]) -> bool:
    """Whether the pod waits for an object that is not there (or was made before that went)."""
    return any(name not in objects[type] for type, name in _needs(pod))


def _needs(pod: Object) -> list[tuple[str, str]]:
    return [source for volume in pod["spec"].get("volumes") or () for source in _sources(volume)]


def _mounted(world: World, pod: Object, objects: Mapping[str, Mapping[str, Object]]) -> Iterable[Finding]:
    for volume in pod["spec"].get("volumes") or ():
        for type, name in _sources(volume):
            place = world.root / "pods" / pod["metadata"]["uid"] / "volumes" / f"kubernetes.io~{type}" / volume["name"]
            wanted = objects[type][name].get("data") or {}
            held = {item.name: item.read_text() for item in place.iterdir() if item.is_symlink()
                    and not item.name.startswith("..")} if place.is_dir() else {}  # fmt: skip
            if type == "secret":
                wanted = {key: _plain(value) for key, value in wanted.items()}
            if held != wanted:
                pod_name = pod["metadata"]["name"]
                yield Finding(pod_name, f"volume {volume['name']} of pod {pod_name} holds {held}, {name} is {wanted}")


def _sources(volume: Object) -> list[tuple[str, str]]:
    if "configMap" in volume:
        return [("configmap", volume["configMap"]["name"])]
    return [("secret", volume["secret"]["secretName"])] if "secret" in volume else []


async def _node(world: World) -> Iterable[str]:
    """The node is there, ready, and tells so."""
    now = world.edge_clock.now()
    try:
        node = (await world.client.get(NODES, NODE)).to_dict()
        lease = (await world.client.get(LEASES, NODE, "kube-node-lease")).to_dict()
    except NotFound as error:
        return [str(error)]
    ready: Object = next((item for item in node["status"].get("conditions") or () if item["type"] == "Ready"), {})
    found = [] if ready.get("status") == "True" else [f"the node is not ready: {ready}"]
    renewed = parse_rfc3339(lease["spec"]["renewTime"])
    if abs(now - renewed) > timedelta(seconds=60):
        found.append(f"the lease was renewed at {renewed}, the node's clock says {now}")
    beat = parse_rfc3339(ready.get("lastHeartbeatTime") or "1970-01-01T00:00:00Z")
    if abs(now - beat) > timedelta(minutes=6):
        found.append(f"the node's last heartbeat is of {beat}, its clock says {now}")
    return found


async def _records(world: World) -> list[Finding]:
    """Every delivery record belongs to an object that lives."""
    found = []
    for resource in (OBJECT_SYNCS, CLUSTER_OBJECT_SYNCS):
        for record in (await world.client.list(resource)).items:
            _, uid = split_object_sync_name(record.meta.name)
            spec = record.to_dict()["spec"]
            kind = _kind(spec["objectKind"])
            name, namespace = spec["objectName"], record.meta.namespace
            try:
                alive = kind is not None and (await world.client.get(kind, name, namespace)).meta.uid == uid
            except NotFound:
                alive = False
            if not alive:
                found.append(Finding(name, f"{record.kind} {record.meta.name} is left of {spec}"))
    return found


def _kind(name: str) -> ApiResource | None:
    return {"Pod": PODS, "ConfigMap": CONFIG_MAPS, "Secret": SECRETS, "Node": NODES}.get(name)


async def at_rest(world: World) -> list[Finding]:
    """A minute in which nothing happens: what is said all the same, and what is still in some queue."""
    requests, messages, changes = world.weather.requests, world.messages, world.runtime.changes
    await asyncio.sleep(60)
    counts = (
        ("requests to the API", world.weather.requests - requests, REQUESTS_A_MINUTE),
        ("messages over the link", world.messages - messages, MESSAGES_A_MINUTE),
        ("changes in the runtime", world.runtime.changes - changes, 0),
        ("tasks", len(asyncio.all_tasks()), TASKS),
    )
    found = [Finding("", f"{count} {what} in a minute of rest") for what, count, most in counts if count > most]
    waiting = world.queues()
    await asyncio.sleep(1)
    found += [
        Finding("", f"{count} wait in {name}") for name, count in world.queues().items() if count and waiting.get(name)
    ]
    world.note_longest()
    lengths = world.longest.items()
    return found + [Finding("", f"{count} waited in {name}") for name, count in lengths if count > QUEUED]


def _rows(world: World, type: str) -> list[Object]:
    return [
        Document(row[0].encode()).to_dict()
        for row in world.database.look("SELECT value FROM meta WHERE type = ?", type)
    ]


def _essence(whole: Object) -> Any:
    """What the edge must have right; a status changes without being sent."""
    meta = whole["metadata"]
    return meta["uid"], meta.get("labels"), meta.get("deletionTimestamp"), whole.get("spec"), whole.get("data")


def _plain(value: str) -> str:
    import base64

    return base64.b64decode(value).decode()


def _short(value: Any) -> str:
    return str(value)[:400]
