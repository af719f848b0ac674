"""The tables of metamanager and edgehub, and the judgement of objects and tokens."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehive.api.document import Document
from edgehive.beehive.message import Message
from edgehive.edgecore.edgehub import inbound, outbound
from edgehive.edgecore.edgehub.outbound import Fate
from edgehive.edgecore.metamanager import envelope, onward, tokens
from edgehive.edgecore.metamanager.envelope import Age, BadObject
from edgehive.edgecore.metamanager.onward import Ask, Keep
from edgehive.wire.resource import Resource


def message(operation="update", resource="default/pod/p", source="edgecontroller", group="resource", parent=""):
    return Message.of(source=source, group=group, operation=operation, resource=resource, timestamp=1, parent_id=parent)


@pytest.mark.parametrize("operation", ["insert", "update", "delete", "response"])
@pytest.mark.parametrize("type", ["pod", "configmap", "secret", "node", "device", "service", "serviceaccountaccess"])
def test_whatever_the_cloud_sends_is_written_before_it_is_acknowledged(operation, type):
    decision = onward.from_cloud(operation, "edgecontroller", type)
    assert decision.keep in (Keep.ROW, Keep.REMOVE)


@pytest.mark.parametrize(
    ("source", "type", "told"),
    [
        ("edgecontroller", "pod", "edged"),
        ("edgecontroller", "secret", "edged"),
        ("edgecontroller", "node", ""),
        ("edgecontroller", "device", "twin"),
        ("devicecontroller", "devicemodel", "twin"),
        ("dynamiccontroller", "pod", ""),
        ("policycontroller", "serviceaccountaccess", ""),
    ],
)
def test_who_is_told(source, type, told):
    assert onward.from_cloud("update", source, type).tell == told


@given(st.text(), st.text(), st.text())
def test_every_message_has_a_decision(operation, source, type):
    for decision in (onward.from_cloud(operation, source, type), onward.from_edge(operation, type)):
        assert decision.refuse or decision != onward.Onward()


@pytest.mark.parametrize(
    ("operation", "type", "ask", "keep"),
    [
        ("query", "configmap", Ask.CLOUD_OR_ROWS, Keep.ANSWER),
        ("query", "serviceaccounttoken", Ask.CLOUD_OR_ROWS, Keep.ANSWER),
        ("query", "pod", Ask.ROWS, Keep.NOTHING),
        ("patch", "podpatch", Ask.CLOUD, Keep.UNTIL_ANSWERED),
        ("patch", "nodepatch", Ask.CLOUD, Keep.UNTIL_ANSWERED),
        ("insert", "node", Ask.CLOUD, Keep.ANSWER),
        ("update", "lease", Ask.CLOUD, Keep.ANSWER),
        ("insert", "event", Ask.NOBODY, Keep.NOTHING),
        ("delete", "pod", Ask.CLOUD, Keep.NOTHING),
    ],
)
def test_roads_of_the_node_s_own_messages(operation, type, ask, keep):
    decision = onward.from_edge(operation, type)
    assert (decision.ask, decision.keep) == (ask, keep)


def document(version: str, uid: str = "u") -> Document:
    return Document.of({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "uid": uid,
                        "resourceVersion": version}})  # fmt: skip


@pytest.mark.parametrize(
    ("arriving", "stored", "age"),
    [("5", None, Age.NEW), ("6", "5", Age.NEWER), ("5", "5", Age.SAME), ("10", "9", Age.NEWER), ("9", "10", Age.OLDER),
     ("x", "10", Age.NEWER), ("", "10", Age.NEWER)],
)  # fmt: skip
def test_versions_are_compared_as_numbers(arriving, stored, age):
    assert envelope.compare(document(arriving), document(stored) if stored else None) is age


def test_the_same_version_of_another_life_is_news():
    assert envelope.compare(document("5", "new"), document("5", "old")) is Age.NEWER


@given(st.binary())
def test_no_content_whatsoever_gets_past_as_anything_but_an_object(content):
    with pytest.raises(BadObject):
        envelope.pushed_object(content, Resource("default", "pod", "p"))


# wire: the row keys are Go's %q and %#v, golden 07
TOKEN_KEY = (
    '"sa1"/"default"/[]string{"golden"}/3607/v1.BoundObjectReference'
    '{Kind:"Pod", APIVersion:"v1", Name:"p5", UID:"1d1ccf0a-d8ac-4703-80cc-8c723f965a65"}'
)


def test_token_keys_are_the_go_project_s():
    ref = tokens.BoundObjectReference("Pod", "v1", "p5", "1d1ccf0a-d8ac-4703-80cc-8c723f965a65")
    key = tokens.token_key("sa1", "default", tokens.TokenSpec(["golden"], 3607, ref))
    assert key == TOKEN_KEY
    assert tokens.bound_uid(key) == "1d1ccf0a-d8ac-4703-80cc-8c723f965a65"
    unbound = tokens.token_key("sa1", "default", tokens.TokenSpec(None, 3607))
    assert unbound.startswith('"sa1"/"default"/[]string(nil)/3607/v1.BoundObjectReference{Kind:""')
    assert tokens.bound_uid(unbound) == ""
    assert tokens.bound_uid("default/serviceaccounttoken/sa1") == ""


@pytest.mark.parametrize(
    ("minute", "due"), [(0, False), (47, False), (48, True), (90, True)],
)  # fmt: skip
def test_a_token_is_due_at_four_fifths_of_its_life(minute, due):
    token = Document.of(
        {"spec": {"expirationSeconds": 3600}, "status": {"token": "t", "expirationTimestamp": "2026-01-01T01:00:00Z"}}
    )
    now = datetime(2026, 1, 1, minute // 60, minute % 60, tzinfo=UTC)
    assert tokens.is_due(token, now) is due


def test_a_token_from_the_future_is_due():
    """The node's clock was set back: nobody can tell how old the token is."""
    token = Document.of(
        {"spec": {"expirationSeconds": 3600}, "status": {"token": "t", "expirationTimestamp": "2026-02-01T01:00:00Z"}}
    )
    assert tokens.is_due(token, datetime(2026, 1, 1, tzinfo=UTC))
    assert not tokens.is_due(token, datetime(2026, 1, 31, 23, 58, tzinfo=UTC))


def test_a_year_long_token_is_due_after_a_day():
    token = Document.of(
        {
            "spec": {"expirationSeconds": 365 * 86400},
            "status": {"token": "t", "expirationTimestamp": "2027-01-01T00:00:00Z"},
        }
    )
    assert not tokens.is_due(token, datetime(2026, 1, 1, 23, tzinfo=UTC))
    assert tokens.is_due(token, datetime(2026, 1, 2, 1, tzinfo=UTC))


def test_answers_go_to_their_waiter_and_late_ones_to_metamanager():
    """[29]"""
    late = message("response", parent="x")
    assert inbound.destination(late, awaited=True).waiter
    assert inbound.destination(late, awaited=False).group == "meta"
    assert inbound.destination(message(group="user", parent="x"), awaited=False) == inbound.Destination()


@pytest.mark.parametrize(
    ("group", "source", "module", "told"),
    [
        ("resource", "edgecontroller", "", "meta"),
        ("func", "edgecontroller", "", "meta"),
        ("twin", "devicecontroller", "", "twin"),
        ("taskmanager", "taskmanager", "", "taskmanager"),
        ("user", "router_eventbus", "eventbus", ""),
        ("user", "router_servicebus", "servicebus", ""),
        ("user", "unknown", "", ""),
        ("nodeupgradejobcontroller", "nodeupgradejobcontroller", "", ""),
        ("", "", "", ""),
    ],
)
def test_groups_of_the_cloud_s_messages(group, source, module, told):
    """[28]"""
    where = inbound.destination(message(group=group, source=source), awaited=False)
    assert (where.module, where.group) == (module, told)


@pytest.mark.parametrize(
    ("sent", "fate"),
    [
        (message("response"), Fate.HOLD),
        (message("keepalive", "node", "websocket"), Fate.DROP),
        (message("upload", "topic", "bus", "user"), Fate.REPORT),
        (message("update", "device/default/d/twin/edge_updated", "twin"), Fate.REPORT),
        (message("get", "membership/detail", "twin"), Fate.IF_AWAITED),
        (message("insert", "default/event/e", "edged", "meta"), Fate.REPORT),
        (message("query", "default/secret/s", "edged", "meta"), Fate.IF_AWAITED),
        (message("UpdateNodeActionStatus", "operations.kubeedge.io/v1alpha2/x/y/node/n", "taskmanager"), Fate.REPORT),
    ],
)
def test_what_becomes_of_unsent_messages(sent, fate):
    assert outbound.fate(sent) is fate


def keys(*messages) -> int:
    return len({outbound.report_key(m) for m in messages})


def test_states_replace_each_other_and_histories_do_not():
    def twin(content):
        return Message.of(
            source="twin", group="resource", operation="update", resource="device/default/d/twin/edge_updated",
            content=content, timestamp=1,
        )  # fmt: skip

    assert keys(*(message("update", "device/default/d/state/update", "twin") for _ in range(2))) == 1
    assert keys(*(message("patch", "default/event/e", "edged") for _ in range(2))) == 1
    # A report of twins carries all that the cloud has not confirmed: the newest holds what the older ones held.
    assert keys(twin({"twin": {"a": {}}}), twin({"twin": {"a": {}, "b": {}}}), twin("nonsense")) == 1
    assert keys(*(message("upload", "topic", "bus") for _ in range(2))) == 2
    job = "operations.kubeedge.io/v1alpha2/x/y/node/n"
    assert keys(*(message("UpdateNodeActionStatus", job, "taskmanager") for _ in range(2))) == 2
