"""With `requireAuthorization` a node gets a serving certificate for addresses of its own, and nothing else."""

import base64
import ipaddress
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.registry import CERTIFICATE_SIGNING_REQUESTS
from edgehive.cloudcore.certificate_requests import addresses
from edgehive.kube.errors import Forbidden
from edgehive.testing.cloud import cloud, content_of
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.looptime

GATE = msgspec.convert({"featureGates": {"requireAuthorization": True}}, CloudCore)
OWN = ("127.0.0.1", "169.254.30.10")
USAGES = ("digital signature", "key encipherment", "server auth")
PATH = "default/certificatesigningrequest/metaserver-csr-n1"


def pem(node: str, *names: x509.GeneralName) -> bytes:
    subject = [(NameOID.ORGANIZATION_NAME, "system:nodes"), (NameOID.COMMON_NAME, f"system:node:{node}")]
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(oid, text) for oid, text in subject])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    request = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def ip(*texts: str) -> list[x509.GeneralName]:
    return [x509.IPAddress(ipaddress.ip_address(text)) for text in texts]


def wanted(request: bytes, *, signer: str = "kubernetes.io/kubelet-serving", usages: Any = USAGES) -> dict[str, Any]:
    spec = {"request": base64.b64encode(request).decode(), "signerName": signer, "usages": usages}
    return {"metadata": {"name": "metaserver-csr-n1"}, "spec": spec}


async def conditions_of(request: dict[str, Any], config: CloudCore = GATE) -> list[str]:
    """What a cloudcore makes of a node's request."""
    async with cloud(config) as it:
        edge = await it.edge("n1")
        made = content_of(await edge.request("insert", PATH, request))
        assert made["Err"] is None
        read = content_of(await edge.request("query", PATH))
        assert read["status"] == made["Object"].get("status", read["status"])
        return [item["type"] for item in read["status"].get("conditions") or ()]


async def test_a_serving_certificate_for_the_node_s_own_addresses_is_approved() -> None:
    assert await conditions_of(wanted(pem("n1", *ip(*OWN, "::1", "fe80::1")))) == ["Approved"]


async def test_nothing_is_approved_without_the_feature_gate() -> None:
    assert await conditions_of(wanted(pem("n1", *ip(*OWN))), CloudCore()) == []


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (wanted(pem("n1", *ip("127.0.0.1", "10.96.0.1"))), "others than the node itself could be meant by 10.96.0.1"),
        (wanted(pem("n1", *ip("127.0.0.1"), x509.DNSName("kubernetes.default.svc"))), "a name that is no IP address"),
        (wanted(pem("n1", x509.RFC822Name("root@example.com"))), "a name that is no IP address"),
        (wanted(pem("n1")), "it names no address"),
        (wanted(pem("n1", *ip(*OWN)), usages=["client auth"]), "usages client auth are not those of a server"),
        (wanted(pem("n1", *ip(*OWN)), usages=[*USAGES, "client auth"]), "are not those of a server"),
        (wanted(pem("n1", *ip(*OWN)), signer="kubernetes.io/kube-apiserver-client-kubelet"), "is not kubernetes.io"),
    ],
    ids=["another-address", "dns", "mail", "no-address", "client", "client-too", "signer"],
)
async def test_what_could_pass_for_another_is_left_to_a_human(
    request_: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await conditions_of(request_) == []
    assert why in caplog.text
    assert "kubectl certificate approve metaserver-csr-n1" in caplog.text


async def test_a_decision_that_stands_is_left_alone() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await edge.request("insert", PATH, wanted(pem("n1", *ip(*OWN))))
        made = (await it.client.get(CERTIFICATE_SIGNING_REQUESTS, "metaserver-csr-n1")).to_dict()
        denied = {"type": "Denied", "status": "True", "reason": "No", "message": "no"}
        made["status"] = {"conditions": [denied]}
        await it.client.update(CERTIFICATE_SIGNING_REQUESTS, made, name="metaserver-csr-n1", subresource="approval")
        async with cloud(GATE, cluster=it.cluster) as later:
            edge = await later.edge("n1")
            read = content_of(await edge.request("query", PATH))
            assert [item["type"] for item in read["status"]["conditions"]] == ["Denied"]


class NotTrusted:
    """A client whose rights do not reach as far as approving."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def update(self, resource: Any, *args: Any, subresource: str = "", **more: Any) -> Any:
        if subresource == "approval":
            raise Forbidden("cannot update resource certificatesigningrequests/approval")
        return await self._client.update(resource, *args, subresource=subresource, **more)


async def test_a_cloudcore_that_may_not_approve_still_answers_the_node(caplog: pytest.LogCaptureFixture) -> None:
    async with Cluster() as cluster, cloud(GATE, cluster=cluster, client=NotTrusted(cluster.client())) as it:
        edge = await it.edge("n1")
        made = content_of(await edge.request("insert", PATH, wanted(pem("n1", *ip(*OWN)))))
        assert made["Object"]["metadata"]["name"] == "metaserver-csr-n1"
        assert "could not be approved: cannot update" in caplog.text


async def test_a_request_that_is_not_there_is_told_so() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        missing = content_of(await edge.request("query", PATH))
        assert missing["ErrStatus"]["reason"] == "NotFound"


def test_addresses_are_read_as_they_were_written() -> None:
    assert [str(address) for address in addresses(pem("n1", *ip("127.0.0.1", "::1")))] == ["127.0.0.1", "::1"]
    assert addresses(pem("n1")) == []
    with pytest.raises(ValueError, match="not one certificate request"):
        addresses(b"")
