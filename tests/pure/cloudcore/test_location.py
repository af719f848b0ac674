"""What a pod needs, and who has such pods."""

import pytest

from edgehive.api.core import Pod
from edgehive.api.document import Document
from edgehive.cloudcore.edgecontroller.location import Location, Missed, Reference, references


def pod(name: str, node: str, **spec: object) -> Pod:
    containers = [{"name": "c", "image": "i"}]
    metadata = {"name": name, "namespace": "ns"}
    return Document.of({"metadata": metadata, "spec": {"nodeName": node, "containers": containers} | spec}).read(Pod)


CONFIG, SECRET = Reference("configmap", "ns", "x"), Reference("secret", "ns", "x")
KEY = {"name": "x", "key": "k"}


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        ({"volumes": [{"name": "v", "configMap": {"name": "x"}}]}, CONFIG),
        ({"volumes": [{"name": "v", "secret": {"secretName": "x"}}]}, SECRET),
        ({"volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "x"}}]}}]}, CONFIG),
        ({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "x"}}]}}]}, SECRET),
        ({"containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"configMapKeyRef": KEY}}]}]}, CONFIG),
        ({"containers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": KEY}}]}]}, SECRET),
        ({"containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "x"}}]}]}, CONFIG),
        ({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "x"}}]}]}, SECRET),
        ({"initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "x"}}]}]}, SECRET),
        ({"imagePullSecrets": [{"name": "x"}]}, SECRET),
        (
            {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "x"}}]},
            Reference("persistentvolumeclaim", "ns", "x"),
        ),
        (
            {"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {}}}]},
            Reference("persistentvolumeclaim", "ns", "p-v"),
        ),
        ({"volumes": [{"name": "v", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "x"}}}]}, SECRET),
        ({"serviceAccountName": "x"}, Reference("serviceaccounttoken", "ns", "x")),
        ({}, Reference("serviceaccounttoken", "ns", "default")),
    ],
)
def test_every_way_to_refer(spec: dict[str, object], reference: Reference) -> None:
    assert reference in references(pod("p", "n1", **spec))


def test_a_mirror_entitles_its_node_to_nothing() -> None:
    """A node makes mirrors itself: one that named a Secret would be a way to read it."""
    metadata = {"name": "m", "namespace": "ns", "annotations": {"kubernetes.io/config.mirror": "hash"}}
    spec = {"nodeName": "n1", "containers": [], "imagePullSecrets": [{"name": "x"}]}
    assert references(Document.of({"metadata": metadata, "spec": spec}).read(Pod)) == frozenset()


def test_a_node_is_forgotten_with_its_last_pod() -> None:
    where = Location()
    needs = {"imagePullSecrets": [{"name": "x"}]}
    where.put(pod("a", "n1", **needs))
    where.put(pod("b", "n1", **needs))
    where.put(pod("c", "n2", **needs))
    assert sorted(where.nodes_of(SECRET)) == ["n1", "n2"]
    where.remove("ns", "a")
    assert where.needs("n1", SECRET)
    where.remove("ns", "b")
    where.remove("ns", "b")
    assert where.nodes_of(SECRET) == ["n2"]
    where.put(pod("c", "n2"))
    assert where.nodes_of(SECRET) == []
    assert len(where) == 1


def test_what_a_node_missed_is_remembered_within_bounds_and_forgotten_when_it_is_sent() -> None:
    missed = Missed(per_node=2)
    first, second, third = (Reference("configmap", "default", name) for name in "abc")
    for reference in (first, second, third):
        missed.note("n1", reference)
    assert missed.among("n1", frozenset((first, second, third))) == [second, third]
    assert missed.among("n2", frozenset((second,))) == []
    missed.forget("n1", second)
    assert missed.among("n1", frozenset((second, third))) == [third]
    missed.forget("n2", third)
