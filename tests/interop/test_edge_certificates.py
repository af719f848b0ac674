"""The feature gate `requireAuthorization`: an edge's MetaServer wants a certificate of the cluster's CA.

The edge asks the cloud for the API server's CA and for a CertificateSigningRequest; the cloud makes and approves it,
kube-controller-manager signs it. A stock cloudcore also tells nodes what their pods' service accounts may do.
"""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pairings import Manifest, Pairing, pod

from edgehive.testing.two_hosts import NODE

pytestmark = [pytest.mark.containerd, pytest.mark.kubectl, pytest.mark.timeout(300)]

GATE = {"requireAuthorization": True}
MODULES = {"metaManager": {"metaServer": {"enable": True}}}
_ASK = """
import http.client, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
door = http.client.HTTPSConnection(sys.argv[1], 10550, timeout=20, context=context)
door.request("GET", "/api/v1/namespaces/default/pods")
print(door.getresponse().status)
"""


@pytest.fixture(scope="module")
def gated(pairing: Pairing) -> Iterator[Pairing]:
    """Both halves started again with the feature gate."""
    hosts = pairing.hosts
    if not pairing.cast.stock_control_plane:
        pytest.skip("a site's own halves have no MetaServer that would ask for a certificate yet")
    # Stock edgecore makes itself a dummy interface; where the kernel has no such kind it is content with a bridge.
    hosts.edge.run("bash", "-c", "ip link show edge-dummy0 || ip link add edge-dummy0 type bridge")
    hosts.edge.run("ip", "link", "set", "edge-dummy0", "up")
    kubeconfig = hosts.kubeconfig
    hosts.end_edgecore()
    hosts.end_cloudcore()
    hosts.kubeconfig = with_ca_file(kubeconfig)
    hosts.feature_gates, hosts.edge_modules = GATE, MODULES
    hosts.start_cloudcore()
    hosts.start_edgecore()
    yield pairing
    hosts.end_edgecore()
    hosts.end_cloudcore()
    hosts.kubeconfig = kubeconfig
    hosts.feature_gates, hosts.edge_modules = {}, {}
    hosts.start_cloudcore()
    hosts.start_edgecore()


def with_ca_file(kubeconfig: Path) -> Path:
    """The kubeconfig with its CA in a file beside it: stock cloudcore passes on no other."""
    document = yaml.safe_load(kubeconfig.read_text())
    cluster = document["clusters"][0]["cluster"]
    cluster["certificate-authority"] = str(kubeconfig.with_name("api-ca.crt"))
    Path(cluster["certificate-authority"]).write_bytes(base64.b64decode(cluster.pop("certificate-authority-data")))
    path = kubeconfig.with_name("kubeconfig-ca-file")
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_edge_gets_a_certificate_for_its_meta_server(gated: Pairing) -> None:
    """Made, approved and signed; the MetaServer shows it at both of its addresses."""
    if not gated.cast.stock_edgecore:
        pytest.skip("our edgecore has no MetaServer yet, so it asks for no certificate")
    request = f"metaserver-csr-{NODE}"
    gated.until("the certificate", lambda: gated.get("csr", request).get("status", {}).get("certificate"))
    found = gated.get("csr", request)
    assert [item["type"] for item in found["status"]["conditions"]] == ["Approved"]
    assert found["status"]["conditions"][0]["reason"] == "AutoApproved"
    assert found["spec"]["signerName"] == "kubernetes.io/kubelet-serving"
    authority = str(gated.hosts.kubeconfig.with_name("api-ca.crt"))
    for address in ("127.0.0.1", "169.254.30.10"):
        gated.until(f"the MetaServer at {address}", lambda address=address: serves(gated, address, authority))


def serves(gated: Pairing, address: str, authority: str) -> bool:
    """Whether the MetaServer answers with a certificate that names the address; whom it lets in is its own matter."""
    command = f'"$0" -c "$1" {address} {authority} || true'
    return gated.hosts.edge.run("bash", "-c", command, sys.executable, _ASK).strip() in ("200", "401", "403")


def account(name: str) -> list[Manifest]:
    """A service account that may read ConfigMaps."""
    meta = {"name": name, "namespace": "default"}
    group = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
        },
    ]


def test_what_service_accounts_may_do_is_taken_and_acknowledged(gated: Pairing) -> None:
    """[36, 42] The cloud's record says that the edge has it."""
    if not gated.cast.stock_cloudcore:
        pytest.skip("our cloudcore has no policycontroller yet")
    made = account("reader")
    gated.apply(*made, pod("reading", serviceAccountName="reader"))
    gated.until_running("reading")

    def known() -> str:
        found = json.loads(gated.kubectl("get", "serviceaccountaccesses", "-A", "-o", "json"))["items"]
        accounts = {item["spec"]["serviceAccount"]["metadata"]["name"]: item["metadata"]["uid"] for item in found}
        return accounts.get("reader", "")

    def recorded() -> bool:
        record = gated.get("objectsync", f"{NODE}.{known()}")
        return bool(record.get("status", {}).get("objectResourceVersion", "0") != "0")

    gated.until("the service account's rights to be known", known)
    # A stock cloud now and then makes the record and sends nothing; the next change goes out.
    roles = [{**item, "rules": [{**item["rules"][0], "verbs": ["get", "list"]}]} for item in made if "rules" in item]
    gated.apply(*roles)
    gated.until("the record that the node has them", recorded, 90)
    gated.delete_pods("reading")


def test_pods_run_as_without_the_gate(gated: Pairing) -> None:
    gated.apply(pod("guarded"))
    gated.until_running("guarded")
    gated.delete_pods("guarded")
