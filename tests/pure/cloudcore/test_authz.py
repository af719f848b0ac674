"""Who may say what: a node speaks for itself, its lease and its pods."""

import pytest

from edgehive.beehive.message import Message
from edgehive.cloudcore.cloudhub.authz import violation

PODS = {("default", "mine"): "n1", ("default", "theirs"): "n2", ("default", "pending"): ""}


def judge(operation: str, resource: str, source: str = "edged") -> str:
    message = Message.of(source=source, group="meta", operation=operation, resource=resource, timestamp=0)
    return violation("n1", message, lambda namespace, name: PODS.get((namespace, name)))


@pytest.mark.parametrize(
    ("operation", "resource"),
    [
        ("insert", "null/node/n1"),
        ("patch", "null/nodepatch/n1"),
        ("update", "null/nodestatus/n1"),
        ("update", "kube-node-lease/lease/n1"),
        ("patch", "default/podpatch/mine"),
        ("delete", "default/pod/mine"),
        ("delete", "default/pod/unknown"),
        ("insert", "default/pod/mirror"),
        ("update", "default/podstatus"),
        ("query", "default/configmap/c"),
        ("query", "default/serviceaccounttoken/sa"),
        ("insert", "default/event/e"),
        ("query", "k8s/ca.crt"),
        ("response", "anything at all"),
        ("UpdateNodeActionStatus", "operations.kubeedge.io/v1alpha2/nodeupgradejob/j/node/n1"),
    ],
)
def test_allowed(operation: str, resource: str) -> None:
    assert judge(operation, resource) == ""


@pytest.mark.parametrize(
    ("operation", "resource"),
    [
        ("insert", "null/node/n2"),
        ("patch", "null/nodepatch/n2"),
        ("update", "kube-node-lease/lease/n2"),
        ("update", "default/lease/n1"),
        ("patch", "default/podpatch/theirs"),
        ("patch", "default/podpatch/pending"),
        ("delete", "default/pod/theirs"),
        ("insert", "default/configmap/c"),
        ("delete", "default/secret/s"),
        ("query", "default/clusterrole/x"),
        ("query", "short"),
        ("UpdateNodeActionStatus", "operations.kubeedge.io/v1alpha2/nodeupgradejob/j/node/n2"),
    ],
)
def test_refused(operation: str, resource: str) -> None:
    assert judge(operation, resource) != ""


def test_the_clouds_own_sources_are_refused() -> None:
    assert "the cloud's own" in judge("query", "default/configmap/c", source="edgecontroller")
    assert judge("response", "default/pod/mine", source="edgecontroller") == ""
