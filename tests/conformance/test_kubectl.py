"""An unmodified kubectl against a served cluster."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from edgehive.kit.clock import SystemClock
from edgehive.testing.cluster import Cluster

pytestmark = [
    pytest.mark.kubectl,
]

Kubectl = Callable[..., Awaitable[str]]

POD = """
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: x}}
spec: {containers: [{name: c, image: busybox}]}
"""
CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns: [{name: Size, type: string, jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {size: {type: string, default: small}, replicas: {type: integer}}
          status:
            type: object
            properties: {replicas: {type: integer}}
"""


@pytest.fixture
async def kubectl(tmp_path: Path) -> AsyncIterator[Kubectl]:
    async with Cluster(clock=SystemClock()) as cluster, cluster.serve() as url:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "KUBECONFIG": str(tmp_path / "none")}

        async def run(*arguments: str, stdin: str = "", fails: bool = False, **extra: str) -> str:
            process = await asyncio.create_subprocess_exec(
                "kubectl", f"--server={url}", *arguments,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                env=environment | extra,
            )  # fmt: skip
            async with asyncio.timeout(30):
                output, _ = await process.communicate(stdin.encode())
            assert (process.returncode != 0) == fails, output.decode()
            return output.decode()

        yield run


async def test_get_in_every_form(kubectl: Kubectl) -> None:
    await kubectl("create", "configmap", "c1", "--from-literal=a=b")
    assert await kubectl("get", "cm", "c1", "-o", "name") == "configmap/c1\n"
    assert await kubectl("get", "cm", "c1", "-o", "jsonpath={.data.a}") == "b"
    assert json.loads(await kubectl("get", "cm", "c1", "-o", "json"))["kind"] == "ConfigMap"
    assert "kind: ConfigMap" in await kubectl("get", "cm", "c1", "-o", "yaml")
    assert (await kubectl("get", "cm")).split()[:5] == ["NAME", "DATA", "AGE", "c1", "1"]
    assert "default     c1     1" in await kubectl("get", "cm", "-A", "-o", "wide")
    missing = await kubectl("get", "cm", "nothing", fails=True)
    assert missing == 'Error from server (NotFound): configmaps "nothing" not found\n'


async def test_create_every_kind_kubectl_knows(kubectl: Kubectl) -> None:
    for arguments in (
        ("namespace", "team"),
        ("secret", "generic", "s", "--from-literal=k=v"),
        ("deployment", "web", "--image=busybox"),
        ("job", "j", "--image=busybox"),
        ("cronjob", "cj", "--image=busybox", "--schedule=* * * * *"),
        ("service", "clusterip", "svc", "--tcp=80:8080"),
        ("serviceaccount", "sa"),
        ("role", "r", "--verb=get", "--resource=pods"),
        ("clusterrole", "cr", "--verb=get", "--resource=pods"),
        ("rolebinding", "rb", "--role=r", "--user=u"),
        ("clusterrolebinding", "crb", "--clusterrole=cr", "--user=u"),
        ("ingress", "i", "--rule=host/path=svc:80"),
        ("poddisruptionbudget", "pdb", "--selector=a=b", "--min-available=1"),
        ("priorityclass", "pc", "--value=10"),
        ("quota", "q", "--hard=pods=1"),
    ):
        assert "created" in await kubectl("create", *arguments), arguments
    assert (await kubectl("create", "token", "sa")).count(".") == 2


async def test_client_side_apply_creates_configures_and_leaves_alone(kubectl: Kubectl) -> None:
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v, gone: soon}\n"
    assert "created" in await kubectl("apply", "-f", "-", stdin=manifest)
    assert "unchanged" in await kubectl("apply", "-f", "-", stdin=manifest)
    assert "configured" in await kubectl("apply", "-f", "-", stdin=manifest.replace(", gone: soon", ""))
    assert json.loads(await kubectl("get", "cm", "a", "-o", "jsonpath={.data}")) == {"k": "v"}
    assert "created (server dry run)" in await kubectl(
        "apply", "--dry-run=server", "-f", "-", stdin=manifest.replace("name: a", "name: dry")
    )
    await kubectl("get", "cm", "dry", fails=True)


async def test_what_get_prints_can_be_applied(kubectl: Kubectl) -> None:
    """A List, which kubectl validates by OpenAPI v2 before it sends its items."""
    await kubectl("create", "configmap", "one", "--from-literal=a=1")
    await kubectl("create", "configmap", "two", "--from-literal=a=2")
    listed = await kubectl("get", "configmaps", "one", "two", "-o", "yaml")
    await kubectl("delete", "configmap", "one")
    assert "configmap/one created" in await kubectl("apply", "-f", "-", stdin=listed.replace('a: "1"', 'a: "3"'))
    assert await kubectl("get", "configmap", "one", "-o", "jsonpath={.data.a}") == "3"


async def test_patches_labels_annotations_and_edit(kubectl: Kubectl, tmp_path: Path) -> None:
    await kubectl("create", "configmap", "c1", "--from-literal=a=b")
    for kind, patch in (("merge", '{"data":{"m":"1"}}'), ("strategic", '{"data":{"s":"1"}}'),
                        ("json", '[{"op":"add","path":"/data/j","value":"1"}]')):  # fmt: skip
        assert "patched" in await kubectl("patch", "cm", "c1", "--type", kind, "-p", patch)
    assert "(no change)" in await kubectl("patch", "cm", "c1", "-p", "{}")
    assert "labeled" in await kubectl("label", "cm", "c1", "x=y")
    assert "annotated" in await kubectl("annotate", "cm", "c1", "n=m")
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/a: b/a: edited/" "$1"\n')
    editor.chmod(0o755)
    assert "edited" in await kubectl("edit", "cm", "c1", EDITOR=str(editor))
    data = json.loads(await kubectl("get", "cm", "c1", "-o", "jsonpath={.data}"))
    assert data == {"a": "edited", "m": "1", "s": "1", "j": "1"}


async def test_scale_wait_and_rollout_commands(kubectl: Kubectl) -> None:
    await kubectl("create", "deployment", "web", "--image=busybox")
    assert "scaled" in await kubectl("scale", "deployment", "web", "--replicas=3")
    assert "scaled" in await kubectl("scale", "deployment", "web", "--current-replicas=3", "--replicas=2")
    assert await kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}") == "2"
    assert "restarted" in await kubectl("rollout", "restart", "deployment/web")
    assert "paused" in await kubectl("rollout", "pause", "deployment/web")
    assert "condition met" in await kubectl(
        "wait", "deployment/web", "--for=jsonpath={.spec.replicas}=2", "--timeout=5s"
    )
    assert "timed out" in await kubectl(
        "wait", "deployment/web", "--for=condition=Available", "--timeout=1s", fails=True
    )


async def test_pods_are_described_and_deleted(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=POD)
    described = await kubectl("describe", "pod", "p")
    assert "Status:           Pending" in described or "Status:       Pending" in described
    assert "deleted" in await kubectl("delete", "pod", "p", "--wait")
    await kubectl("get", "pod", "p", fails=True)


async def test_delete_waits_for_a_finalizer(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin='{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"f",'
                                             '"finalizers":["a/b"]}}')  # fmt: skip
    waiting = asyncio.ensure_future(kubectl("delete", "cm", "f"))
    while not await kubectl("get", "cm", "f", "-o", "jsonpath={.metadata.deletionTimestamp}"):
        pass
    assert not waiting.done()
    await kubectl("patch", "cm", "f", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    assert "deleted" in await waiting


async def test_manifests_with_mistakes_are_refused_in_kubernetes_words(kubectl: Kubectl) -> None:
    other = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"nowhere"}}'
    assert 'namespaces "nowhere" not found' in await kubectl("create", "-f", "-", stdin=other, fails=True)
    typo = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dta":{}}'
    assert 'strict decoding error: unknown field "dta"' in await kubectl("create", "-f", "-", stdin=typo, fails=True)
    assert 'Warning: unknown field "dta"' in await kubectl("create", "-f", "-", "--validate=warn", stdin=typo)
    empty = '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[]}}'
    assert "spec.containers: Required value" in await kubectl("create", "-f", "-", stdin=empty, fails=True)
    await kubectl("create", "configmap", "c1")
    assert 'configmaps "c1" already exists' in await kubectl("create", "configmap", "c1", fails=True)


async def test_api_resources_explain_and_auth(kubectl: Kubectl) -> None:
    resources = await kubectl("api-resources")
    assert "deployments" in resources
    assert "selfsubjectaccessreviews" in resources
    assert "FIELD: image <string>" in await kubectl("explain", "pod.spec.containers.image")
    assert await kubectl("auth", "can-i", "get", "pods") == "yes\n"
    assert "admin" in await kubectl("auth", "whoami")


async def test_custom_resources(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=CRD)
    await kubectl("wait", "crd/widgets.example.com", "--for=condition=Established", "--timeout=5s")
    widget = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: big, replicas: 1}\n"
    assert "created" in await kubectl("apply", "-f", "-", stdin=widget)
    assert "configured" in await kubectl("apply", "-f", "-", stdin=widget.replace("big", "huge"))
    assert (await kubectl("get", "wd")).split() == ["NAME", "SIZE", "w", "huge"]
    wrong = widget.replace("big", "{}")
    assert "spec.size" in await kubectl("apply", "-f", "-", stdin=wrong, fails=True)
    unknown = widget.replace("size: big", "sise: big")
    assert 'unknown field "spec.sise"' in await kubectl("apply", "-f", "-", stdin=unknown, fails=True)
    bare = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: bare}\nspec: {}\n"
    await kubectl("apply", "-f", "-", stdin=bare)
    assert await kubectl("get", "wd", "bare", "-o", "jsonpath={.spec.size}") == "small"
    assert "scaled" in await kubectl("scale", "widget", "w", "--replicas=4")
    await kubectl("delete", "crd", "widgets.example.com", "--timeout=10s")
    await kubectl("get", "widgets", fails=True)


async def test_get_watch_prints_changes(kubectl: Kubectl) -> None:
    await kubectl("create", "configmap", "c1")
    watching = asyncio.ensure_future(kubectl("get", "cm", "-w", "-o", "name", "--request-timeout=3s", fails=False))
    await kubectl("create", "configmap", "c2")
    assert "configmap/c2" in await watching


async def test_autoscale_in_both_versions(kubectl: Kubectl) -> None:
    await kubectl("create", "deployment", "web", "--image=busybox")
    assert "web autoscaled" in await kubectl("autoscale", "deployment", "web", "--min=1", "--max=3", "--cpu-percent=80")
    assert "Deployment/web" in await kubectl("get", "hpa", "web")
    first = "horizontalpodautoscalers.v1.autoscaling"
    field = "jsonpath={.spec.targetCPUUtilizationPercentage}"
    assert await kubectl("get", first, "web", "-o", field) == "80"
    assert "Deployment/web" in await kubectl("get", first, "web")
    await kubectl("patch", first, "web", "--type=merge", "-p", '{"spec":{"targetCPUUtilizationPercentage":60}}')
    utilization = "jsonpath={.spec.metrics[*].resource.target.averageUtilization}"
    assert await kubectl("get", "hpa", "web", "-o", utilization) == "60"


async def test_a_definition_whose_schema_is_not_structural_is_refused(kubectl: Kubectl) -> None:
    untyped = CRD.replace("properties: {size: {type: string, default: small}", "properties: {size: {}")
    refused = await kubectl("create", "-f", "-", stdin=untyped, fails=True)
    place = "spec.validation.openAPIV3Schema.properties[spec].properties[size].type"
    assert f"{place}: Required value: must not be empty for specified object fields" in refused
    await kubectl("get", "crd", "widgets.example.com", fails=True)


EVENT = """
apiVersion: events.k8s.io/v1
kind: Event
metadata: {name: web.1, namespace: default}
regarding: {kind: Pod, name: web, namespace: default, apiVersion: v1}
reason: Scaled
note: Scaled it up
type: Normal
action: Scale
eventTime: "2026-01-01T00:00:00.000000Z"
reportingController: example.com/scaler
reportingInstance: scaler-1
"""


async def test_events_in_both_forms(kubectl: Kubectl) -> None:
    assert "event.events.k8s.io/web.1 created" in await kubectl("create", "-f", "-", stdin=EVENT)
    for asked in (["get", "events"], ["get", "events.events.k8s.io"], ["events"], ["events", "--for=pod/web"]):
        table = await kubectl(*asked)
        assert table.split()[:6] == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
        assert table.lower().split("\n")[1].split()[1:] == ["normal", "scaled", "pod/web", "scaled", "it", "up"]
    assert await kubectl("get", "events.v1.events.k8s.io", "web.1", "-o", "jsonpath={.note}") == "Scaled it up"
    assert await kubectl("get", "events", "web.1", "-o", "jsonpath={.message}") == "Scaled it up"
