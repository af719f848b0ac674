"""On a cluster that has never seen KubeEdge, cloudcore defines the kinds its records need, and only then."""

import asyncio

import pytest

from edgehive.api.registry import CUSTOM_RESOURCE_DEFINITIONS, OBJECT_SYNCS
from edgehive.cloudcore.crds import ensure_kinds
from edgehive.kit.tls import new_key
from edgehive.kube.server.app import ServerOptions
from edgehive.testing.cloud import cloud
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.looptime


async def test_a_bare_cluster_gets_the_definitions_once_and_serves_nodes() -> None:
    async with Cluster(options=ServerOptions(service_account_key=new_key())) as cluster:
        async with cloud(cluster=cluster) as it:
            edge = await it.edge("n1")
            await it.pod("web", "n1")
            await edge.expect_object("default/pod/web")
            await asyncio.sleep(2)
            assert len((await it.client.list(OBJECT_SYNCS)).items) == 1
        before = (await cluster.client().list(CUSTOM_RESOURCE_DEFINITIONS)).resource_version
        await ensure_kinds(cluster.client())
        assert (await cluster.client().list(CUSTOM_RESOURCE_DEFINITIONS)).resource_version == before


async def test_a_server_that_has_the_kinds_is_left_alone() -> None:
    async with Cluster() as cluster:
        await ensure_kinds(cluster.client())
        assert (await cluster.client().list(CUSTOM_RESOURCE_DEFINITIONS)).items == []
