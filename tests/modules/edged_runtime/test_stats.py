"""What /stats/summary says, with rates from two readings."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from edgehive.edgecore.edged.stats import StatsSummary
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
    assert row["podRef"] == {"name": "p", "namespace": "ns", "uid": "u"}
    assert row["cpu"]["usageNanoCores"] == 200_000_000
    assert row["memory"]["workingSetBytes"] == 8_000_000
    assert [item["name"] for item in row["containers"]] == ["c", "d"]
