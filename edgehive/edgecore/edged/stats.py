"""What the node, its pods and their containers use, from CRI and /proc; and /stats/summary made of it.

For `kubelet_server.py`. CPU rates are computed here from two readings, since runtimes leave them out at first.
Go: pkg/kubelet/server/stats, staging/src/k8s.io/kubelet/pkg/apis/stats/v1alpha1
"""

import asyncio
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgehive.edgecore.edged.cri import CriClient, RuntimeRefused
from edgehive.edgecore.edged.plan import ObservedContainer
from edgehive.edgecore.edged.podspec import CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID
from edgehive.kit.clock import Clock, rfc3339
from edgehive.protos import cri_pb2 as cri

Row = dict[str, Any]
_NODE = ""


@dataclass(frozen=True, slots=True)
class NodeReading:
    """The machine's counters at one instant: CPU time spent, memory and the root file system, in ns and bytes."""

    cpu_nanoseconds: int
    memory_total: int
    memory_available: int
    disk_total: int = 0
    disk_available: int = 0
    cpus: int = 0
    booted: datetime | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one instant."""

    at: datetime
    node: NodeReading
    containers: Sequence[cri.ContainerStats]
    #: Of pods with a network of their own, where the runtime tells.
    pods: Sequence[cri.PodSandboxStats] = ()


class StatsSummary:
    """Keeps the last CPU reading of everything, nothing else."""

    def __init__(self, client: CriClient, clock: Clock, node_name: str, *, proc: Path = Path("/proc")) -> None:
        self._cri = client
        self._clock = clock
        self._node_name = node_name
        self._proc = proc
        #: container id (or _NODE) -> (instant, CPU time), both in nanoseconds
        self._last: dict[str, tuple[int, int]] = {}
        self._networks = True

    async def read(self, running: Mapping[str, ObservedContainer] | None = None) -> Reading:
        """With `running`, the networks of these containers' pods too. Raises RuntimeRefused."""
        containers = await self._cri.list_container_stats()
        sandboxes = sorted({seen.sandbox_id for seen in (running or {}).values()})
        pods = [found for id in sandboxes if (found := await self._pod(id)) is not None]
        node = await asyncio.to_thread(read_node, self._proc)
        return Reading(self._clock.now(), node, containers, pods)

    async def _pod(self, sandbox_id: str) -> cri.PodSandboxStats | None:
        if not self._networks:
            return None
        try:
            return await self._cri.pod_sandbox_stats(sandbox_id)
        except RuntimeRefused as error:
            if error.transient:
                raise
            # Gone meanwhile; or this runtime does not count networks, and there is no use in asking again.
            self._networks = error.code != "UNIMPLEMENTED"
            return None

    async def summary(self, running: Mapping[str, ObservedContainer]) -> Row:
        """The summary of one reading; `running` tells of each container what edged knows. Raises RuntimeRefused."""
        reading = await self.read(running)
        rates = self._rates(reading.containers, reading.node, int(reading.at.timestamp() * 1e9))
        return {
            "node": _node_row(self._node_name, reading.node, rates.get(_NODE), reading.at),
            "pods": _pod_rows(reading, rates, running),
        }

    def _rates(self, stats: Sequence[cri.ContainerStats], node: NodeReading, now: int) -> dict[str, int]:
        """Nanocores since the reading before, for everything that was there then too."""
        current = {item.attributes.id: (item.cpu.timestamp, item.cpu.usage_core_nano_seconds.value) for item in stats}
        current[_NODE] = (now, node.cpu_nanoseconds)
        rates = {}
        for id, (instant, used) in current.items():
            before, used_before = self._last.get(id, (instant, used))
            if instant > before and used >= used_before:
                rates[id] = (used - used_before) * 1_000_000_000 // (instant - before)
        self._last = current
        return rates


def read_node(proc: Path) -> NodeReading:
    """The machine's counters from /proc and the root file system."""
    stat = (proc / "stat").read_text().splitlines()
    ticks = [int(word) for word in stat[0].split()[1:9]]
    booted = next((int(line.split()[1]) for line in stat if line.startswith("btime ")), None)
    busy = sum(ticks) - ticks[3] - ticks[4]
    memory = {
        line.partition(":")[0]: int(line.split()[1]) * 1024 for line in (proc / "meminfo").read_text().splitlines()
    }
    disk = shutil.disk_usage("/")
    return NodeReading(
        cpu_nanoseconds=busy * 1_000_000_000 // os.sysconf("SC_CLK_TCK"),
        memory_total=memory["MemTotal"],
        memory_available=memory["MemAvailable"],
        disk_total=disk.total,
        disk_available=disk.free,
        cpus=sum(line[:3] == "cpu" and line[3].isdigit() for line in stat),
        booted=datetime.fromtimestamp(booted, UTC) if booted else None,
    )


def _node_row(name: str, node: NodeReading, rate: int | None, now: datetime) -> Row:
    at = rfc3339(now)
    cpu: Row = {"time": at, "usageCoreNanoSeconds": node.cpu_nanoseconds}
    if rate is not None:
        cpu["usageNanoCores"] = rate
    used = node.memory_total - node.memory_available
    return {
        "nodeName": name,
        "startTime": rfc3339(node.booted) if node.booted else None,
        "cpu": cpu,
        "memory": {
            "time": at,
            "availableBytes": node.memory_available,
            "usageBytes": used,
            "workingSetBytes": used,
        },
        "fs": {
            "time": at,
            "capacityBytes": node.disk_total,
            "availableBytes": node.disk_available,
            "usedBytes": node.disk_total - node.disk_available,
        },
    }


def _pod_rows(reading: Reading, rates: Mapping[str, int], running: Mapping[str, ObservedContainer]) -> list[Row]:
    """One row per pod, its containers inside, their sums outside."""
    by_pod: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for item in reading.containers:
        labels = item.attributes.labels
        if POD_UID in labels:
            pod = (labels[POD_NAMESPACE], labels[POD_NAME], labels[POD_UID])
            id = item.attributes.id
            by_pod[pod].append(_container_row(item, rates.get(id), running.get(id)))
    time = {"time": rfc3339(reading.at)}
    networks = {item.attributes.labels.get(POD_UID, ""): item.linux.network for item in reading.pods}
    return [
        {
            "podRef": {"name": name, "namespace": namespace, "uid": uid},
            "startTime": min((row["startTime"] for row in rows if row["startTime"]), default=None),
            "containers": rows,
            "cpu": time | _sums(rows, "cpu", "usageNanoCores", "usageCoreNanoSeconds"),
            "memory": time | _sums(rows, "memory", "usageBytes", "workingSetBytes", "rssBytes"),
        }
        | _network_row(networks.get(uid))
        for (namespace, name, uid), rows in sorted(by_pod.items())
    ]


def _container_row(item: cri.ContainerStats, rate: int | None, seen: ObservedContainer | None) -> Row:
    cpu: Row = {"time": _time(item.cpu.timestamp), "usageCoreNanoSeconds": item.cpu.usage_core_nano_seconds.value}
    if item.cpu.HasField("usage_nano_cores"):
        rate = item.cpu.usage_nano_cores.value
    if rate is not None:
        cpu["usageNanoCores"] = rate
    memory: Row = {"time": _time(item.memory.timestamp), "workingSetBytes": item.memory.working_set_bytes.value}
    if item.memory.HasField("usage_bytes"):
        memory["usageBytes"] = item.memory.usage_bytes.value
    if item.memory.HasField("rss_bytes"):
        memory["rssBytes"] = item.memory.rss_bytes.value
    row: Row = {"name": item.attributes.labels.get(CONTAINER_NAME, ""), "cpu": cpu, "memory": memory}
    row["startTime"] = rfc3339(seen.started_at) if seen and seen.started_at else None
    if item.HasField("writable_layer"):
        layer = item.writable_layer
        row["rootfs"] = {
            "time": _time(layer.timestamp),
            "usedBytes": layer.used_bytes.value,
            "inodesUsed": layer.inodes_used.value,
        }
    return row


def _network_row(network: cri.NetworkUsage | None) -> Row:
    if network is None or not network.HasField("default_interface"):
        return {}
    default = _interface_row(network.default_interface)
    every = [default, *(_interface_row(item) for item in network.interfaces)]
    return {"network": {"time": _time(network.timestamp), **default, "interfaces": every}}


def _interface_row(item: cri.NetworkInterfaceUsage) -> Row:
    return {
        "name": item.name,
        "rxBytes": item.rx_bytes.value,
        "rxErrors": item.rx_errors.value,
        "txBytes": item.tx_bytes.value,
        "txErrors": item.tx_errors.value,
    }


def _sums(rows: Sequence[Row], part: str, *fields: str) -> Row:
    """Only fields every container has: a sum with a gap would be a wrong number."""
    return {name: sum(row[part][name] for row in rows) for name in fields if all(name in row[part] for row in rows)}


def _time(nanoseconds: int) -> str:
    return rfc3339(datetime.fromtimestamp(nanoseconds / 1e9, UTC))
