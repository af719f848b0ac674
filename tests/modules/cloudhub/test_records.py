"""Delivery records cost few API requests, never hold up delivery for good, and survive an API that is away."""

import asyncio
from collections import Counter

import pytest

from edgehive.api.edge import ObjectSync
from edgehive.api.registry import OBJECT_SYNCS, PODS
from edgehive.cloudcore.objectsync import WRITERS
from edgehive.kube.errors import Forbidden, ServiceUnavailable
from edgehive.testing.cloud import cloud
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.looptime


class Counted:
    """A client that counts what is asked about ObjectSyncs, slows it down, and fails it when told to."""

    def __init__(self, client) -> None:
        self._client = client
        self.requests: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.failure: Exception | None = None

    def __getattr__(self, name: str):
        real = getattr(self._client, name)
        if name not in ("get", "create", "update", "patch", "delete"):
            return real

        async def call(resource, *args, **kwargs):
            if resource is not OBJECT_SYNCS:
                return await real(resource, *args, **kwargs)
            self.requests[name] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                await asyncio.sleep(0.1)
                if self.failure is not None:
                    raise self.failure
                return await real(resource, *args, **kwargs)
            finally:
                self.at_once -= 1

        return call


async def test_one_request_before_the_first_delivery_and_one_per_acknowledgement() -> None:
    """[39]"""
    async with Cluster() as cluster:
        client = Counted(cluster.client())
        async with cloud(cluster=cluster, client=client) as it:
            edge = await it.edge("n1")
            client.requests.clear()
            await it.pod("web", "n1")
            await edge.expect_object("default/pod/web")
            assert client.requests == {"create": 1}
            await asyncio.sleep(2)
            assert client.requests == {"create": 1, "patch": 1}


async def test_many_new_objects_share_a_few_requests_at_a_time_and_block_nobody() -> None:
    async with Cluster() as cluster:
        client = Counted(cluster.client())
        async with cloud(cluster=cluster, client=client) as it:
            busy, idle = await it.edge("n1"), await it.edge("n2")
            for number in range(200):
                await it.pod(f"p{number}", "n1")
            reply = await asyncio.wait_for(idle.request("query", "kube-node-lease/lease/n2"), 1)
            assert reply
            await busy.expect_object("default/pod/p199")
            assert client.most_at_once <= WRITERS


async def test_a_record_that_is_refused_for_good_does_not_stop_the_object() -> None:
    async with Cluster() as cluster:
        client = Counted(cluster.client())
        async with cloud(cluster=cluster, client=client) as it:
            edge = await it.edge("n1")
            client.failure = Forbidden("the namespace is being terminated")
            await it.pod("web", "n1")
            await edge.expect_object("default/pod/web", patience=2)


async def test_records_are_written_when_the_api_is_back() -> None:
    async with Cluster() as cluster:
        client = Counted(cluster.client())
        async with cloud(cluster=cluster, client=client) as it:
            edge = await it.edge("n1")
            client.failure = ServiceUnavailable("etcd is away")
            pod = await it.pod("web", "n1")
            with pytest.raises(TimeoutError):
                await edge.expect_object("default/pod/web", patience=3)
            client.failure = None
            await edge.expect_object("default/pod/web")
            await asyncio.sleep(5)
            sync = (await it.client.get(OBJECT_SYNCS, f"n1.{pod.meta.uid}", "default")).read(ObjectSync)
            assert sync.status.object_resource_version == pod.meta.resource_version


async def test_a_record_somebody_removed_is_made_again() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        pod = await it.pod("web", "n1")
        await edge.expect_object("default/pod/web")
        await asyncio.sleep(2)
        await it.client.delete(OBJECT_SYNCS, f"n1.{pod.meta.uid}", "default")
        await asyncio.sleep(1)
        changed = await it.client.patch(PODS, "web", {"metadata": {"labels": {"c": "d"}}}, "default")
        await edge.expect_object("default/pod/web", "update", "insert")
        await asyncio.sleep(2)
        sync = (await it.client.get(OBJECT_SYNCS, f"n1.{pod.meta.uid}", "default")).read(ObjectSync)
        assert sync.status.object_resource_version == changed.meta.resource_version
