"""What pods and the node use as Prometheus metrics: /metrics/resource and /metrics/cadvisor. Pure.

For `kubelet_server.py`. Names and labels are the kubelet's, since metrics-server and dashboards ask for them;
what the runtime does not tell is left out.
Go: pkg/kubelet/metrics/collectors/resource_metrics.go, pkg/kubelet/server/server.go
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from edgehive.edgecore.edged.plan import ObservedContainer
from edgehive.edgecore.edged.podspec import CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID
from edgehive.edgecore.edged.stats import Reading
from edgehive.protos import cri_pb2 as cri

_NANO = 1e9
_CONTAINER = ("container", "namespace", "pod")
_POD = ("namespace", "pod")
_CADVISOR = ("container", "id", "image", "name", "namespace", "pod")
#: cAdvisor's name of the whole machine.
_MACHINE = ("", "/", "", "", "", "")


@dataclass(frozen=True, slots=True)
class Families:
    """What `generate_latest` asks for."""

    families: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def resource_families(reading: Reading | None, running: Mapping[str, ObservedContainer]) -> Iterator[Metric]:
    """What metrics-server reads; `None` when the runtime did not answer."""
    if reading is not None:
        yield from _node_families(reading)
        yield from _container_families(reading, running)
        yield from _pod_families(reading)
    for name in ("scrape_error", "resource_scrape_error"):
        text = "1 if there was an error while getting container metrics, 0 otherwise"
        yield GaugeMetricFamily(name, text, value=float(reading is None))


def _node_families(reading: Reading) -> Iterator[Metric]:
    at = reading.at.timestamp()
    cpu = CounterMetricFamily(
        "node_cpu_usage_seconds", "Cumulative cpu time consumed by the node in core-seconds", labels=()
    )
    cpu.add_metric((), reading.node.cpu_nanoseconds / _NANO, timestamp=at)
    yield cpu
    memory = GaugeMetricFamily("node_memory_working_set_bytes", "Current working set of the node in bytes", labels=())
    memory.add_metric((), _node_memory(reading), timestamp=at)
    yield memory


def _container_families(reading: Reading, running: Mapping[str, ObservedContainer]) -> Iterator[Metric]:
    cpu = CounterMetricFamily(
        "container_cpu_usage_seconds",
        "Cumulative cpu time consumed by the container in core-seconds",
        labels=_CONTAINER,
    )
    memory = GaugeMetricFamily(
        "container_memory_working_set_bytes", "Current working set of the container in bytes", labels=_CONTAINER
    )
    start = GaugeMetricFamily(
        "container_start_time_seconds", "Start time of the container since unix epoch in seconds", labels=_CONTAINER
    )
    for item in _of_pods(reading):
        labels = item.attributes.labels
        values = (labels.get(CONTAINER_NAME, ""), labels[POD_NAMESPACE], labels[POD_NAME])
        cpu.add_metric(values, item.cpu.usage_core_nano_seconds.value / _NANO, timestamp=item.cpu.timestamp / _NANO)
        memory.add_metric(values, item.memory.working_set_bytes.value, timestamp=item.memory.timestamp / _NANO)
        if (began := _started(item, running)) is not None:
            start.add_metric(values, began)
    yield from (cpu, memory, start)


def _pod_families(reading: Reading) -> Iterator[Metric]:
    cpu = CounterMetricFamily(
        "pod_cpu_usage_seconds", "Cumulative cpu time consumed by the pod in core-seconds", labels=_POD
    )
    memory = GaugeMetricFamily("pod_memory_working_set_bytes", "Current working set of the pod in bytes", labels=_POD)
    pods: dict[tuple[str, str], list[cri.ContainerStats]] = defaultdict(list)
    for item in _of_pods(reading):
        labels = item.attributes.labels
        pods[(labels[POD_NAMESPACE], labels[POD_NAME])].append(item)
    at = reading.at.timestamp()
    for pod, items in pods.items():
        cpu.add_metric(pod, sum(item.cpu.usage_core_nano_seconds.value for item in items) / _NANO, timestamp=at)
        memory.add_metric(pod, sum(item.memory.working_set_bytes.value for item in items), timestamp=at)
    yield from (cpu, memory)


# --- cAdvisor's names ---


def cadvisor_families(reading: Reading, running: Mapping[str, ObservedContainer]) -> Iterator[Metric]:
    """What dashboards read."""
    cpu = CounterMetricFamily(
        "container_cpu_usage_seconds", "Cumulative cpu time consumed in seconds.", labels=(*_CADVISOR, "cpu")
    )
    cpu.add_metric((*_MACHINE, "total"), reading.node.cpu_nanoseconds / _NANO, timestamp=reading.at.timestamp())
    start = _gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.")
    seen = _gauge("container_last_seen", "Last time a container was seen by the exporter")
    for item in _of_pods(reading):
        labels, at = _cadvisor_labels(item, running), item.cpu.timestamp / _NANO
        cpu.add_metric((*labels, "total"), item.cpu.usage_core_nano_seconds.value / _NANO, timestamp=at)
        seen.add_metric(labels, reading.at.timestamp())
        if (began := _started(item, running)) is not None:
            start.add_metric(labels, began)
    yield from (cpu, *_memory_families(reading, running), *_disk_families(reading, running), start, seen)
    yield from _network_families(reading)
    yield GaugeMetricFamily("machine_memory_bytes", "Amount of memory installed on the machine.",
                            value=reading.node.memory_total)  # fmt: skip
    yield GaugeMetricFamily("machine_cpu_cores", "Number of logical CPU cores.", value=reading.node.cpus)


def _memory_families(reading: Reading, running: Mapping[str, ObservedContainer]) -> Iterator[Metric]:
    for name, text, field, machine in (
        ("container_memory_working_set_bytes", "Current working set in bytes.", "working_set_bytes", True),
        ("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it "
         "was accessed", "usage_bytes", True),
        ("container_memory_rss", "Size of RSS in bytes.", "rss_bytes", False),
    ):  # fmt: skip
        family = _gauge(name, text)
        if machine:
            family.add_metric(_MACHINE, _node_memory(reading), timestamp=reading.at.timestamp())
        for item in _of_pods(reading):
            if item.memory.HasField(field):
                value = getattr(item.memory, field).value
                family.add_metric(_cadvisor_labels(item, running), value, timestamp=item.memory.timestamp / _NANO)
        yield family


def _disk_families(reading: Reading, running: Mapping[str, ObservedContainer]) -> Iterator[Metric]:
    measures: tuple[tuple[str, str, Callable[[cri.FilesystemUsage], int]], ...] = (
        ("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.",
         lambda layer: layer.used_bytes.value),
        ("container_fs_inodes_used", "Number of inodes the container uses on this filesystem.",
         lambda layer: layer.inodes_used.value),
    )  # fmt: skip
    for name, text, measure in measures:
        family = _gauge(name, text)
        for item in _of_pods(reading):
            if item.HasField("writable_layer"):
                layer = item.writable_layer
                family.add_metric(_cadvisor_labels(item, running), measure(layer), timestamp=layer.timestamp / _NANO)
        yield family


def _network_families(reading: Reading) -> Iterator[Metric]:
    """Per pod and interface, as a pod's containers share them."""
    for name, text, field in (
        ("container_network_receive_bytes", "Cumulative count of bytes received", "rx_bytes"),
        ("container_network_receive_errors", "Cumulative count of errors encountered while receiving", "rx_errors"),
        ("container_network_transmit_bytes", "Cumulative count of bytes transmitted", "tx_bytes"),
        ("container_network_transmit_errors", "Cumulative count of errors encountered while transmitting", "tx_errors"),
    ):
        family = CounterMetricFamily(name, text, labels=(*_CADVISOR, "interface"))
        for pod in reading.pods:
            labels, network = pod.attributes.labels, pod.linux.network
            values = ("", f"/kubepods/pod{labels[POD_UID]}", "", pod.attributes.id, labels[POD_NAMESPACE],
                      labels[POD_NAME])  # fmt: skip
            for item in (network.default_interface, *network.interfaces):
                if item.name:
                    family.add_metric(
                        (*values, item.name), getattr(item, field).value, timestamp=network.timestamp / _NANO
                    )
        yield family


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=_CADVISOR)


def _started(item: cri.ContainerStats, running: Mapping[str, ObservedContainer]) -> float | None:
    seen = running.get(item.attributes.id)
    return seen.started_at.timestamp() if seen and seen.started_at else None


def _cadvisor_labels(item: cri.ContainerStats, running: Mapping[str, ObservedContainer]) -> tuple[str, ...]:
    labels = item.attributes.labels
    seen = running.get(item.attributes.id)
    return (
        labels.get(CONTAINER_NAME, ""),
        f"/kubepods/pod{labels[POD_UID]}/{item.attributes.id}",
        seen.image if seen else "",
        item.attributes.id,
        labels[POD_NAMESPACE],
        labels[POD_NAME],
    )


def _of_pods(reading: Reading) -> Iterator[cri.ContainerStats]:
    """Containers of others (run by hand, say) carry no pod's labels."""
    return (item for item in reading.containers if POD_UID in item.attributes.labels)


def _node_memory(reading: Reading) -> int:
    return reading.node.memory_total - reading.node.memory_available
