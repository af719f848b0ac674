"""A name from elsewhere never becomes another path than that of the one object it names."""

import pytest

from edgehive.api.registry import NODES, PODS
from edgehive.kube.errors import BadRequest
from edgehive.kube.http_client import HttpClient
from edgehive.kube.kubeconfig import ClusterAccess


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../nodes/n", "a%2fb"])
async def test_a_name_that_is_a_path_is_refused_before_anything_is_sent(name: str) -> None:
    async with HttpClient(ClusterAccess(server="http://127.0.0.1:1")) as client:
        for asked in (
            client.get(PODS, name, "default"),
            client.patch(PODS, name, {}, "default"),
            client.delete(PODS, name, "default"),
            client.update(PODS, {"metadata": {}}, "default", name=name),
            client.get(NODES, name),
        ):
            with pytest.raises(BadRequest, match=r"(named|may not be)"):
                await asked
        with pytest.raises(BadRequest, match="namespace"):
            await client.get(PODS, "web", "../x")
