"""Services, namespaces, nodes, service accounts, certificates, garbage: what a cluster does by itself."""

import asyncio
import base64
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from site_rig import AUTHORITY, Json, Site, running_site

from edgehive.api.registry import (
    CERTIFICATE_SIGNING_REQUESTS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    EVENTS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICA_SETS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from edgehive.kit import tls
from edgehive.kube.client import PatchType

pytestmark = pytest.mark.looptime


def pod(name: str, labels: Json | None = None, **spec: Any) -> Json:
    ports = [{"containerPort": 8080, "name": "web"}]
    containers = [{"name": "main", "image": "localhost/busybox:1", "ports": ports}]
    metadata = {"name": name, "labels": labels or {"app": "hello"}}
    return {"metadata": metadata, "spec": {"containers": containers, **spec}}


async def phase(site: Site, name: str, wanted: str) -> bool:
    return (await site.get(PODS, name)).get("status", {}).get("phase") == wanted


async def count(site: Site, resource: Any, wanted: int, namespace: str = "default") -> bool:
    return len(await site.items(resource, namespace)) == wanted


def ready_of(body: Json) -> str:
    conditions = body.get("status", {}).get("conditions", [])
    return next((item["status"] for item in conditions if item["type"] == "Ready"), "")


def taints_of(body: Json) -> set[tuple[str, str]]:
    return {(item["key"], item["effect"]) for item in body.get("spec", {}).get("taints") or []}


async def test_a_service_leads_to_its_ready_pods() -> None:
    async with running_site() as site:
        await site.add_node("one")
        spec = {"selector": {"app": "hello"}, "ports": [{"port": 80, "targetPort": "web"}]}
        await site.client.create(SERVICES, {"metadata": {"name": "hello"}, "spec": spec}, "default")
        await site.client.create(PODS, pod("a"), "default")
        await site.client.create(PODS, pod("other", labels={"app": "other"}), "default")

        async def reached() -> Json | None:
            slices = await site.items(ENDPOINT_SLICES, labels="kubernetes.io/service-name=hello")
            endpoints = [item for body in slices for item in body["endpoints"]]
            return slices[0] if [item["conditions"]["ready"] for item in endpoints] == [True] else None

        body = await site.until(reached)
        assert body["ports"] == [{"name": "", "port": 8080, "protocol": "TCP"}]
        assert body["endpoints"][0]["targetRef"]["name"] == "a"
        assert body["endpoints"][0]["nodeName"] == "one"

        async def addresses() -> Json | None:
            subsets = (await site.get(ENDPOINTS, "hello")).get("subsets") or []
            return subsets[0] if subsets and "addresses" in subsets[0] else None

        subset = await site.until(addresses)
        assert subset["addresses"][0]["targetRef"]["name"] == "a"
        not_ready = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
        await site.client.patch(PODS, "a", not_ready, "default", type=PatchType.STRATEGIC, subresource="status")

        async def unready() -> bool:
            slices = await site.items(ENDPOINT_SLICES, labels="kubernetes.io/service-name=hello")
            return not any(item["conditions"]["ready"] for body in slices for item in body["endpoints"])

        await site.until(unready)
        await site.client.delete(SERVICES, "hello", "default")

        async def nothing_left() -> bool:
            return not await site.items(ENDPOINT_SLICES, labels="kubernetes.io/service-name=hello")

        await site.until(nothing_left)


async def test_every_namespace_has_its_account_and_the_authority() -> None:
    async with running_site() as site:
        await site.client.create(NAMESPACES, {"metadata": {"name": "shop"}})
        await site.until(lambda: site.get(SERVICE_ACCOUNTS, "default", "shop"))
        root = await site.until(lambda: site.get(CONFIG_MAPS, "kube-root-ca.crt", "shop"))
        assert root["data"]["ca.crt"] == AUTHORITY.certificate_pem.decode()
        await site.client.delete(CONFIG_MAPS, "kube-root-ca.crt", "shop")
        await site.until(lambda: site.get(CONFIG_MAPS, "kube-root-ca.crt", "shop"))


async def test_a_deleted_namespace_takes_everything_in_it_along() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.create(NAMESPACES, {"metadata": {"name": "shop"}})
        await site.client.create(PODS, pod("a"), "shop")
        await site.client.create(CONFIG_MAPS, {"metadata": {"name": "settings"}, "data": {"a": "b"}}, "shop")
        await site.client.create(CONFIG_MAPS, {"metadata": {"name": "kept"}, "data": {"a": "b"}}, "default")
        await site.client.delete(NAMESPACES, "shop")

        async def gone() -> bool:
            return "shop" not in {item["metadata"]["name"] for item in await site.items(NAMESPACES)}

        await site.until(gone)
        assert await site.items(PODS, "shop") == []
        assert await site.get(CONFIG_MAPS, "kept")


async def test_a_namespace_that_cannot_go_yet_says_what_holds_it() -> None:
    async with running_site() as site:
        await site.client.create(NAMESPACES, {"metadata": {"name": "shop"}})
        held = {"metadata": {"name": "held", "finalizers": ["example.com/slow"]}, "data": {}}
        await site.client.create(CONFIG_MAPS, held, "shop")
        await site.client.delete(NAMESPACES, "shop")

        async def told() -> dict[str, str]:
            conditions = (await site.get(NAMESPACES, "shop", ""))["status"].get("conditions") or []
            return {item["type"]: item["message"] for item in conditions}

        assert await site.until(told) == {
            "NamespaceContentRemaining": "Some resources are remaining: configmaps. has 1 resource instances",
            "NamespaceFinalizersRemaining": "Some content in the namespace has finalizers remaining: "
            "example.com/slow in 1 resource instances",
        }


async def test_a_silent_node_becomes_unknown_and_its_pods_move_after_their_patience() -> None:
    async with running_site() as site:
        await site.add_node("one", labels={"zone": "a"})
        await site.add_node("two")
        patient = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"}
        at_home = {"app-offline.kubeedge.io": "autonomy"}
        await site.client.create(PODS, pod("leaves", nodeSelector={"zone": "a"}), "default")
        await site.client.create(PODS, pod("stays", nodeSelector={"zone": "a"}, tolerations=[patient]), "default")
        await site.client.create(PODS, pod("autonomous", labels=at_home, nodeSelector={"zone": "a"}), "default")
        await site.until(lambda: phase(site, "leaves", "Running"))
        await asyncio.sleep(100)
        assert taints_of(await site.get(NODES, "one")) == set()
        await site.stop_node("one")
        await asyncio.sleep(30)
        assert ready_of(await site.get(NODES, "one")) == "True"
        await asyncio.sleep(15)
        body = await site.get(NODES, "one")
        assert ready_of(body) == "Unknown"
        unreachable = "node.kubernetes.io/unreachable"
        assert taints_of(body) == {(unreachable, "NoSchedule"), (unreachable, "NoExecute")}
        assert ready_of(await site.get(PODS, "leaves")) == "False"
        await asyncio.sleep(280)
        assert "deletionTimestamp" not in (await site.get(PODS, "leaves"))["metadata"]
        await asyncio.sleep(30)
        assert "deletionTimestamp" in (await site.get(PODS, "leaves"))["metadata"]
        for name in ("stays", "autonomous"):
            assert "deletionTimestamp" not in (await site.get(PODS, name))["metadata"]
        site.start_node("one")
        await asyncio.sleep(5)
        body = await site.get(NODES, "one")
        assert ready_of(body) == "True"
        assert taints_of(body) == set()


async def test_nobody_is_evicted_while_every_node_is_out_of_reach() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.create(PODS, pod("a"), "default")
        await site.until(lambda: phase(site, "a", "Running"))
        await site.stop_node("one")
        await asyncio.sleep(1000)
        assert ready_of(await site.get(NODES, "one")) == "Unknown"
        assert "deletionTimestamp" not in (await site.get(PODS, "a"))["metadata"]


async def test_pods_of_a_node_that_was_removed_are_removed_after_a_while() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.create(PODS, pod("a"), "default")
        await site.until(lambda: phase(site, "a", "Running"))
        await site.stop_node("one")
        await site.client.delete(NODES, "one")
        await asyncio.sleep(30)
        assert await count(site, PODS, 1)
        await asyncio.sleep(15)
        assert await count(site, PODS, 0)


async def test_a_cordoned_node_gets_its_taint_and_no_new_pods() -> None:
    async with running_site() as site:
        await site.add_node("one")
        await site.client.patch(NODES, "one", {"spec": {"unschedulable": True}})
        await asyncio.sleep(1)
        unschedulable = ("node.kubernetes.io/unschedulable", "NoSchedule")
        assert taints_of(await site.get(NODES, "one")) == {unschedulable}
        await site.client.create(PODS, pod("a"), "default")
        await asyncio.sleep(1)
        body = await site.get(PODS, "a")
        (condition,) = [item for item in body["status"]["conditions"] if item["type"] == "PodScheduled"]
        assert condition["message"] == "0/1 nodes are available: 1 node(s) were unschedulable."
        (event,) = [item for item in await site.items(EVENTS) if item["reason"] == "FailedScheduling"]
        assert event["message"] == condition["message"]
        await site.client.patch(NODES, "one", {"spec": {"unschedulable": None}})
        await site.until(lambda: phase(site, "a", "Running"))
        assert taints_of(await site.get(NODES, "one")) == set()


async def test_pods_wait_for_room_and_start_when_there_is_some() -> None:
    async with running_site() as site:
        await site.add_node("one", cpu="1")
        for name in ("a", "b"):
            body = pod(name)
            body["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "600m"}}
            await site.client.create(PODS, body, "default")
        await site.until(lambda: phase(site, "a", "Running"))
        await asyncio.sleep(1)
        assert not await phase(site, "b", "Running")
        await site.client.delete(PODS, "a", "default")
        await site.until(lambda: phase(site, "b", "Running"))


async def test_foreground_deletion_waits_for_the_dependents() -> None:
    async with running_site() as site:
        await site.add_node("one")
        template = {"metadata": {"labels": {"app": "hello"}}, "spec": pod("x")["spec"]}
        spec = {"replicas": 2, "selector": {"matchLabels": {"app": "hello"}}, "template": template}
        await site.client.create(DEPLOYMENTS, {"metadata": {"name": "hello"}, "spec": spec}, "default")
        await site.until(lambda: count(site, PODS, 2))
        await site.client.delete(DEPLOYMENTS, "hello", "default", propagation="Foreground")
        assert (await site.get(DEPLOYMENTS, "hello"))["metadata"]["finalizers"] == ["foregroundDeletion"]
        await site.until(lambda: count(site, DEPLOYMENTS, 0))
        assert await site.items(PODS) == []
        assert await site.items(REPLICA_SETS) == []


async def test_orphaned_dependents_stay() -> None:
    async with running_site() as site:
        await site.add_node("one")
        template = {"metadata": {"labels": {"app": "hello"}}, "spec": pod("x")["spec"]}
        spec = {"replicas": 1, "selector": {"matchLabels": {"app": "hello"}}, "template": template}
        await site.client.create(REPLICA_SETS, {"metadata": {"name": "hello"}, "spec": spec}, "default")
        await site.until(lambda: count(site, PODS, 1))
        await site.client.delete(REPLICA_SETS, "hello", "default", propagation="Orphan")
        await site.until(lambda: count(site, REPLICA_SETS, 0))
        await asyncio.sleep(5)
        (left,) = await site.items(PODS)
        assert not left["metadata"].get("ownerReferences")


async def test_an_object_whose_owner_never_existed_goes_and_one_with_a_living_owner_stays() -> None:
    async with running_site() as site:
        owner = await site.client.create(CONFIG_MAPS, {"metadata": {"name": "owner"}}, "default")

        def reference(uid: str) -> Json:
            return {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}

        for name, uid in (("kept", owner.meta.uid), ("garbage", "00000000-0000-0000-0000-000000000000")):
            body = {"metadata": {"name": name, "ownerReferences": [reference(uid)]}}
            await site.client.create(CONFIG_MAPS, body, "default")
        await asyncio.sleep(5)
        names = {item["metadata"]["name"] for item in await site.items(CONFIG_MAPS)}
        assert names == {"owner", "kept", "kube-root-ca.crt"}


async def test_an_owner_of_an_unknown_kind_protects_its_dependents() -> None:
    async with running_site() as site:
        reference = {"apiVersion": "example.com/v1", "kind": "Thing", "name": "x", "uid": "1"}
        body = {"metadata": {"name": "kept", "ownerReferences": [reference]}}
        await site.client.create(CONFIG_MAPS, body, "default")
        await asyncio.sleep(60)
        assert await site.get(CONFIG_MAPS, "kept")


async def _request(site: Site, name: str, signer: str, common_name: str, organizations: list[str]) -> None:
    der = tls.request(tls.new_key(), common_name, organizations)
    pem = x509.load_der_x509_csr(der).public_bytes(Encoding.PEM)
    spec = {
        "request": base64.b64encode(pem).decode(),
        "signerName": signer,
        "usages": ["digital signature", "client auth"],
    }
    await site.client.create(CERTIFICATE_SIGNING_REQUESTS, {"metadata": {"name": name}, "spec": spec})
    approved = {"type": "Approved", "status": "True", "reason": "Test", "message": "", "lastUpdateTime": None}
    patch = {"status": {"conditions": [approved]}}
    await site.client.patch(CERTIFICATE_SIGNING_REQUESTS, name, patch, type=PatchType.MERGE, subresource="approval")


async def test_an_approved_request_is_signed_and_one_for_too_much_is_refused() -> None:
    async with running_site() as site:
        await _request(site, "good", "kubernetes.io/kube-apiserver-client", "jane", ["dev"])
        await _request(site, "bad", "kubernetes.io/kube-apiserver-client", "eve", ["system:masters"])

        async def signed() -> str | None:
            return (await site.get(CERTIFICATE_SIGNING_REQUESTS, "good")).get("status", {}).get("certificate")

        certificate = x509.load_pem_x509_certificate(base64.b64decode(await site.until(signed)))
        assert tls.subject_of(certificate) == ("jane", ("dev",))
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(AUTHORITY.certificate))
        await asyncio.sleep(1)
        status = (await site.get(CERTIFICATE_SIGNING_REQUESTS, "bad"))["status"]
        assert "certificate" not in status
        failed = next(item for item in status["conditions"] if item["type"] == "Failed")
        assert "system:masters" in failed["message"]
