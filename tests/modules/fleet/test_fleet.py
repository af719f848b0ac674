"""A fleet of hollow nodes against our cloudcore over real TLS sockets: all it does is seen in the API."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgehive.api.core import Node, Pod
from edgehive.api.registry import CONFIG_MAPS, LEASES, NODES, PODS
from edgehive.testing.fleet.fleet import Fleet
from edgehive.testing.fleet.node import HollowNode
from edgehive.testing.fleet.scenarios import SCENARIOS, Choice, Play, Silent, needed
from edgehive.testing.fleet.workload import Workload
from edgehive.wire.link import JoinRefused, LinkClosed

NODE_COUNT = 20


@asynccontextmanager
async def registered(cloud, nodes: int = NODE_COUNT) -> AsyncIterator[Fleet]:
    async with Fleet(cloud.plan(nodes)) as fleet:
        await fleet.certify()
        await fleet.connect()
        await fleet.register()
        yield fleet


async def test_nodes_join_and_register_as_edges_do(cloud) -> None:
    async with registered(cloud) as fleet:
        assert fleet.connected == NODE_COUNT
        found = {item.meta.name: item.read(Node) for item in (await cloud.client.list(NODES)).items}
        assert sorted(found) == [f"fleet-{number:05}" for number in range(1, NODE_COUNT + 1)]
        for node in found.values():
            assert (node.metadata.labels or {})["node-role.kubernetes.io/edge"] == ""
            ready = [item.status for item in node.status.conditions or () if item.type == "Ready"]
            assert ready == ["True"]
        leases = (await cloud.client.list(LEASES, "kube-node-lease")).items
        assert {item.meta.name for item in leases} == set(found)
        took = fleet.journal.quantiles()
        for what in ("certificate", "connect", "node insert", "lease query", "lease create", "node status"):
            assert took[what].count == NODE_COUNT, what


async def test_pods_are_run_and_ended_on_every_node(cloud) -> None:
    async with registered(cloud) as fleet, Workload(cloud.client, "fleet", fleet.journal) as workload:
        names = [(f"{node.name}-p", node.name) for node in fleet.nodes]
        await workload.create_pods(names, lambda: None)
        await fleet.journal.until(lambda: NODE_COUNT - len(workload.running), 20, "Running pods")
        for item in (await cloud.client.list(PODS, "default")).items:
            pod = item.read(Pod)
            assert pod.status.phase == "Running"
            assert [entry.status for entry in pod.status.conditions or () if entry.type == "Ready"] == ["True"]
        await workload.delete_pods([name for name, _ in names], lambda: None)
        await fleet.journal.until(lambda: NODE_COUNT - len(workload.gone), 20, "ended pods")
        await fleet.journal.until(lambda: NODE_COUNT - len(fleet.journal.gone), 20, "notices of ended pods")
        assert not any(node.pods for node in fleet.nodes)
        assert fleet.journal.quantiles()["pod end confirmed"].count == NODE_COUNT


async def test_nobody_is_lost_when_all_come_back_at_once(cloud) -> None:
    async with registered(cloud) as fleet:
        await fleet.storm(0)
        assert fleet.connected == NODE_COUNT
        assert fleet.journal.quantiles()["lease renewal"].count == NODE_COUNT
        assert fleet.journal.counts["answers missing"] == 0


async def test_a_known_node_registers_again_and_keeps_its_lease(cloud) -> None:
    async with registered(cloud, 1) as fleet:
        node = fleet.nodes[0]
        await node.renewed()
        before = await cloud.client.get(LEASES, node.name, "kube-node-lease")
    async with registered(cloud, 1) as fleet:
        await fleet.nodes[0].renewed()
        after = await cloud.client.get(LEASES, fleet.nodes[0].name, "kube-node-lease")
    assert before.meta.uid == after.meta.uid
    assert before.meta.resource_version != after.meta.resource_version


async def test_all_scenarios_are_played_and_leave_nothing_behind(cloud) -> None:
    choice = Choice(needed(SCENARIOS), pods=2, churn=1, seconds=0.1, settle=0)
    async with Fleet(cloud.plan(3)) as fleet, Workload(cloud.client, "fleet", fleet.journal) as workload:
        outcome = await Play(fleet, workload, None, choice, Silent()).run()
        took = fleet.journal.quantiles()
        assert took["ConfigMap written to delivered"].count == 3 * 5
        assert took["pod status patch"].count == 3 * 5
        assert took["pod created to seen Running"].count == 6 + 6 + 3
        assert outcome.facts["connected after the storm"] == 3
        assert [phase.units > 0 for phase in outcome.phases] == [True] * len(outcome.phases)
        await workload.clean([node.name for node in fleet.nodes], lambda: None)
    assert (await cloud.client.list(NODES)).items == []
    assert (await cloud.client.list(PODS, "default")).items == []
    assert (await cloud.client.list(LEASES, "kube-node-lease")).items == []
    assert [item.meta.name for item in (await cloud.client.list(CONFIG_MAPS, "default")).items] in (
        [],
        ["kube-root-ca.crt"],
    )


async def test_a_token_of_another_cloud_is_refused(cloud) -> None:
    head, _, rest = cloud.token.partition(".")
    plan = cloud.plan(1)
    forged = type(plan)(1, plan.hub, plan.join_server, f"{'0' * len(head)}.{rest}")
    async with Fleet(forged) as fleet:
        with pytest.raises(JoinRefused, match="belongs to another cloud"):
            await fleet.certify()


async def test_the_name_in_the_hubs_certificate_is_checked(cloud) -> None:
    async with Fleet(cloud.plan(1)) as fleet:
        await fleet.certify()
        hub = type(cloud.hub)("localhost", cloud.hub.port, cloud.hub.project_id)
        node = HollowNode("fleet-00001", hub, fleet.journal, fleet.clock)
        node.context = fleet.nodes[0].context
        with pytest.raises(LinkClosed, match="does not verify"):
            await node.connect()


async def test_the_command_plays_and_writes_its_report(cloud, tmp_path: Path) -> None:
    kubeconfig, output = tmp_path / "kubeconfig", tmp_path / "fleet.json"
    kubeconfig.write_text(json.dumps(kubeconfig_of(cloud.url)))
    hub = f"{cloud.hub.host}:{cloud.hub.port}"
    code, said = await command(
        "--nodes", "3", "--hub", hub, "--join", cloud.join_server, "--kubeconfig", str(kubeconfig),
        "--scenario", "pods", "--scenario", "storm", "--output", str(output),
    )  # fmt: skip
    assert code == 0, said
    assert "3 hollow nodes" in said
    assert "pod, create to Running" in said
    report = json.loads(output.read_text())
    assert report["latencies"]["pod created to delivered"]["count"] == 6
    assert (await cloud.client.list(NODES)).items == []


async def test_what_cannot_work_is_said_in_one_sentence(tmp_path: Path) -> None:
    at = ("--hub", "127.0.0.1:1", "--join", "https://127.0.0.1:1")
    for words, sentence in (
        ((*at,), "give --token, or --kubeconfig"),
        ((*at, "--token", "x", "--scenario", "pods"), "the scenarios pods need --kubeconfig"),
        ((*at, "--token", "x"), "does not have four parts"),
        ((*at, "--token", "a.b.c.d"), "cannot be reached"),
        (("--hub", "nowhere", "--join", "https://h:1", "--token", "x"), "is to be <host>:<port>"),
        ((*at, "--kubeconfig", str(tmp_path / "absent")), "cannot read"),
    ):
        code, said = await command("--nodes", "1", *words)
        assert code != 0
        assert sentence in said
        assert "Traceback" not in said


async def command(*words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgehive", "fleet", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


def kubeconfig_of(server: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": server}}],
        "users": [{"name": "x", "user": {}}],
    }
