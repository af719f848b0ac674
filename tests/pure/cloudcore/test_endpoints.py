"""What of a node's own reports is kept, and what is put before it, while the API server goes to cloudcore."""

import json
from typing import Any

import pytest

from edgehive.api.document import Document
from edgehive.cloudcore import endpoints
from edgehive.cloudcore.endpoints import Endpoint

CLOUD = [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "10.0.0.1"}]
OWN = [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "n1"}]
ENDPOINT = Endpoint(CLOUD, 10003, 10350)


def node(annotation: str | None = ENDPOINT.annotation, **status: Any) -> Document:
    annotations = {endpoints.ANNOTATION: annotation} if annotation is not None else {}
    return Document.of({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "annotations": annotations},
                        "status": status})  # fmt: skip


def kept(patch: dict[str, Any]) -> dict[str, Any]:
    return json.loads(endpoints.kept_in(json.dumps(patch).encode(), ENDPOINT))


@pytest.mark.parametrize(
    "addresses",
    [OWN, [*OWN, {"$patch": "replace"}], [*CLOUD, *OWN]],
    ids=["as edgehive sends it", "as Go sends it", "as somebody echoes it"],
)
def test_addresses_a_node_reports_come_behind_the_clouds(addresses: list[dict[str, str]]) -> None:
    patch = {"status": {"addresses": addresses, "$setElementOrder/addresses": [{"type": "InternalIP"}]}}
    assert kept(patch) == {"status": {"addresses": [{"$patch": "replace"}, *CLOUD, *OWN]}}


def test_the_port_a_node_reports_stays_the_clouds() -> None:
    patch = {"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 10350}}, "phase": "x"}}
    assert kept(patch)["status"] == {"daemonEndpoints": {"kubeletEndpoint": {"Port": 10003}}, "phase": "x"}


@pytest.mark.parametrize("patch", [b"{}", b'{"status":null}', b"[]", b'{"status":{"conditions":[]}}', b"null"])
def test_a_patch_without_either_says_the_same(patch: bytes) -> None:
    assert json.loads(endpoints.kept_in(patch, ENDPOINT)) == json.loads(patch)


def test_without_an_endpoint_a_patch_is_not_even_read() -> None:
    assert endpoints.kept_in(b"no json", None) == b"no json"


def test_a_node_is_told_its_own_addresses_and_port() -> None:
    whole = node(addresses=[*CLOUD, *OWN], daemonEndpoints={"kubeletEndpoint": {"Port": 10003}}, phase="x")
    status = endpoints.as_reported(whole).to_dict()["status"]
    assert status == {"addresses": OWN, "daemonEndpoints": {"kubeletEndpoint": {"Port": 10350}}, "phase": "x"}


@pytest.mark.parametrize("annotation", [None, "", "no json", "[]", '{"port":1}'])
def test_an_annotation_that_cannot_be_read_is_none(annotation: str | None) -> None:
    plain = node(annotation, addresses=OWN)
    assert endpoints.endpoint_of(plain) is None
    assert endpoints.as_reported(plain) is plain
