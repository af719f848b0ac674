"""The agent dies, or the whole machine does with no cloud in reach: what ran goes on, what is gone comes back."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from whole_site import WholeSite, eventually, node_ready, whole_site

from edgehive.edgecore.edged.cri import CriClient
from edgehive.edgesite.containerd import PrivateContainerd
from edgehive.testing.hosts import below_shims

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(150)]

FOREVER = "trap 'exit 0' TERM; while true; do sleep 0.1; done"
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
#: Says what it found in its volumes and variables, then stays.
TELLS = (
    f"test -s {TOKEN}/token && test -s {TOKEN}/ca.crt && echo token of $(cat {TOKEN}/namespace);"
    f"echo $(cat /mnt/settings/color) $(cat /mnt/key/pin) $COLOR; {FOREVER}"
)
TOLD = "token of default\nblue 1234 blue"
VOLUMES = [
    {"name": "settings", "configMap": {"name": "settings"}},
    {"name": "key", "secret": {"secretName": "key"}},
]


@pytest.fixture
async def site(containerd: PrivateContainerd, cri: CriClient, tmp_path: Path) -> AsyncIterator[WholeSite]:
    async with whole_site(containerd, cri, tmp_path) as running:
        yield running


async def test_a_killed_agent_finds_its_containers_again(site: WholeSite) -> None:
    names = [f"kept-{number}" for number in range(4)]
    async with site.edge():
        await _pods(site, names)
    before = await site.containers()
    sandboxes = {s.id for s in await site.cri.list_pod_sandboxes()}
    assert len(before) == 4
    for _ in range(2):
        async with site.agent() as agent:
            await eventually(lambda: _answers(site, 4), "the agent serves its pods")
            await _reconciled(site)
            agent.send_signal(signal.SIGKILL)
            await agent.wait()
        assert await site.containers() == before
    async with site.agent():
        await eventually(lambda: _answers(site, 4), "the agent serves its pods")
        assert await site.containers() == before
    # With the cloud again: nothing was restarted, nothing is there twice.
    async with site.edge():
        await site.create("last", FOREVER)
        await eventually(lambda: site.runs("last"), "a new pod runs")
        assert [await site.restarts(name) for name in names] == [0, 0, 0, 0]
        assert set(before) < set(await site.containers())
        everything = await site.cri.list_containers()
        assert len(everything) == 5
        assert len({s.id for s in await site.cri.list_pod_sandboxes()} - sandboxes) == 1


async def test_a_machine_rebooted_offline_a_month_later_runs_its_pods(
    site: WholeSite, containerd: PrivateContainerd
) -> None:
    await site.create_data("ConfigMap", "settings", color="blue")
    await site.create_data("Secret", "key", pin="1234")
    variable = {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}}
    async with site.edge():
        await eventually(lambda: node_ready(site), "the node is Ready")
        for number in range(3):
            await site.create(f"tells-{number}", TELLS, volumes=VOLUMES, env=[variable])
        await site.create("plain", FOREVER)
        for name in ("tells-0", "tells-1", "tells-2", "plain"):
            await eventually(lambda name=name: site.runs(name), f"{name} runs")
        await eventually(lambda: _told(site, 1), "the pods read their volumes")
    before = {identity for identity, _ in await site.containers()}

    await _lose_power(containerd)
    await containerd.start()
    assert await site.containers() == []
    async with site.agent(days=30):
        await eventually(lambda: _count(site, 4), "all four run again")
        await eventually(lambda: _told(site, 2), "they read their volumes again")
        assert before.isdisjoint({identity for identity, _ in await site.containers()})


async def _pods(site: WholeSite, names: list[str]) -> None:
    await eventually(lambda: node_ready(site), "the node is Ready")
    for name in names:
        await site.create(name, FOREVER)
    for name in names:
        await eventually(lambda name=name: site.runs(name), f"{name} runs")


async def _answers(site: WholeSite, count: int) -> bool:
    status, text = await site.kubelet("/pods")
    return status == 200 and text.count('"phase":"Running"') == count


async def _reconciled(site: WholeSite) -> None:
    """The agent looked at its containers: it has told of each by a status that names it."""
    identities = [identity for identity, _ in await site.containers()]

    async def told() -> bool:
        _, text = await site.kubelet("/pods")
        return all(identity in text for identity in identities)

    await eventually(told, "every container is in the agent's report")


async def _count(site: WholeSite, count: int) -> bool:
    return len(await site.containers()) == count


async def _told(site: WholeSite, times: int) -> bool:
    return all(site.output(f"tells-{number}").count(TOLD) == times for number in range(3))


async def _lose_power(containerd: PrivateContainerd) -> None:
    """End containerd, every shim and every process below them at once, as a reboot does."""
    doomed = below_shims(str(containerd.socket))
    await containerd.kill()
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # its parent took it along
