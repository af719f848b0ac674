"""The official Python client against a served cluster."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from kubernetes import client as kubernetes
from kubernetes import watch

from edgehive.kit.clock import SystemClock
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
async def api() -> AsyncIterator[kubernetes.ApiClient]:
    async with Cluster(clock=SystemClock()) as cluster, cluster.serve() as url:
        connection = kubernetes.ApiClient(kubernetes.Configuration(host=url))
        yield connection
        connection.close()


def _life_of_a_config_map(api: kubernetes.ApiClient) -> None:
    core = kubernetes.CoreV1Api(api)
    body = kubernetes.V1ConfigMap(metadata=kubernetes.V1ObjectMeta(name="a"), data={"k": "v"})
    core.create_namespaced_config_map("default", body)
    core.patch_namespaced_config_map("a", "default", {"data": {"k": "w"}})
    assert core.read_namespaced_config_map("a", "default").data == {"k": "w"}
    listed = core.list_namespaced_config_map("default", label_selector="x!=y")
    assert [item.metadata.name for item in listed.items] == ["a"]
    core.delete_namespaced_config_map("a", "default")
    with pytest.raises(kubernetes.ApiException) as refused:
        core.read_namespaced_config_map("a", "default")
    assert refused.value.status == 404
    stream = watch.Watch().stream(
        core.list_namespaced_config_map, "default", resource_version=listed.metadata.resource_version,
        timeout_seconds=1,
    )  # fmt: skip
    assert [event["type"] for event in stream] == ["DELETED"]


async def test_a_config_map_lives_and_dies(api: kubernetes.ApiClient) -> None:
    await asyncio.to_thread(_life_of_a_config_map, api)


def _life_of_a_deployment(api: kubernetes.ApiClient) -> None:
    apps = kubernetes.AppsV1Api(api)
    container = kubernetes.V1Container(name="c", image="busybox")
    template = kubernetes.V1PodTemplateSpec(
        metadata=kubernetes.V1ObjectMeta(labels={"a": "b"}), spec=kubernetes.V1PodSpec(containers=[container])
    )
    spec = kubernetes.V1DeploymentSpec(selector=kubernetes.V1LabelSelector(match_labels={"a": "b"}), template=template)
    body = kubernetes.V1Deployment(metadata=kubernetes.V1ObjectMeta(name="web"), spec=spec)
    made = apps.create_namespaced_deployment("default", body)
    assert made.spec.replicas == 1
    assert made.metadata.generation == 1
    apps.patch_namespaced_deployment_scale("web", "default", {"spec": {"replicas": 3}})
    made = apps.read_namespaced_deployment("web", "default")
    assert made.spec.replicas == 3
    made.metadata.labels = {"x": "y"}
    assert apps.replace_namespaced_deployment("web", "default", made).metadata.labels == {"x": "y"}


async def test_a_deployment_is_scaled_and_replaced(api: kubernetes.ApiClient) -> None:
    await asyncio.to_thread(_life_of_a_deployment, api)
