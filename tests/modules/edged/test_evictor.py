"""A node that runs short of memory or disk: what it gives up, in which order, and what it keeps."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from node_rig import NODE, Rig, node, until

from edgehive.api.registry import NODES
from edgehive.edgecore.edged import machine
from edgehive.edgecore.edged.eviction import Amount

pytestmark = pytest.mark.looptime
MIB = 1024 * 1024
IMAGE = "localhost/busybox:1"


class Machine:
    """How much memory and disk are free."""

    def __init__(self) -> None:
        self.memory = self.disk = 900 * MIB

    def amounts(self, *_: Path | None) -> dict[str, Amount]:
        return {
            "memory.available": Amount(1000 * MIB, self.memory),
            "nodefs.available": Amount(1000 * MIB, self.disk),
        }


@pytest.fixture
def computer(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(machine, "amounts", made.amounts)
    return made


@pytest.fixture
async def rig(tmp_path: Path, computer: Machine) -> AsyncIterator[Rig]:
    manifests = tmp_path / "manifests"
    soft = {"eviction_soft": {"memory.available": "200Mi"}, "eviction_soft_grace_period": {"memory.available": "1m0s"}}
    async with node(tmp_path / "root", static_pod_path=str(manifests), eviction_max_pod_grace_period=7, **soft) as rig:
        yield rig


async def run(rig: Rig, name: str, memory: int, request: str = "", **spec: Any) -> None:
    """A pod whose container of the same name uses so much memory."""
    rig.runtime.memory[name] = memory * MIB
    resources = {"requests": {"memory": request}} if request else {}
    await rig.start(name, containers=[{"name": name, "image": IMAGE, "resources": resources}], **spec)


async def conditions(rig: Rig) -> dict[str, str]:
    found = (await rig.api.get(NODES, NODE)).to_dict()["status"]["conditions"]
    return {item["type"]: item["status"] for item in found}


def evicted(status: dict[str, Any]) -> bool:
    return (status.get("phase"), status.get("reason")) == ("Failed", "Evicted")


async def test_one_pod_after_another_goes_until_there_is_memory_again(rig: Rig, computer: Machine) -> None:
    await rig.boot()
    await run(rig, "modest", 50, "64Mi")
    await run(rig, "greedy", 300, "100Mi")
    await run(rig, "small", 20)
    computer.memory = 60 * MIB
    status = await rig.until("greedy", evicted)
    assert status["message"] == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi. "
        "Container greedy was using 300Mi, request is 100Mi, has larger consumption of memory. "
    )
    (disruption,) = (item for item in status["conditions"] if item["type"] == "DisruptionTarget")
    assert (disruption["status"], disruption["reason"]) == ("True", "TerminationByKubelet")
    assert (await rig.events("Evicted"))[0]["message"] == status["message"]
    await until(lambda: not rig.runtime.running("greedy"))
    assert rig.runtime.running("small")
    await rig.until("small", evicted)
    computer.memory = 500 * MIB
    await rig.after(120)
    assert len(rig.runtime.running("modest")) == 1
    assert (await conditions(rig))["MemoryPressure"] == "True", "it lasts, so that nothing moves to and fro"
    await rig.after(300)
    assert (await conditions(rig))["MemoryPressure"] == "False"


async def test_who_asked_for_what_it_uses_goes_last_and_the_systems_own_never(
    rig: Rig, computer: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    spec = {"containers": [{"name": "static", "image": IMAGE}]}
    body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "static"}, "spec": spec}
    (folder / "static.yaml").write_text(json.dumps(body))
    rig.runtime.memory["static"] = 500 * MIB
    await rig.boot()
    await run(rig, "critical", 500, priorityClassName="system-node-critical")
    await run(rig, "modest", 50, "64Mi")
    await until(lambda: rig.runtime.running("static"))
    computer.memory = 60 * MIB
    await rig.until("modest", evicted)
    await rig.after(300)
    helpless = [item for item in caplog.records if "no pod it could give up" in item.getMessage()]
    assert len(helpless) == 1
    assert rig.runtime.running("static")
    assert rig.runtime.running("critical")


async def test_a_soft_threshold_waits_and_leaves_the_pod_some_grace(rig: Rig, computer: Machine) -> None:
    await rig.boot()
    await run(rig, "web", 50)
    (container,) = rig.runtime.running("web")
    computer.memory = 150 * MIB
    await rig.after(50)
    computer.memory = 300 * MIB
    await rig.after(30)
    computer.memory = 150 * MIB
    await rig.after(50)
    assert rig.runtime.running("web"), "neither time it lasted for a minute"
    await rig.until("web", evicted)
    assert rig.runtime.stops[container] == 7


async def test_for_disk_unused_images_go_first_but_those_no_registry_has(rig: Rig, computer: Machine) -> None:
    await rig.boot()
    for name in ("docker.io/library/old:1", "localhost/spare:1"):
        rig.runtime.add_image(name)
    await run(rig, "web", 50)
    computer.disk = 10 * MIB

    def freed(*_: Path | None) -> dict[str, Amount]:
        computer.disk = 10 * MIB if "docker.io/library/old:1" in rig.runtime.images else 500 * MIB
        return computer.amounts()

    machine.amounts = freed  # type: ignore[assignment]
    await until(lambda: "docker.io/library/old:1" not in rig.runtime.images)
    await rig.after(60)
    assert set(rig.runtime.images) == {IMAGE, "localhost/spare:1"}
    assert rig.runtime.running("web")
    assert (await conditions(rig))["DiskPressure"] == "True"


async def test_for_disk_the_pod_that_fills_it_goes(rig: Rig, computer: Machine) -> None:
    await rig.boot()
    volumes = [{"name": "v", "emptyDir": {}}]
    made = await rig.start("filler", volumes=volumes)
    await rig.start("other", volumes=volumes)
    folder = rig.root / "pods" / made["metadata"]["uid"] / "volumes" / "kubernetes.io~empty-dir" / "v"
    (folder / "data").write_bytes(bytes(3 * MIB))
    computer.disk = 10 * MIB
    status = await rig.until("filler", evicted)
    assert status["message"].startswith("The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi")
    computer.disk = 500 * MIB
    await rig.after(60)
    assert len(rig.runtime.running()) == 1


async def test_a_pod_that_writes_more_than_its_limit_ends_and_its_neighbour_stays(rig: Rig) -> None:
    await rig.boot()
    volumes = [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]
    made = {name: await rig.start(name, volumes=volumes) for name in ("writer", "neighbour")}
    for name, size in (("writer", 2 * MIB), ("neighbour", MIB // 2)):
        uid = made[name]["metadata"]["uid"]
        folder = rig.root / "pods" / uid / "volumes" / "kubernetes.io~empty-dir" / "v"
        (folder / "data").write_bytes(bytes(size))
    status = await rig.until("writer", evicted)
    assert status["message"] == 'Usage of EmptyDir volume "v" exceeds the limit "1Mi". '
    assert "DisruptionTarget" not in {item["type"] for item in status["conditions"]}
    await rig.after(300)
    assert len(rig.runtime.running()) == 1


async def test_pressure_ends_in_time_though_the_clock_was_set_back(rig: Rig, computer: Machine) -> None:
    await rig.boot()
    computer.memory = 60 * MIB
    await rig.after(25)
    assert (await conditions(rig))["MemoryPressure"] == "True"
    computer.memory = 900 * MIB
    rig.clock.offset -= timedelta(days=30)
    await rig.after(6 * 60)
    assert (await conditions(rig))["MemoryPressure"] == "False"
