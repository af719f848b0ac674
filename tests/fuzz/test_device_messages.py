"""Whatever applications, mappers and clouds say of devices is answered or refused, and never raises anything else."""

from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from edgehive.api import devices as api
from edgehive.beehive.bus import Bus
from edgehive.edgecore.devicetwin import applications, dmi_messages
from edgehive.edgecore.devicetwin.catalog import Catalog
from edgehive.edgecore.devicetwin.cloud import House
from edgehive.edgecore.devicetwin.membership import Device, Devices
from edgehive.edgecore.devicetwin.observation import Observation
from edgehive.edgecore.devicetwin.turn import Turn
from edgehive.protos import dmi_pb2 as dmi
from edgehive.wire import topics
from edgehive.wire.topics import DeviceName

NAME = DeviceName("default", "d")
LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANY = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner), max_leaves=8
)
VALUE = st.fixed_dictionaries({}, optional={"value": LEAF, "metadata": ANY})
TWIN = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "expected": VALUE, "actual": VALUE, "optional": LEAF, "metadata": ANY | st.fixed_dictionaries({"type": LEAF}),
        "expected_version": ANY | st.fixed_dictionaries({"cloud": st.integers(), "edge": st.integers()}),
    },
)  # fmt: skip
UPDATE = ANY | st.fixed_dictionaries(
    {}, optional={"event_id": LEAF, "timestamp": LEAF, "twin": st.none() | st.dictionaries(st.text(max_size=5), TWIN)}
)


def house() -> tuple[House, Turn]:
    found = House("n", Devices([Device("default/d", "d")]), Catalog(Bus()))
    return found, Turn(1, "2026-01-01T00:00:00Z")


def encoded(content: Any) -> bytes:
    return msgspec.json.encode(content)


@given(st.binary() | UPDATE.map(encoded))
def test_updates_states_and_questions_of_applications(payload: bytes) -> None:
    it, turn = house()
    applications.update_twins(it.devices, NAME, payload, turn)
    assert turn.publications
    applications.get_twins(it.devices, NAME, payload, turn)
    applications.update_state(it.devices, NAME, payload, turn)
    applications.membership(it.devices, payload, 1)
    for publication in turn.publications:
        msgspec.json.decode(publication.payload)
    turn.batch.statements()


@given(st.binary() | UPDATE.map(encoded) | ANY.map(encoded))
def test_words_of_the_cloud(content: bytes) -> None:
    it, turn = house()
    device = it.devices.get("default/d")
    assert device is not None
    for heard in (
        it.membership_changed,
        it.membership_detailed,
        lambda said, turn: it.twins_from_cloud(device, said, turn),
        lambda said, turn: it.device_arrived("default/d", msgspec.json.decode(said, type=api.Device), turn),
        lambda said, turn: applications.update_attributes(device, said, turn),
    ):
        try:
            heard(content, turn)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue


OBSERVATION = st.builds(
    Observation, st.text(max_size=9), *[st.none() | st.text(max_size=9)] * 2, st.text(max_size=8), st.booleans()
)


@given(
    st.lists(OBSERVATION, max_size=5), st.dictionaries(st.text(max_size=3), st.sampled_from(["int", "float", "string"]))
)
def test_reports_of_mappers(observations: list[Observation], types: dict[str, str]) -> None:
    it, turn = house()
    device = it.devices.get("default/d")
    assert device is not None
    applications.observe(device, observations, types, turn)
    turn.batch.statements()


@given(st.binary())
def test_bytes_of_mappers(data: bytes) -> None:
    try:
        dmi.ReportDeviceStatusRequest.FromString(data)
    except DecodeError:
        return


@given(st.dictionaries(st.text(max_size=5), ANY))
def test_configuration_of_any_shape_travels(config: dict[str, Any]) -> None:
    spec = {"protocol": {"protocolName": "p", "configData": config}}
    device = msgspec.convert({"metadata": {"name": "d"}, "spec": spec}, api.Device)
    model = msgspec.convert({"spec": {"protocolConfigData": config}}, api.DeviceModel)
    dmi_messages.device_message(device, model).SerializeToString()


@given(st.text())
def test_topics(topic: str) -> None:
    for text in (topic, f"$hw/events/device/{topic}", f"$hw/events/node/{topic}"):
        topics.read_device(text)
        topics.read_node(text)
        topics.fault_of_filter(text)
        topics.matches(text, text)
