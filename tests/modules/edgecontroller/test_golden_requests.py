"""The recorded requests of a scripted edge, sent again: our answers have the shape the Go cloud's had.

Compared are route, envelope, keys, error reason and code; ids, versions and times are their own. What differs
on purpose: every one of several identical queries is answered, every object carries kind and apiVersion, and
a missing ConfigMap, Secret or Node is named in the plural, as the API names it.
"""

import asyncio
import json
import os
from pathlib import Path

import msgspec
import pytest

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.registry import CONFIG_MAPS, LEASES, PODS, SECRETS, SERVICE_ACCOUNTS
from edgehive.beehive.message import Message
from edgehive.testing.cloud import Cloud, ScriptedEdge, cloud
from edgehive.wire.codec import decode

SHARED = Path(os.environ.get("EDGEHIVE_SHARED") or Path(__file__).resolve().parents[4] / "shared")
GOLDEN = SHARED / "golden"
NEEDED = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="no recorded traffic: set EDGEHIVE_SHARED to the folder that holds `golden`"
)
#: Recorded with authorization off, some requests are about other nodes on purpose.
WATCHING = msgspec.convert({"modules": {"cloudHub": {"authorization": {"enable": False}}}}, CloudCore)

pytestmark = [pytest.mark.looptime, NEEDED]


def conversation(scenario: str, connection: str) -> tuple[list[Message], dict[str, Message]]:
    """(requests in order, answer by request id); acknowledgements and keepalives are left out."""
    requests, answers = [], {}
    for line in (GOLDEN / f"{scenario}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        body = entry["message"]
        if not entry["channel"].startswith("hub") or not isinstance(body.get("json"), dict):
            continue
        if body["connection"] != connection or "route" not in body["json"]:
            continue
        message = decode(body["text"].encode())
        if entry["direction"] == "cloud->edge":
            answers.setdefault(message.header.parent_id, message)
        elif message.route.operation not in ("response", "error", "keepalive"):
            requests.append(message)
    return [request for request in requests if request.id in answers], answers


def shape(message: Message) -> dict[str, object]:
    """What two clouds have to agree on."""
    content = json.loads(bytes(message.content))
    told: dict[str, object] = {"route": message.route, "versioned": bool(message.header.resourceversion)}
    if not isinstance(content, dict):
        return told | {"content": content if content == "OK" else type(content).__name__}
    error = content.get("ErrStatus") or (content.get("Err") or {}).get("ErrStatus")
    if error:
        told["error"] = (error["reason"], error["code"], sorted(set(error) - {"details"}))
    envelope = "Object" in content
    document = content.get("Object") if envelope else content
    told["envelope"] = envelope
    told["keys"] = sorted(set(document or ()) - {"status", "kind", "apiVersion"}) if not error else None
    told["absent"] = document is None
    return told


def rewritten(message: Message, uids: dict[str, str]) -> Message:
    content = bytes(message.content)
    for recorded, ours in uids.items():
        content = content.replace(recorded.encode(), ours.encode())
    return Message(message.header, message.route, msgspec.Raw(content))


async def exchange(edge: ScriptedEdge, request: Message) -> Message:
    await edge.link.send(request)
    return await edge.expect(lambda answer: answer.header.parent_id == request.id)


async def furnish(it: Cloud, node: str) -> None:
    """What existed before the recording."""
    for resource, kind, name in (
        (CONFIG_MAPS, "ConfigMap", "cm1"),
        (SECRETS, "Secret", "sec1"),
        (SERVICE_ACCOUNTS, "ServiceAccount", "sa1"),
    ):
        body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}
        await it.client.create(
            resource, body | ({} if kind == "ServiceAccount" else {"data": {"k": "eA=="}}), "default"
        )
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node},
        "spec": {"holderIdentity": node, "leaseDurationSeconds": 40},
    }
    await it.client.create(LEASES, lease, "kube-node-lease")


def differs_on_purpose(request: Message) -> bool:
    # Our CSR is judged by our own server's validation, and our memory cluster has no CA file to tell of.
    return request.route.resource.startswith(("default/certificatesigningrequest/csr", "k8s/")) or (
        request.route.source != "edged" or request.route.resource == "node"
    )


async def test_the_fake_edge() -> None:
    requests, answers = conversation("30-fake-edge", "py6")
    assert len(requests) > 30
    uids: dict[str, str] = {}
    async with cloud(WATCHING) as it:
        await furnish(it, "pyedge")
        edge = await it.edge("pyedge", register=False)
        for recorded in requests:
            await edge.keepalive()
            answer = await exchange(edge, rewritten(recorded, uids))
            await asyncio.sleep(0.2)
            theirs = answers[recorded.id]
            if recorded.route.operation == "insert" and recorded.route.resource == "default/pod/pypod":
                uids[json.loads(bytes(theirs.content))["Object"]["metadata"]["uid"]] = json.loads(
                    bytes(answer.content)
                )["Object"]["metadata"]["uid"]
            if not differs_on_purpose(recorded):
                assert shape(answer) == shape(theirs), (recorded.route, answer.content)


@pytest.mark.parametrize("scenario", ["04-pod-lifecycle", "05-configmap-secret", "07-serviceaccount-token"])
async def test_the_status_reports_of_a_go_edge(scenario: str) -> None:
    """Every podpatch and pod deletion of a real edge is taken; the pods exist as the recording's did."""
    connection = next(
        json.loads(line)["message"]["connection"]
        for line in (GOLDEN / f"{scenario}.jsonl").read_text().splitlines()
        if json.loads(line)["channel"] == "hub"
    )
    requests, answers = conversation(scenario, connection)
    wanted = [r for r in requests if r.route.resource.split("/")[1] in ("podpatch", "pod")]
    assert wanted
    uids: dict[str, str] = {}
    async with cloud(WATCHING) as it:
        edge = await it.edge("goedge")
        for recorded in wanted:
            await edge.keepalive()
            namespace, _, name = recorded.route.resource.split("/")
            document = json.loads(bytes(answers[recorded.id].content))
            if isinstance(document, dict) and document["Err"] is None:
                uid = document["Object"]["metadata"]["uid"]
                if uid not in uids:
                    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}}
                    spec = {"nodeName": "goedge", "containers": [{"name": name, "image": "x"}]}
                    uids[uid] = (await it.client.create(PODS, pod | {"spec": spec}, namespace)).meta.uid
            answer = await exchange(edge, rewritten(recorded, uids))
            assert shape(answer) == shape(answers[recorded.id])
