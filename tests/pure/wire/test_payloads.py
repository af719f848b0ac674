"""Envelopes, errors and the acknowledgement rule."""

import json

import pytest

from edgehive.api.document import Document
from edgehive.api.meta import Status, StatusDetails
from edgehive.beehive.message import Message, raw
from edgehive.wire import payloads
from edgehive.wire.payloads import ObjectAnswer

EXISTS = Status(
    message='nodes "edge-1" already exists',
    reason="AlreadyExists",
    code=409,
    details=StatusDetails(name="edge-1", kind="nodes"),
)


def message(
    source: str = "edgecontroller",
    group: str = "resource",
    operation: str = "update",
    resource: str = "default/pod/nginx",
    content: object = None,
) -> Message:
    return Message.of(
        source=source, group=group, operation=operation, resource=resource, content=content, timestamp=1, id="m"
    )


def test_an_error_is_written_as_go_nests_it():
    assert json.loads(bytes(payloads.error_content(EXISTS))) == {
        "ErrStatus": {
            "metadata": {},
            "status": "Failure",
            "message": 'nodes "edge-1" already exists',
            "reason": "AlreadyExists",
            "details": {"name": "edge-1", "kind": "nodes"},
            "code": 409,
        }
    }


def test_object_response_has_both_keys_on_success_and_failure():
    """[44]"""
    node = Document.of({"kind": "Node", "metadata": {"name": "edge-1"}})
    assert json.loads(bytes(payloads.object_response(node))) == {"Object": node.to_dict(), "Err": None}
    failed = json.loads(bytes(payloads.object_response({"metadata": {"creationTimestamp": None}}, EXISTS)))
    assert failed["Object"] == {"metadata": {"creationTimestamp": None}}
    assert failed["Err"]["ErrStatus"]["reason"] == "AlreadyExists"


@pytest.mark.parametrize(
    "content", [b'{"Object":{"a":1},"Err":null}', b'{"object":{"a":1},"err":{"ErrStatus":{"metadata":{}}}}']
)
def test_a_response_without_a_real_error_is_a_success(content: bytes):
    answer = payloads.read_object_response(content)
    assert answer is not None
    assert (answer.object and answer.object.raw, answer.error) == (b'{"a":1}', None)


def test_a_failed_response_gives_the_status():
    answer = payloads.read_object_response(bytes(payloads.object_response(None, EXISTS)))
    assert answer == ObjectAnswer(None, EXISTS)


@pytest.mark.parametrize("content", [b'{"Object":null}', b'{"kind":"Pod"}', b'"OK"', b"[]", b"null", b""])
def test_other_content_is_no_object_response(content: bytes):
    assert payloads.read_object_response(content) is None


@pytest.mark.parametrize(
    ("content", "operation", "error"),
    [
        ("OK", "response", None),
        (None, "response", None),
        ("pods is forbidden", "response", "pods is forbidden"),
        ("cloud is away", "error", "cloud is away"),
        ({}, "response", "without saying which"),
        (
            {"ErrStatus": {"metadata": {}, "status": "Failure", "reason": "NotFound", "code": 404, "message": "gone"}},
            "response",
            "gone",
        ),
        ({"ErrStatus": "text"}, "response", "cannot be read"),
        ({"metadata": {"name": "x"}}, "response", None),
    ],
)
def test_replies_of_every_form(content: object, operation: str, error: str | None):
    answer = payloads.read_reply(message(operation=operation, content=content))
    assert (answer.error is None) == (error is None)
    if error is not None and answer.error is not None:
        assert error in answer.error.message
    assert (answer.object is not None) == (content == {"metadata": {"name": "x"}})


def ack_row(expected: bool, **route: object) -> object:
    return pytest.param(route, expected, id=" ".join(map(str, route.values())))


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ack_row(True),
        ack_row(True, operation="insert", resource="node/edge-1/default/pod/nginx"),
        ack_row(True, operation="delete"),
        ack_row(False, operation="response"),
        ack_row(True, operation="response", resource="default/configmap/c", content={"kind": "ConfigMap"}),
        ack_row(False, operation="response", resource="default/configmap/c", content="OK"),
        ack_row(False, operation="response", resource="default/configmap/c", content={"ErrStatus": {"code": 404}}),
        ack_row(False, operation="response", resource="default/configmap/c", content={}),
        ack_row(True, operation="update", resource="null/node/edge-1"),
        ack_row(False, operation="response", resource="null/node/edge-1"),
        ack_row(False, operation="insert", resource="node/edge-1/null/node/edge-1"),
        ack_row(False, operation="response", resource="kube-node-lease/lease/edge-1"),
        ack_row(False, operation="response", resource="null/nodepatch/edge-1"),
        ack_row(False, operation="response", resource="default/podpatch/nginx"),
        ack_row(False, operation="response", resource="default/certificatesigningrequest/c"),
        ack_row(False, operation="response", resource="default/serviceaccounttoken/default"),
        ack_row(False, operation="update", resource="default/podlist"),
        # Row 76: a name that resembles a path of the protocol's own is a name.
        ack_row(True, operation="update", resource="default/pod/my-podlist"),
        ack_row(True, operation="insert", resource="node/edge-1/default/configmap/membership-config"),
        ack_row(True, operation="update", resource="membership/secret/membership"),
        ack_row(True, operation="update", resource="podlist/pod/p"),
        ack_row(
            True, operation="response", resource="default/secret/serviceaccounttoken-x", content={"kind": "Secret"}
        ),
        ack_row(True, operation="update", resource="k8s/configmap/ca.crt"),
        ack_row(True, source="devicecontroller", operation="update", resource="twin/device/cloud_updated"),
        ack_row(False, source="devicecontroller", operation="update", resource="device/default/d/twin/cloud_updated"),
        ack_row(False, source="devicecontroller", group="twin", operation="update", resource="membership/detail"),
        ack_row(
            False, source="devicecontroller", group="twin", operation="response", resource="twin", content={"a": 1}
        ),
        ack_row(False, source="cloudhub", operation="response", resource="k8s/ca.crt", content="PEM"),
        ack_row(False, source="cloudhub", operation="createvolume", resource="default/volume/x"),
        ack_row(True, source="devicecontroller", operation="insert", resource="default/device/d"),
        ack_row(False, source="devicecontroller", group="twin", operation="update", resource="membership"),
        ack_row(
            False, source="dynamiccontroller", operation="applicationResponse", resource="ignore/Application/ignore"
        ),
        ack_row(True, source="dynamiccontroller", operation="insert", resource="default/service/s"),
        ack_row(True, source="policycontroller", operation="insert", resource="default/serviceaccountaccess/s"),
        ack_row(False, source="router_eventbus", group="user", operation="publish", resource="a/topic"),
        ack_row(
            False, source="taskmanager", group="taskmanager", operation="Check", resource="operations.kubeedge.io/x"
        ),
    ],
)
def test_which_messages_need_an_ack(route: dict, expected: bool):
    """[41, 76]"""
    assert payloads.needs_ack(message(**route)) is expected


def test_an_ack_copies_the_route_and_names_its_parent():
    ack = payloads.acknowledge(message(), timestamp=9)
    assert (ack.header.parent_id, ack.route.operation, bytes(ack.content)) == ("m", "response", b'"OK"')
    assert (ack.route.source, ack.route.resource) == ("edgecontroller", "default/pod/nginx")


def test_notices():
    assert payloads.read_connection_notice(payloads.connection_notice(True, timestamp=1)) is True
    assert payloads.read_connection_notice(payloads.connection_notice(False, timestamp=1)) is False
    assert payloads.read_connection_notice(message()) is None


def test_delete_options_in_the_forms_edges_use():
    """[31]"""
    modern = payloads.read_delete_options(
        message(content={"gracePeriodSeconds": 0, "preconditions": {"uid": "u", "resourceVersion": None}})
    )
    assert (modern.grace_period_seconds, modern.uid) == (0, "u")
    assert payloads.read_delete_options(message(content="u")).uid == "u"
    assert payloads.read_delete_options(message()).uid == ""


def test_legacy_status_bodies_one_or_many():
    entry = {"UID": "u", "Name": "p", "Status": {"phase": "Running"}}
    one = payloads.read_pod_status_requests(message(content=entry))
    assert one == payloads.read_pod_status_requests(message(content=[entry]))
    assert (one[0].uid, one[0].name, bytes(one[0].status)) == ("u", "p", b'{"phase":"Running"}')
    node = message(content={"UID": "u", "Status": {}, "ExtendResources": None}).read(payloads.NodeStatusRequest)
    assert (node.uid, bytes(node.status)) == ("u", b"{}")


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("default/volume/abc-1", True),
        ("default/persistentvolume/x", False),
        ("default/volume/", False),
        ("volume/x", False),
    ],
)
def test_volume_resources(resource: str, expected: bool):
    assert payloads.is_volume_resource(resource) is expected


def test_raw_objects_pass_through_untouched():
    text = b'{"kind" : "Pod", "metadata":{}}'
    assert text in bytes(payloads.object_response(Document(text)))
    assert bytes(raw(payloads.object_response(text))) == bytes(payloads.object_response(text))
