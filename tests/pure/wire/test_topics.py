"""MQTT topics: read as they are written, in both forms; what no broker takes is named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehive.wire import topics
from edgehive.wire.topics import DeviceName, DeviceTopic, NodeTopic

LEVEL = st.text(st.characters(blacklist_characters="/+#\0", blacklist_categories=("Cs",)), min_size=1, max_size=20)


@given(LEVEL, LEVEL, st.sampled_from(DeviceTopic))
def test_what_is_written_is_read(namespace: str, name: str, what: DeviceTopic) -> None:
    spoken = topics.read_device(topics.device(DeviceName(namespace, name), what))
    assert spoken is not None
    assert spoken.what is what or namespace in ("twin", "state") or name in ("twin", "state")


@pytest.mark.parametrize(
    ("topic", "device", "what"),
    [
        ("$hw/events/device/ns/d/twin/update", ("ns", "d"), DeviceTopic.TWIN_UPDATE),
        ("$hw/events/device/d/twin/update", ("", "d"), DeviceTopic.TWIN_UPDATE),
        ("$hw/events/device/ns/d/twin/update/result", ("ns", "d"), DeviceTopic.TWIN_UPDATE_RESULT),
        ("$hw/events/device/ns/d/state/update", ("ns", "d"), DeviceTopic.STATE_UPDATE),
        ("$hw/events/device/d/updated", ("", "d"), DeviceTopic.UPDATED),
        ("$hw/events/device/ns/d/updated", ("ns", "d"), DeviceTopic.UPDATED),
        ("$hw/events/device/ns/d.with.dots/twin/get", ("ns", "d.with.dots"), DeviceTopic.TWIN_GET),
    ],
)
def test_both_forms_are_read(topic: str, device: tuple[str, str], what: DeviceTopic) -> None:
    assert topics.read_device(topic) == (device, what)
    assert topics.device(DeviceName(*device), what) == topic


@pytest.mark.parametrize(
    "topic", ["", "$hw/events/device//twin/update", "$hw/events/device/a/b/c/twin/update", "$hw/events/device/a", "x/y"]
)
def test_other_topics_are_nobodys(topic: str) -> None:
    assert topics.read_device(topic) is None


def test_nodes_are_read() -> None:
    topic = topics.node("n", NodeTopic.MEMBERSHIP_GET)
    assert topic == "$hw/events/node/n/membership/get"
    assert topics.read_node(topic) == ("n", NodeTopic.MEMBERSHIP_GET)
    assert topics.read_node("$hw/events/node//membership/get") is None
    assert topics.read_node("$hw/events/node/n/other") is None


@pytest.mark.parametrize(
    ("filter", "topic", "covers"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("+/user/#", "ns/user/x/y", True),
        ("+/user/#", "$hw/user/x", False),
        ("#", "$hw/x", False),
        ("a/+", "a/#", False),
        ("a/#", "a/+", True),
    ],
)
def test_a_subscription_covers(filter: str, topic: str, covers: bool) -> None:
    assert topics.matches(filter, topic) is covers


@pytest.mark.parametrize("filter", ["a/#", "#", "+", "a/+/b", "a"])
def test_filters_brokers_take(filter: str) -> None:
    assert topics.fault_of_filter(filter) == ""


@pytest.mark.parametrize("filter", ["", "a/#/b", "a+/b", "a\0", "#a", "x" * 70000])
def test_filters_no_broker_takes(filter: str) -> None:
    assert topics.fault_of_filter(filter)


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0"])
def test_topics_nobody_publishes_on(topic: str) -> None:
    assert topics.fault_of_topic(topic)
