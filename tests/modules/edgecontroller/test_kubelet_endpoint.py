"""A node that reports its status keeps the place where the API server finds its kubelet."""

import pytest

from edgehive.api.registry import NODES
from edgehive.cloudcore import endpoints
from edgehive.cloudcore.endpoints import Endpoint
from edgehive.kube.client import PatchType
from edgehive.testing.cloud import cloud, content_of

pytestmark = pytest.mark.looptime

CLOUD = [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "10.0.0.1"}]
OWN = [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "n1"}]
ENDPOINT = Endpoint(CLOUD, 10003, 10350)


async def test_a_status_patch_moves_neither_addresses_nor_port_and_is_answered_with_the_nodes_own() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        annotations = {"metadata": {"annotations": {endpoints.ANNOTATION: ENDPOINT.annotation}}}
        status = endpoints.advertised(ENDPOINT, {"addresses": OWN})
        await it.client.patch(NODES, "n1", {"status": status}, type=PatchType.MERGE, subresource="status")
        await it.client.patch(NODES, "n1", annotations)
        await edge.expect_object("null/node/n1", "update")
        moved = [{"type": "InternalIP", "address": "192.0.2.8"}, {"type": "Hostname", "address": "n1"}]
        patch = {"status": {"addresses": moved, "daemonEndpoints": {"kubeletEndpoint": {"Port": 10350}}}}
        reply = await edge.request("patch", "null/nodepatch/n1", patch)
        shown = (await it.client.get(NODES, "n1")).to_dict()["status"]
        assert shown["addresses"] == [*CLOUD, *moved]
        assert shown["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10003
        told = content_of(reply)["Object"]["status"]
        assert (told["addresses"], told["daemonEndpoints"]["kubeletEndpoint"]["Port"]) == (moved, 10350)
