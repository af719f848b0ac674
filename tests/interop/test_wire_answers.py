"""What cloudcore answers an edge on the wire, kind by kind: the same questions to ours and to the Go project's.

The edge is a script (`wire_peer.py`) with a certificate of its own, so that it can ask what edged does not ask by
itself: volumes of a driver nobody has, reports of jobs and rules, things nobody knows.
"""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pairings import Manifest, Pairing, pod

from edgehive.kit import tls
from edgehive.testing.two_hosts import CLOUD

pytestmark = [pytest.mark.containerd, pytest.mark.kubectl, pytest.mark.timeout(300)]

NODE = "scripted-edge"
Said = dict[str, Any]
_JOIN = """
import http.client, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
door = http.client.HTTPSConnection(sys.argv[1], 10002, timeout=20, context=context)
headers = {"NodeName": sys.argv[3], "Authorization": "Bearer " + sys.argv[4]}
door.request("GET", "/edge.crt", body=open(sys.argv[5], "rb").read(), headers=headers)
answer = door.getresponse()
assert answer.status == 200, answer.read(1000)
open(sys.argv[6], "wb").write(answer.read(1 << 20))
"""


class Scripted:
    """The scripted node and the cloud it talks to."""

    def __init__(self, pairing: Pairing) -> None:
        self.pairing = pairing
        self._files = {name: pairing.hosts.data / f"scripted.{name}" for name in ("csr", "der", "crt", "key")}

    def join(self) -> None:
        key = tls.new_key()
        self._files["csr"].write_bytes(tls.request(key, f"system:node:{NODE}", ("system:nodes",)))
        token = self.pairing.hosts.token().partition(".")[2]
        words = [CLOUD, str(self.ca), NODE, token, str(self._files["csr"]), str(self._files["der"])]
        self.pairing.hosts.edge.run(sys.executable, "-c", _JOIN, *words)
        pair = tls.KeyPair(self._files["der"].read_bytes(), key)
        self._files["crt"].write_bytes(pair.certificate_pem)
        self._files["key"].write_bytes(pair.key_pem)

    @property
    def ca(self) -> Path:
        return self.pairing.hosts.data / "edge" / "ca" / "rootCA.crt"

    def says(self, *said: Said, patience: float = 8.0) -> list[Any]:
        """The answers, None where there is none; the session has to stand to the end."""
        order = {
            "host": CLOUD,
            "node": NODE,
            "ca": str(self.ca),
            "certificate": str(self._files["crt"]),
            "key": str(self._files["key"]),
            "patience": patience,
            "say": said,
        }
        path = self.pairing.hosts.data / "scripted.json"
        path.write_text(json.dumps(order))
        told = json.loads(
            self.pairing.hosts.edge.run(sys.executable, str(Path(__file__).with_name("wire_peer.py")), str(path))
        )
        assert not told["ended"], f"the cloud ended the session: {told['answers']}"
        answers: list[Any] = told["answers"]
        return answers


def query(resource: str, **more: Any) -> Said:
    return {"operation": "query", "resource": resource, **more}


@pytest.fixture(scope="module")
def scripted(pairing: Pairing) -> Iterator[Scripted]:
    """Registered, with a pod that uses a claim on a volume of a CSI driver."""
    found = Scripted(pairing)
    found.join()
    labels = {"node-role.kubernetes.io/edge": "", "kubernetes.io/hostname": NODE}
    node = {"metadata": {"name": NODE, "labels": labels}, "status": {}}
    [made] = found.says({"operation": "insert", "resource": f"null/node/{NODE}", "content": node})
    assert made["content"]["Err"] is None
    pairing.apply(*volume_objects())
    pairing.apply(claiming_pod())
    yield found
    pairing.kubectl("delete", "pod", "claimer", "--force", "--grace-period=0")
    pairing.kubectl("delete", "node", NODE)
    pairing.kubectl("delete", "volumeattachments,pv,pvc", "--all", "--wait=false")


def volume_objects() -> list[Manifest]:
    sizes = {"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"]}
    source = {"driver": "disks.example.com", "volumeHandle": "disk-1"}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "disk"},
            "spec": {**sizes, "csi": source, "claimRef": {"namespace": "default", "name": "disk"}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "disk", "namespace": "default"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "",
                "volumeName": "disk",
                "resources": {"requests": {"storage": "1Mi"}},
            },
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "VolumeAttachment",
            "metadata": {"name": "csi-of-disk"},
            "spec": {"attacher": "disks.example.com", "nodeName": NODE, "source": {"persistentVolumeName": "disk"}},
        },
    ]


def claiming_pod() -> Manifest:
    made = pod("claimer")
    made["spec"]["nodeName"] = NODE
    made["spec"]["volumes"] = [
        {"name": name, "persistentVolumeClaim": {"claimName": name}} for name in ("disk", "not-there")
    ]
    return made


VOLUMES = {
    "default/persistentvolumeclaim/disk": ("v1", "PersistentVolumeClaim"),
    "default/persistentvolume/disk": ("v1", "PersistentVolume"),
    "default/volumeattachment/csi-of-disk": ("storage.k8s.io/v1", "VolumeAttachment"),
}


def test_volumes_claims_and_attachments_are_answered_bare(scripted: Scripted) -> None:
    """[42] The object with its kind, its version in the header, from edgecontroller."""
    answers = scripted.says(*(query(resource) for resource in VOLUMES))
    for answer, (resource, (version, kind)) in zip(answers, VOLUMES.items(), strict=True):
        content = answer["content"]
        assert (content["apiVersion"], content["kind"]) == (version, kind)
        assert content["metadata"]["name"] == resource.rpartition("/")[2]
        assert answer["version"] == content["metadata"]["resourceVersion"]
        assert answer["route"]["source"] == "edgecontroller"
        assert answer["route"]["group"] == "resource"
        assert answer["route"]["operation"] == "response"
        assert answer["route"]["resource"] == resource
    attachment = answers[2]["content"]
    assert attachment["spec"]["source"] == {"persistentVolumeName": "disk"}
    assert attachment["status"]["attached"] is False


def test_absent_volumes_are_answered_as_errors(scripted: Scripted) -> None:
    """[51]"""
    absent = ("default/persistentvolumeclaim/not-there", "default/persistentvolume/none", "default/volumeattachment/no")
    for answer in scripted.says(*(query(resource) for resource in absent)):
        assert list(answer["content"]) == ["ErrStatus"]
        status = answer["content"]["ErrStatus"]
        assert (status["status"], status["reason"], status["code"]) == ("Failure", "NotFound", 404)
        assert answer["version"] == ""


def test_a_signing_request_is_made_and_read_back(scripted: Scripted) -> None:
    """[44] Without the feature gate `requireAuthorization` nobody approves it."""
    der = tls.request(tls.new_key(), f"system:node:{NODE}", ("system:nodes",))
    body = base64.encodebytes(der).decode()
    pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    usages = ["digital signature", "server auth"]
    spec = {"request": base64.b64encode(pem.encode()).decode(), "signerName": "kubernetes.io/kubelet-serving"}
    request = {"metadata": {"name": "scripted"}, "spec": {**spec, "usages": usages}}
    path = "default/certificatesigningrequest/scripted"
    made, again, read, none = scripted.says(
        {"operation": "insert", "resource": path, "content": request},
        {"operation": "insert", "resource": path, "content": request},
        query(path),
        query("default/certificatesigningrequest/none"),
    )
    assert set(made["content"]) == {"Object", "Err"}
    assert made["content"]["Err"] is None
    assert made["content"]["Object"]["metadata"]["name"] == "scripted"
    assert again["content"]["Err"]["ErrStatus"]["reason"] == "AlreadyExists"
    assert read["content"]["spec"]["request"] == request["spec"]["request"]
    assert not read["content"].get("status", {}).get("conditions")
    assert none["content"]["ErrStatus"]["reason"] == "NotFound"
    scripted.pairing.kubectl("delete", "csr", "scripted")


#: What a node of some version, or a module of it, may say that nobody here serves.
ODD: dict[str, Said] = {
    "an operation nobody knows": {"operation": "dance", "resource": "default/pod/claimer"},
    "a type nobody knows": query("default/gadget/one"),
    "a source nobody knows": query("default/gadget/one", source="weather"),
    "no path at all": query("elsewhere"),
    "a node job that is none": {
        "operation": "UpdateNodeActionStatus",
        "resource": f"operations.kubeedge.io/v1alpha2/imageprepulljob/none/node/{NODE}",
        "source": "taskmanager",
        "group": "taskmanager",
        "content": {"action": "Pull", "success": True},
    },
    "a job of the version before": {
        "operation": "upgrade",
        "resource": f"nodeupgradejob/none/node/{NODE}",
        "source": "taskmanager",
        "content": {"status": "done"},
    },
    "a rule's status": {
        "operation": "update",
        "resource": "default/rulestatus/none",
        "source": "router_eventbus",
        "content": {"ruleID": "none", "status": "SUCCESS"},
    },
    "a message of an application": {
        "operation": "upload",
        "resource": "topic-test",
        "source": "router_eventbus",
        "group": "user",
        "content": "hello",
    },
    "a device's report": {
        "operation": "update",
        "resource": "device/default/none/twin/edge_updated",
        "source": "twin",
        "group": "resource",
        "content": {"event_id": "", "timestamp": 1, "twin": {}},
    },
    "a list that holds null": {"operation": "update", "resource": "default/podstatus", "content": [None]},
}


#: What asks for an object is refused in words by ours, where Go lets the edge wait its minute.
QUESTIONS = {"a type nobody knows", "a source nobody knows", "no path at all"}


def test_what_nobody_knows_disturbs_nothing(scripted: Scripted) -> None:
    """[74] One after another in one session, which goes on and is served as before."""
    *answers, lease = scripted.says(*ODD.values(), query(f"kube-node-lease/lease/{NODE}"), patience=2.0)
    assert set(lease["content"]) == {"Object", "Err"}
    told = {what: answer["content"] for what, answer in zip(ODD, answers, strict=True) if answer is not None}
    nulls = told.pop("a list that holds null")
    if scripted.pairing.cast.stock_cloudcore:
        assert (told, nulls) == ({}, {})
    else:
        assert set(told) == QUESTIONS
        assert {content["ErrStatus"]["code"] for content in told.values()} == {403}
        assert nulls["ErrStatus"]["code"] == 400
    assert scripted.pairing.hosts.cloudcore is not None
    assert scripted.pairing.hosts.cloudcore.alive()
