"""What /stats/summary says, with rates from two readings."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from prometheus_client import generate_latest

from edgehive.edgecore.edged.plan import ObservedContainer, State
from edgehive.edgecore.edged.stats import StatsSummary
from edgehive.edgecore.edged.usage_metrics import Families, cadvisor_families, resource_families
from edgehive.kit.clock import FixedClock
from edgehive.protos import cri_pb2 as cri
from edgehive.testing.cri import FakeRuntime

START = datetime(2026, 1, 2, tzinfo=UTC)
LABELS = {
    "io.kubernetes.pod.name": "p", "io.kubernetes.pod.namespace": "ns", "io.kubernetes.pod.uid": "u",
    "io.kubernetes.container.name": "c",
}  # fmt: skip


def write_proc(proc: Path, busy: int) -> None:
    (proc / "stat").write_text(f"cpu  {busy} 0 0 100 0 0 0 0 0 0\ncpu0 1 2\n")
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n")


async def test_pods_and_node_are_summed_and_rates_come_with_the_second_reading(tmp_path: Path) -> None:
    clock = FixedClock(START)
    runtime = FakeRuntime(images=["app:1"], clock=clock)
    client = runtime.client()
    sandbox = cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="p"))
    pod = await client.run_pod_sandbox(sandbox)
    for name in ("c", "d"):
        config = cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name=name), image=cri.ImageSpec(image="app:1"),
            labels=LABELS | {"io.kubernetes.container.name": name},
        )  # fmt: skip
        await client.start_container(await client.create_container(pod, config, sandbox))
    stats = StatsSummary(client, clock, "n1", proc=tmp_path)
    write_proc(tmp_path, 1000)
    first = await stats.summary({})
    assert "usageNanoCores" not in first["node"]["cpu"]
    assert "usageNanoCores" not in first["pods"][0]["cpu"]

    clock.set(START + timedelta(seconds=10))
    write_proc(tmp_path, 1500)
    second = await stats.summary({})
    assert second["node"]["nodeName"] == "n1"
    assert second["node"]["memory"]["workingSetBytes"] == 600 * 1024
    # Half of one CPU on the machine (500 ticks of 10 ms in 10 s); a tenth per container in the fake.
    assert second["node"]["cpu"]["usageNanoCores"] == 500_000_000
    row = second["pods"][0]
    assert "network" not in row
    assert row["podRef"] == {"name": "p", "namespace": "ns", "uid": "u"}
    assert row["cpu"]["usageNanoCores"] == 200_000_000
    assert row["memory"]["workingSetBytes"] == 8_000_000
    assert [item["name"] for item in row["containers"]] == ["c", "d"]


async def test_collectors_are_told_in_the_kubelets_names(tmp_path: Path) -> None:
    runtime = FakeRuntime(images=["app:1"], clock=FixedClock(START))
    client = runtime.client()
    sandbox = cri.PodSandboxConfig(metadata=cri.PodSandboxMetadata(name="p"), labels=LABELS)
    pod = await client.run_pod_sandbox(sandbox)
    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name="c"), image=cri.ImageSpec(image="app:1"), labels=LABELS
    )
    made = await client.create_container(pod, config, sandbox)
    await client.start_container(made)
    write_proc(tmp_path, 1000)
    running = {made: ObservedContainer(made, "c", pod, State.RUNNING, started_at=START, image="app:1")}
    stats = StatsSummary(client, FixedClock(START + timedelta(seconds=10)), "n1", proc=tmp_path)
    reading = await stats.read(running)
    resource = generate_latest(Families(resource_families(reading, running))).decode()
    at = int((START + timedelta(seconds=10)).timestamp() * 1000)
    assert f"node_cpu_usage_seconds_total 10.0 {at}\n" in resource
    assert f"node_memory_working_set_bytes 614400.0 {at}\n" in resource
    where = 'container="c",namespace="ns",pod="p"'
    assert f"container_memory_working_set_bytes{{{where}}} 4e+06 " in resource
    assert f"container_start_time_seconds{{{where}}} 1.767312e+09\n" in resource
    assert f'pod_memory_working_set_bytes{{namespace="ns",pod="p"}} 4e+06 {at}\n' in resource
    assert "# TYPE container_cpu_usage_seconds_total counter" in resource
    assert "resource_scrape_error 0.0\n" in resource
    cadvisor = generate_latest(Families(cadvisor_families(reading, running))).decode()
    assert 'container="c",cpu="total",id="/kubepods/podu/' in cadvisor
    assert f'image="app:1",name="{made}",namespace="ns",pod="p"' in cadvisor
    (received,) = (line for line in cadvisor.splitlines() if line.startswith("container_network_receive_bytes_total"))
    assert 'interface="eth0"' in received
    assert " 1000.0 " in received
    assert "machine_cpu_cores 1.0\n" in cadvisor
    row = (await stats.summary(running))["pods"][0]
    assert (row["network"]["name"], row["network"]["rxBytes"], row["network"]["txBytes"]) == ("eth0", 1000, 500)
    assert row["containers"][0]["startTime"] == "2026-01-02T00:00:00Z"


async def test_a_runtime_that_does_not_answer_is_a_scrape_error() -> None:
    text = generate_latest(Families(resource_families(None, {}))).decode()
    assert "resource_scrape_error 1.0" in text
