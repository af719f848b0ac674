"""What a node may not say, row by row: each is refused with its reason, and the session serves on.

Paths are judged in `authz`, contents in `content_rules`, references by the flows; here a whole cloudcore is asked.
"""

import asyncio
import base64
import json
from typing import Any

import msgspec
import pytest

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.registry import CERTIFICATE_SIGNING_REQUESTS, DEVICES, EVENTS, NODES, PODS, SECRETS, SERVICE_ACCOUNTS
from edgehive.kit import tls
from edgehive.kube.errors import NotFound
from edgehive.testing.cloud import Cloud, ScriptedEdge, cloud, content_of

pytestmark = pytest.mark.looptime

AUDIT = msgspec.convert({"modules": {"cloudHub": {"authorization": {"debug": True}}}}, CloudCore)
MIRROR = {"kubernetes.io/config.mirror": "hash"}


def named(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, **spec}


def lease(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": {"holderIdentity": name}}


def pod(name: str, node: str, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default", "annotations": MIRROR}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta,
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}], **spec}}  # fmt: skip


def signing_request(
    node: str, *, signer: str = "kubernetes.io/kubelet-serving", groups: tuple[str, ...] = ("system:nodes",)
) -> dict[str, Any]:
    der = tls.request(tls.new_key(), f"system:node:{node}", groups)
    body = base64.encodebytes(der).decode()
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    spec = {"request": base64.b64encode(pem.encode()).decode(), "signerName": signer, "usages": ["digital signature"]}
    return {"metadata": {"name": "csr-1"}, "spec": spec}


def token(**bound: str) -> dict[str, Any]:
    return {"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", **bound}}} if bound else {"spec": {}}


#: What is said, on which path, with what, and why it is refused.
ROWS: dict[str, tuple[str, str, Any, str]] = {
    "registers another node": ("insert", "null/node/n2", {"metadata": {"name": "n2"}}, "may only speak for node 'n1'"),
    "updates another node": ("update", "null/node/n2", {"metadata": {"labels": {"a": "b"}}}, "may only speak for"),
    "asks for another node": ("query", "null/node/n2", None, "may only speak for"),
    "patches another node's status (B12)": ("patch", "null/nodepatch/n2", '{"status":{}}', "may only speak for"),
    "reports another node's status": ("update", "null/nodestatus/n2", {"Status": {}}, "may only speak for"),
    "makes another node's lease": ("insert", "kube-node-lease/lease/n2", lease("n2"), "is not its own"),
    "renews another node's lease": ("update", "kube-node-lease/lease/n2", lease("n2"), "is not its own"),
    "reads another node's lease": ("query", "kube-node-lease/lease/n2", None, "is not its own"),
    "makes a lease elsewhere": ("insert", "default/lease/n1", lease("n1"), "is not its own"),
    "makes another lease under its own path": ("insert", "kube-node-lease/lease/n1", lease("n2"), "named 'n2'"),
    "gives itself a placement label": (
        "patch",
        "null/nodepatch/n1",
        '{"metadata":{"labels":{"node-restriction.kubernetes.io/x":"y"}}}',
        "not a node's to set",
    ),
    "takes a placement label off itself": (
        "patch",
        "null/nodepatch/n1",
        '{"metadata":{"labels":{"node-restriction.kubernetes.io/x":null,"z":null}}}',
        "not a node's",
    ),
    "makes itself a control plane": (
        "update",
        "null/node/n1",
        {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}},
        "role 'control-plane'",
    ),
    "replaces its metadata": ("patch", "null/nodepatch/n1", '{"metadata":{"$patch":"replace"}}', "metadata.$patch"),
    "gives itself a finalizer": (
        "patch",
        "null/nodepatch/n1",
        '{"metadata":{"finalizers":["x"]}}',
        "metadata.finalizers",
    ),
    "patches another node's pod": ("patch", "default/podpatch/theirs", '{"status":{}}', "is not bound to it"),
    "patches a pod that has no node": ("patch", "default/podpatch/pending", '{"status":{}}', "is not bound to it"),
    "labels its own pod": ("patch", "default/podpatch/mine", '{"metadata":{"labels":{"app":"db"}}}', "metadata.labels"),
    "orphans its own pod": (
        "patch",
        "default/podpatch/mine",
        '{"metadata":{"ownerReferences":[]}}',
        "metadata.ownerReferences",
    ),
    "deletes another node's pod": ("delete", "default/pod/theirs", {"gracePeriodSeconds": 0}, "is not bound to it"),
    "creates a pod for another node": ("insert", "default/pod/made", pod("made", "n2"), "of node 'n2'"),
    "creates a pod under another name": ("insert", "default/pod/made", pod("other", "n1"), "named 'other'"),
    "creates a pod that is no mirror": (
        "insert",
        "default/pod/made",
        pod("made", "n1") | {"metadata": {"name": "made"}},
        "only create mirrors",
    ),
    "creates a mirror that reads a Secret": (
        "insert",
        "default/pod/made",
        pod("made", "n1", volumes=[{"name": "v", "secret": {"secretName": "top"}}]),
        "refers to",
    ),
    "creates a mirror with an account": (
        "insert",
        "default/pod/made",
        pod("made", "n1", serviceAccountName="robot"),
        "refers to",
    ),
    "reads a Secret its pods do not use": ("query", "default/secret/top", None, "no pod on it refers to"),
    "reads a ConfigMap its pods do not use": ("query", "default/configmap/top", None, "no pod on it refers to"),
    "writes a Secret": ("update", "default/secret/mine", named("mine"), "may query a secret, not update it"),
    "deletes a ConfigMap": ("delete", "default/configmap/top", None, "may query a configmap, not delete it"),
    "reads a claim its pods do not use": ("query", "default/persistentvolumeclaim/c", None, "no pod on it refers to"),
    "asks a token that is bound to nothing": (
        "query",
        "default/serviceaccounttoken/robot",
        token(),
        "not bound to a pod",
    ),
    "asks a token bound to another node's pod": (
        "query",
        "default/serviceaccounttoken/robot",
        token(name="theirs", uid="u"),
        "is not on it",
    ),
    "asks a token bound to a former pod": (
        "query",
        "default/serviceaccounttoken/robot",
        token(name="mine", uid="former"),
        "has another uid",
    ),
    "asks a token of another account": (
        "query",
        "default/serviceaccounttoken/boss",
        token(name="mine"),
        "no pod on it refers to",
    ),
    "asks for another node's certificate": (
        "insert",
        "default/certificatesigningrequest/csr-1",
        signing_request("n2"),
        "is not for O=system:nodes, CN=system:node:n1",
    ),
    "asks for a certificate with more rights": (
        "insert",
        "default/certificatesigningrequest/csr-1",
        signing_request("n1", groups=("system:nodes", "system:masters")),
        "is not for O=",
    ),
    "asks another signer": (
        "insert",
        "default/certificatesigningrequest/csr-1",
        signing_request("n1", signer="kubernetes.io/kube-apiserver-client"),
        "signer",
    ),
    "reads another's signing request": (
        "query",
        "default/certificatesigningrequest/theirs",
        None,
        "is not one it made",
    ),
    "says an unknown operation": ("insrt", "default/pod/mine", None, "not one that is served"),
    "speaks of an unknown type": ("query", "default/clusterrole/admin", None, "not one a node speaks of"),
    "speaks in the cloud's name": ("query", "default/secret/mine", None, "is the cloud's own"),
    "climbs out of its path": ("delete", "default/pod/mine/../theirs", None, "not a name that Kubernetes allows"),
    "climbs out of its namespace": ("query", "../secret/top", None, "not a name that Kubernetes allows"),
    "deletes all pods of a namespace": ("delete", "default/pod", {"gracePeriodSeconds": 0}, "names no pod"),
    "reads all Secrets of a namespace": ("query", "default/secret", None, "names no secret"),
    "asks with a query string": ("query", "default/secret/mine?x=y", None, "not a name that Kubernetes allows"),
}
#: Everything else is said by edged.
SOURCES = {"speaks in the cloud's name": "edgecontroller"}


async def prepare(it: Cloud) -> ScriptedEdge:
    """Two nodes with a pod each, a pod without a node, a Secret nobody uses, a service account."""
    edge = await it.edge("n1")
    await it.edge("n2")
    for account in ("robot", "boss"):
        await it.client.create(SERVICE_ACCOUNTS, {"metadata": {"name": account}}, "default")
    for name in ("top", "mine"):
        await it.client.create(SECRETS, named(name, data={}), "default")
    mine = [{"name": "v", "secret": {"secretName": "mine"}}]
    await it.pod("mine", "n1", serviceAccountName="robot", volumes=mine)
    await it.pod("theirs", "n2", serviceAccountName="robot")
    await it.client.create(PODS, pod("pending", ""), "default")
    await edge.expect_object("default/pod/mine")
    await it.client.create(CERTIFICATE_SIGNING_REQUESTS, signing_request("n2") | {"metadata": {"name": "theirs"}})
    await asyncio.sleep(1)
    return edge


def reason_in(content: Any) -> str:
    """The message of the Status in an error answer of either form."""
    error = content.get("ErrStatus") or (content.get("Err") or {}).get("ErrStatus") or {}
    assert error.get("reason") == "Forbidden", content
    return str(error["message"])


@pytest.mark.parametrize("row", ROWS)
async def test_a_node_that(row: str, caplog: pytest.LogCaptureFixture) -> None:
    operation, path, content, why = ROWS[row]
    async with cloud() as it:
        edge = await prepare(it)
        objects = {kind.plural: [item.raw for item in (await it.client.list(kind)).items] for kind in (PODS, SECRETS)}
        caplog.clear()
        message = await edge.send(operation, path, content, source=SOURCES.get(row, "edged"))
        if operation in ("insert", "update", "patch", "delete", "query"):
            answer = await edge.expect(lambda it: it.header.parent_id == message.id)
            assert why in reason_in(content_of(answer))
        await edge.request("query", "kube-node-lease/lease/n1")
        assert any(why in record.getMessage() for record in caplog.records if record.levelname == "WARNING")
        assert {
            kind.plural: [item.raw for item in (await it.client.list(kind)).items] for kind in (PODS, SECRETS)
        } == objects
        assert "x" not in json.dumps((await it.client.get(NODES, "n1")).to_dict()["metadata"].get("labels", {}))


@pytest.mark.parametrize(
    "about",
    [{"kind": "Node", "name": "n2"}, {"kind": "Pod", "namespace": "default", "name": "theirs"}, {"kind": "Secret"}, {}],
)
async def test_an_event_about_others_is_not_written(about: dict[str, str]) -> None:
    async with cloud() as it:
        edge = await prepare(it)
        await edge.send(
            "insert", "default/event/e", named("e", involvedObject=about, reason="R", source={"host": "n1"})
        )
        await edge.request("query", "kube-node-lease/lease/n1")
        await asyncio.sleep(1)
        with pytest.raises(NotFound):
            await it.client.get(EVENTS, "e", "default")


async def test_an_event_about_a_device_is_written_when_the_device_is_the_nodes() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        for name, node in (("own", "n1"), ("other", "n2")):
            await it.client.create(DEVICES, {"metadata": {"name": name}, "spec": {"nodeName": node}}, "default")
        await asyncio.sleep(1)
        for name in ("own", "other", "gone"):
            about = {"kind": "Device", "namespace": "default", "name": name}
            event = named(name, involvedObject=about, reason="MapperFault", source={"host": "n1"})
            await edge.send("insert", f"default/event/{name}", event)
        await asyncio.sleep(1)
        found = [item.to_dict() for item in (await it.client.list(EVENTS)).items]
        written = {item["involvedObject"]["name"] for item in found if item["reason"] == "MapperFault"}
        assert written == {"own", "gone"}


async def test_an_event_somebody_else_wrote_is_not_changed() -> None:
    async with cloud() as it:
        edge = await prepare(it)
        event = named(
            "e", involvedObject={"kind": "Node", "name": "n1"}, reason="R", count=1, source={"host": "master"}
        )
        await it.client.create(EVENTS, event, "default")
        await edge.send("patch", "default/event/e", {"event": event, "patchData": '{"count":7}'})
        await edge.send("update", "default/event/e", event | {"count": 8})
        await edge.request("query", "kube-node-lease/lease/n1")
        await asyncio.sleep(1)
        assert (await it.client.get(EVENTS, "e", "default")).to_dict()["count"] == 1


async def test_a_node_counts_its_own_events_up_and_turns_none_on_others() -> None:
    async with cloud() as it:
        edge = await prepare(it)
        own = {"kind": "Node", "name": "n1"}
        event = named("e", involvedObject=own, reason="R", count=1, source={"host": "n1"})
        await edge.send("insert", "default/event/e", event)
        for change in ({"count": 7}, {"count": 8, "involvedObject": {"name": "n2"}}):
            content = {"event": named("e"), "patchData": json.dumps(change)}
            await edge.send("patch", "default/event/e", content)
        await edge.request("query", "kube-node-lease/lease/n1")
        await asyncio.sleep(1)
        written = (await it.client.get(EVENTS, "e", "default")).to_dict()
        assert (written["count"], written["involvedObject"]) == (7, own)


async def test_a_token_s_holder_does_not_take_over_a_node_that_is_no_edge_node() -> None:
    """A token joins under any name, also a control plane's; the cluster's own nodes are not to be had so."""
    async with cloud() as it:
        control_plane = {"metadata": {"name": "master", "labels": {"node-role.kubernetes.io/control-plane": ""}}}
        await it.client.create(NODES, control_plane)
        await it.client.create(SECRETS, named("top", data={}), "default")
        await it.pod("etcd", "master", volumes=[{"name": "v", "secret": {"secretName": "top"}}])
        before = (await it.client.get(NODES, "master")).raw
        edge = await it.edge("master", register=False)
        label = {"metadata": {"name": "master", "labels": {"node-role.kubernetes.io/edge": ""}}}
        for operation, path, content in (
            ("insert", "null/node/master", label),
            ("update", "null/node/master", label),
            ("patch", "null/nodepatch/master", json.dumps(label)),
            ("insert", "null/nodestatus/master", label),
            ("update", "null/nodestatus/master", {"UID": "", "Status": {"phase": "Running"}}),
            ("insert", "kube-node-lease/lease/master", lease("master")),
            ("update", "kube-node-lease/lease/master", lease("master")),
        ):
            answer = content_of(await edge.request(operation, path, content))
            assert "is no edge node" in reason_in(answer), path
        assert "no pod on it refers to" in reason_in(content_of(await edge.request("query", "default/secret/top")))
        assert (await it.client.get(NODES, "master")).raw == before
        assert edge.pushed("default/pod/etcd") == []


async def test_what_is_a_node_s_own_is_served() -> None:
    async with cloud() as it:
        edge = await prepare(it)
        mine = await it.client.get(PODS, "mine", "default")
        for operation, path, content in (
            ("query", "default/secret/mine", None),
            ("query", "default/serviceaccounttoken/robot", token(name="mine", uid=mine.meta.uid)),
            ("insert", "kube-node-lease/lease/n1", lease("n1")),
            ("patch", "null/nodepatch/n1", '{"metadata":{"annotations":{"a":"b"},"labels":{"a":"b"}},"status":{}}'),
            ("patch", "default/podpatch/mine", json.dumps({"metadata": {"uid": mine.meta.uid}, "status": {}})),
            ("insert", "default/pod/static", pod("static", "n1")),
            ("insert", "default/certificatesigningrequest/csr-1", signing_request("n1")),
            ("query", "default/certificatesigningrequest/csr-1", None),
        ):
            answer = content_of(await edge.request(operation, path, content))
            assert not (answer.get("ErrStatus") or answer.get("Err")), (path, answer)


async def test_audit_says_and_counts_and_allows(caplog: pytest.LogCaptureFixture) -> None:
    async with cloud(AUDIT) as it:
        edge = await prepare(it)
        answer = content_of(await edge.request("query", "default/secret/top"))
        assert answer["metadata"]["name"] == "top"
        answer = content_of(await edge.request("patch", "null/nodepatch/n2", '{"status":{"phase":"Running"}}'))
        assert answer["Err"] is None
        said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert any("may only speak for node 'n1'" in text for text in said)
        assert any("no pod on it refers to secret default/top" in text for text in said)


async def test_audit_does_not_let_a_path_climb() -> None:
    async with cloud(AUDIT) as it:
        edge = await prepare(it)
        assert "not a name" in reason_in(content_of(await edge.request("delete", "default/pod/mine/../theirs")))
        assert "names no pod" in reason_in(content_of(await edge.request("delete", "default/pod")))
        assert "names no secret" in reason_in(content_of(await edge.request("query", "default/secret")))
        report = [{"UID": "", "Name": name, "Status": {}} for name in ("", "../secrets/top", "..")]
        await edge.send("update", "default/podstatus", report)
        await edge.request("query", "kube-node-lease/lease/n1")
        assert len((await it.client.list(PODS)).items) == 3
