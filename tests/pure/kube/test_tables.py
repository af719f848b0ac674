"""kubectl's tables: ages, pod states and columns as a real API server was seen to answer them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edgehive.api import registry
from edgehive.api.document import Document
from edgehive.api.registry import ApiResource
from edgehive.kube.server import jsonpath
from edgehive.kube.server.cells import human_duration
from edgehive.kube.server.tables import table

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
CREATED = "2026-01-01T11:55:00Z"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (277, "4m37s"), (600, "10m"),
     (3 * 3600, "3h"), (5 * 3600 + 120, "5h2m"), (9 * 3600, "9h"), (49 * 3600, "2d1h"), (9 * 86400, "9d"),
     (800 * 86400, "2y70d"), (3000 * 86400, "8y")],
)  # fmt: skip
def test_ages(seconds: int, text: str) -> None:
    assert human_duration(timedelta(seconds=seconds)) == text


def cells(resource: ApiResource, obj: dict[str, Any]) -> list[Any]:
    obj = {**obj, "metadata": {"name": "x", "creationTimestamp": CREATED, **obj.get("metadata", {})}}
    row: list[Any] = table(resource, [Document.of(obj)], NOW)["rows"][0]["cells"]
    return row


def pod(status: dict[str, Any], *, containers: int = 1, metadata: Any = None, **spec: Any) -> list[Any]:
    body = {"spec": {"containers": [{"name": str(n)} for n in range(containers)], **spec}, "status": status}
    return cells(registry.PODS, {**body, "metadata": metadata or {}})


def container(state: dict[str, Any], *, ready: bool = False, restarts: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": "0", "state": state, "ready": ready, "restartCount": restarts, **more}


RUNNING = {"running": {"startedAt": CREATED}}


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ({"phase": "Pending"}, ["0/1", "Pending", "0"]),
        ({"phase": "Running", "containerStatuses": [container(RUNNING, ready=True)]}, ["1/1", "Running", "0"]),
        ({"phase": "Pending", "containerStatuses": [container({"waiting": {"reason": "ContainerCreating"}})]},
         ["0/1", "ContainerCreating", "0"]),
        ({"phase": "Running", "containerStatuses": [container(
            {"waiting": {"reason": "CrashLoopBackOff"}}, restarts=3,
            lastState={"terminated": {"finishedAt": "2026-01-01T11:54:30Z"}})]},
         ["0/1", "CrashLoopBackOff", "3 (5m30s ago)"]),
        ({"phase": "Succeeded", "containerStatuses": [container({"terminated": {"reason": "Completed"}})]},
         ["0/1", "Completed", "0"]),
        ({"phase": "Failed", "containerStatuses": [container({"terminated": {"exitCode": 3}})]},
         ["0/1", "ExitCode:3", "0"]),
        ({"phase": "Failed", "containerStatuses": [container({"terminated": {"exitCode": 0, "signal": 9}})]},
         ["0/1", "Signal:9", "0"]),
        ({"phase": "Failed", "reason": "Evicted"}, ["0/1", "Evicted", "0"]),
    ],
)  # fmt: skip
def test_pod_states(status: dict[str, Any], shown: list[str]) -> None:
    assert pod(status)[1:4] == shown


def test_init_containers_and_deletion() -> None:
    init = [{"name": "i1"}, {"name": "i2"}]
    waiting = {"phase": "Pending", "initContainerStatuses": [
        {"name": "i1", "state": {"terminated": {"exitCode": 0}}},
        {"name": "i2", "state": {"waiting": {"reason": "PodInitializing"}}},
    ]}  # fmt: skip
    assert pod(waiting, initContainers=init)[2] == "Init:1/2"
    failed = {"phase": "Pending", "initContainerStatuses": [
        {"name": "i1", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
    ]}  # fmt: skip
    assert pod(failed, initContainers=init)[2] == "Init:Error"
    deleted = {"deletionTimestamp": CREATED}
    assert pod({"phase": "Running"}, metadata=deleted)[2] == "Terminating"
    assert pod({"phase": "Failed", "reason": "Error"}, metadata=deleted)[2] == "Error"


def test_a_finished_pod_is_marked_so_and_its_object_is_its_metadata() -> None:
    answer = table(registry.PODS, [{"metadata": {"name": "x"}, "status": {"phase": "Succeeded"}}], NOW)
    row = answer["rows"][0]
    assert row["conditions"][0]["reason"] == "Succeeded"
    assert row["object"]["kind"] == "PartialObjectMetadata"
    wide = [column["name"] for column in answer["columnDefinitions"] if column["priority"]]
    assert wide == ["IP", "Node", "Nominated Node", "Readiness Gates"]


def test_a_node() -> None:
    node = {
        "metadata": {"labels": {"node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/agent": ""}},
        "spec": {"unschedulable": True},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.2"}],
            "nodeInfo": {"kubeletVersion": "v1.32.10", "kernelVersion": "6.1", "architecture": "amd64"},
        },
    }
    assert cells(registry.NODES, node) == [
        "x", "Ready,SchedulingDisabled", "agent,edge", "5m", "v1.32.10", "192.0.2.2", "<none>", "<unknown>",
        "6.1 (amd64)", "<unknown>",
    ]  # fmt: skip


def test_services_show_node_ports_and_addresses() -> None:
    spec = {
        "type": "NodePort",
        "clusterIP": "10.0.0.1",
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}],
        "selector": {"b": "2", "a": "1"},
    }
    assert cells(registry.SERVICES, {"spec": spec})[1:] == [
        "NodePort", "10.0.0.1", "<none>", "80:30080/TCP", "5m", "a=1,b=2",
    ]  # fmt: skip


def test_custom_columns_follow_their_paths() -> None:
    resource = ApiResource("example.com", "v1", "Thing", "things", True)
    columns = [
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    obj = {
        "metadata": {"name": "t", "creationTimestamp": CREATED},
        "spec": {"size": 3},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    answer = table(resource, [obj], NOW, columns=columns)
    assert answer["rows"][0]["cells"] == ["t", 3, "True", "5m"]
    plain = table(resource, [obj], NOW, columns=[], include_object="None")
    assert [column["name"] for column in plain["columnDefinitions"]] == ["Name", "Age"]
    assert plain["rows"] == [{"cells": ["t", "5m"], "object": None}]


def test_every_builtin_kind_prints_an_empty_object() -> None:
    for resource in registry.BUILTIN:
        answer = table(resource, [{"metadata": {"name": "x"}}], NOW)
        assert len(answer["rows"][0]["cells"]) == len(answer["columnDefinitions"]), resource.kind
        assert answer["columnDefinitions"][0]["name"] in ("Name", "Last Seen")


def test_json_paths() -> None:
    document = {"a": {"b.c": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]}}
    assert jsonpath.find(document, "{.a['b.c'][0].v}") == [1]
    assert jsonpath.find(document, r".a.b\.c[*].v") == [1, 2]
    assert jsonpath.find(document, ".a.b\\.c[?(@.n=='y')].v") == [2]
    assert jsonpath.find(document, ".nothing.here") == []
    with pytest.raises(ValueError, match="not understood"):
        jsonpath.find(document, ".a[")
