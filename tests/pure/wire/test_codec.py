"""Frames in and out: what Go writes, what it tolerates, and what is refused."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehive.beehive.message import Header, Message, Route
from edgehive.kit.json_depth import depth_exceeds
from edgehive.wire import codec
from edgehive.wire.link import ProtocolError

text = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
)
headers = st.builds(
    Header,
    id=text,
    timestamp=st.integers(0, 2**62),
    parent_id=text,
    resourceversion=text,
    sync=st.booleans(),
    type=text,
)
routes = st.builds(Route, source=text, destination=text, group=text, operation=text, resource=text)
messages = st.builds(
    Message,
    header=headers,
    route=routes,
    content=json_values.map(lambda value: msgspec.Raw(msgspec.json.encode(value))),
)


@given(messages)
def test_any_message_survives_the_wire(message: Message):
    assert codec.decode(codec.encode(message)) == message


@given(st.binary())
def test_arbitrary_bytes_are_a_message_or_a_protocol_error(frame: bytes):
    with contextlib.suppress(ProtocolError):
        codec.decode(frame)


@given(json_values.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_json_is_a_message_or_a_protocol_error(frame: bytes):
    with contextlib.suppress(ProtocolError):
        codec.decode(frame)


@given(messages, st.data())
def test_a_cut_frame_is_refused(message: Message, data: st.DataObject):
    frame = codec.encode(message)
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(ProtocolError):
        codec.decode(frame[:cut])


def test_the_empty_message_of_a_stopping_edge():
    message = codec.decode(b'{"header":{"msg_id":"","timestamp":0},"route":{},"content":null}')
    assert message == Message(Header("", 0), Route())


def test_keys_in_any_case_unknown_keys_and_nulls_are_read_as_go_reads_them():
    """[74, 75]"""
    message = codec.decode(
        b'{"Header":{"MSG_ID":"1","Timestamp":5,"Parent_Msg_Id":"0","extra":{}},'
        b'"ROUTE":{"Source":"edged","group":null,"resource":"a/b"},"Content":{"Kept":"As Is"},"more":1}'
    )
    assert message.header == Header("1", 5, "0")
    assert message.route == Route(source="edged", resource="a/b")
    assert bytes(message.content) == b'{"Kept":"As Is"}'


def test_absent_parts_are_empty():
    assert codec.decode(b"{}") == Message(Header("", 0), Route())


def test_encodes_the_keys_go_expects_and_leaves_out_what_is_empty():
    """[24]"""
    message = Message.of(source="s", group="g", operation="o", resource="r", content={"a": 1}, timestamp=7, id="i")
    assert json.loads(codec.encode(message)) == {
        "header": {"msg_id": "i", "timestamp": 7},
        "route": {"source": "s", "group": "g", "operation": "o", "resource": "r"},
        "content": {"a": 1},
    }


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (b"not json", "not one JSON document"),
        (b"", "not one JSON document"),
        (b'{"content":1} {"content":2}', "not one JSON document"),
        (b"[]", "not a message"),
        (b"null", "not a message"),
        (b'{"header":"x"}', "not a message"),
        (b'{"header":{"timestamp":"soon"}}', "not a message"),
        (b'{"content":"\xff"}', "not UTF-8"),
        (b'{"content":' + b"[" * 201 + b"]" * 201 + b"}", "levels deep"),
        (b'{"content":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", "levels deep"),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, "levels deep"),
        (b"[" * 1000, "levels deep"),
    ],
)
def test_the_error_says_what_is_wrong(frame: bytes, complaint: str):
    with pytest.raises(ProtocolError, match=complaint):
        codec.decode(frame)


def test_brackets_in_strings_are_no_nesting():
    content = {"text": '[{"\\' * 5000, "list": [{"n": i} for i in range(1000)]}
    message = Message.of(source="s", group="g", operation="o", resource="r", content=content, timestamp=1)
    assert codec.decode(codec.encode(message)).read(dict) == content


@given(json_values)
def test_depth_is_measured_exactly(value: object):
    def depth(node: object) -> int:
        if isinstance(node, dict):
            return 1 + max(map(depth, node.values()), default=0)
        if isinstance(node, list):
            return 1 + max(map(depth, node), default=0)
        return 0

    encoded, deep = json.dumps(value).encode(), depth(value)
    assert not depth_exceeds(encoded, deep)
    assert deep == 0 or depth_exceeds(encoded, deep - 1)


def test_frames_over_the_limit_are_refused_in_both_directions():
    with pytest.raises(ProtocolError, match="at most 33554432"):
        codec.decode(b" " * (codec.MAX_FRAME + 1))
    big = Message.of(
        source="s", group="g", operation="o", resource="r", content="x" * codec.MAX_FRAME, timestamp=1, id="big-one"
    )
    with pytest.raises(codec.MessageTooLarge, match="big-one"):
        codec.encode(big)
