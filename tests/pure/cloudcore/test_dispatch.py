"""Where messages go, which need an acknowledgement, and how refusals are wrapped."""

import msgspec
import pytest

from edgehive.beehive.message import Message
from edgehive.cloudcore.cloudhub.dispatch import destination, object_ref, refusal, with_node


def message(operation: str, resource: str, *, source: str = "edged", group: str = "meta", content=None) -> Message:
    return Message.of(source=source, group=group, operation=operation, resource=resource, content=content, timestamp=0)


@pytest.mark.parametrize(
    ("given", "module"),
    [
        (message("patch", "null/nodepatch/n1"), "edgecontroller"),
        (message("get", "membership/detail", source="twin", group="resource"), "devicecontroller"),
        (message("null", "null", source="metaserver", group="dynamiccontroller"), "dynamiccontroller"),
        (message("upload", "x/y", source="bus", group="user"), "router"),
        (message("UpdateNodeActionStatus", "a/b/node/n1", source="websocket", group="hub"), "taskmanager"),
        (message("query", "default/configmap/c", source="edgecontroller"), ""),
    ],
)
def test_destinations(given: Message, module: str) -> None:
    assert destination(given) == module


def test_the_node_is_put_in_front_except_for_node_jobs() -> None:
    """[26]"""
    assert with_node("n1", message("query", "default/secret/s")).route.resource == "node/n1/default/secret/s"
    job = message("UpdateNodeActionStatus", "a/b/node/n1", source="websocket", group="hub")
    assert with_node("n1", job) is job


def test_objects_without_kind_or_uid_are_recognised_by_their_path() -> None:
    ref = object_ref(message("delete", "default/pod/p", content={"metadata": {"name": "p"}}))
    assert (ref.api_version, ref.kind, ref.namespace, ref.name, ref.uid) == (
        "v1",
        "Pod",
        "default",
        "p",
        "default/pod/p",
    )
    ref = object_ref(message("update", "null/node/n1", content={"metadata": {"uid": "u"}}))
    assert (ref.kind, ref.namespace, ref.uid) == ("Node", "", "u")
    for content in ("text", [1], {"metadata": 5}):
        with pytest.raises(ValueError, match="no object"):
            object_ref(message("update", "default/pod/p", content=content))


@pytest.mark.parametrize(
    ("operation", "resource", "keys"),
    [
        ("patch", "null/nodepatch/n2", {"Object", "Err"}),
        ("insert", "null/node/n2", {"Object", "Err"}),
        ("update", "kube-node-lease/lease/n2", {"Object", "Err"}),
        ("query", "default/secret/s", {"ErrStatus"}),
        ("delete", "default/pod/p", {"ErrStatus"}),
    ],
)
def test_refusals_wear_the_envelope_of_their_request(operation: str, resource: str, keys: set[str]) -> None:
    request = message(operation, resource)
    answer = refusal(request, "no", timestamp=1)
    assert answer is not None
    assert answer.header.parent_id == request.id
    assert set(msgspec.json.decode(answer.content)) == keys


def test_what_expects_no_answer_gets_none() -> None:
    assert refusal(message("insert", "default/event/e"), "no", timestamp=1) is None
    assert refusal(message("keepalive", "node"), "no", timestamp=1) is None
