"""Tunnel frames and connect requests, byte for byte as Go writes them, and refused where they are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehive.wire import tunnel
from edgehive.wire.link import ProtocolError
from edgehive.wire.tunnel import Connect, FrameType, Head


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=300))
def test_a_frame_survives_the_way_there_and_back(connection: int, type: int, data: bytes) -> None:
    assert tunnel.decode(tunnel.encode(connection, type, data)) == (connection, type, data)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_frame_or_refused(payload: bytes) -> None:
    try:
        frame = tunnel.decode(payload)
    except ProtocolError:
        return
    assert frame.connection < 2**64 and frame.type < 2**64 and payload.endswith(frame.data)


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x80", b"\x80" * 10 + b"\x01\x03", b"\xff" * 9 + b"\x02\x03"])
def test_what_does_not_begin_with_two_numbers_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="uvarints"):
        tunnel.decode(payload)


def test_a_frame_beyond_the_limit_is_refused() -> None:
    tunnel.decode(tunnel.encode(1, FrameType.DATA, bytes(tunnel.MAX_DATA)))
    with pytest.raises(ProtocolError, match="allowed"):
        tunnel.decode(tunnel.encode(1, FrameType.DATA, bytes(tunnel.MAX_DATA + 100)))


def test_a_request_is_written_as_go_writes_it() -> None:
    connect = Connect(
        id=7,
        url=tunnel.url_of("/exec/default/hello/c?command=sh&output=1"),
        header={"X-Stream-Protocol-Version": ["v5.channel.k8s.io", "v4.channel.k8s.io"], "Connection": ["Upgrade"]},
        method="POST",
    )
    assert tunnel.encode_connect(connect) == (
        rb'{"MessID":7,"url":{"Scheme":"http","Opaque":"","User":null,"Host":"127.0.0.1:10350",'
        rb'"Path":"/exec/default/hello/c","Fragment":"","RawQuery":"command=sh\u0026output=1","RawPath":"",'
        rb'"RawFragment":"","ForceQuery":false,"OmitHost":false},"header":{"Connection":["Upgrade"],'
        rb'"X-Stream-Protocol-Version":["v5.channel.k8s.io","v4.channel.k8s.io"]},"method":"POST"}'
    )


def test_logs_carry_no_method() -> None:
    assert b"method" not in tunnel.encode_connect(Connect(1, tunnel.url_of("/containerLogs/a/b/c"), {}))


@pytest.mark.parametrize(
    "target", ["/a/b?x=1&y=2", "/a%2Fb", "/a b".replace(" ", "%20"), "/a?", "/logs/%E4%B8%AD?q=%26", "/(a)", "/a;b=1"]
)
def test_a_target_arrives_as_it_was_asked(target: str) -> None:
    connect = tunnel.decode_connect(tunnel.encode_connect(Connect(1, tunnel.url_of(target), {})))
    assert connect.url.target == target


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b"{}", b'{"MessID":1}', b"\xff\xfe", b"[" * 60000,
        b'{"MessID":1,"url":{"Path":"/a","RawQuery":"x y"},"header":{}}',
        b'{"MessID":1,"url":{"Path":"/a","RawQuery":"x\\r\\nA: b"},"header":{}}',
        b'{"MessID":1,"url":{"Path":"a"},"header":{}}',
        b'{"MessID":1,"url":{"Path":"/a"},"header":{"A b":["c"]}}',
        b'{"MessID":1,"url":{"Path":"/a"},"header":{"A":["c\\r\\nB: d"]}}',
        b'{"MessID":1,"url":{"Path":"/a"},"header":{},"method":"GET /b HTTP/1.1"}',
        b'{"MessID":1,"url":{"Path":"/' + b"a" * tunnel.MAX_CONNECT + b'"},"header":{}}',
    ],
)  # fmt: skip
def test_a_request_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        tunnel.decode_connect(data)


def test_header_names_are_spelt_as_go_spells_them() -> None:
    assert tunnel.canonical("x-stream-PROTOCOL-version") == "X-Stream-Protocol-Version"


def test_the_head_of_an_answer() -> None:
    head = Head(404, "text/plain")
    assert tunnel.decode_head(tunnel.encode_head(head)) == head


@pytest.mark.parametrize("data", [b"null", b"{}", b'{"status":99}', b'{"status":200,"content_type":"a\\r\\nb"}'])
def test_a_head_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        tunnel.decode_head(data)


_texts = st.text(max_size=30)


@given(
    st.builds(lambda path, query: f"/{path}?{query}", _texts, _texts), st.dictionaries(_texts, st.lists(_texts)), _texts
)
def test_any_request_is_passed_on_on_one_line_or_refused(
    target: str, header: dict[str, list[str]], method: str
) -> None:
    data = tunnel.encode_connect(Connect(1, tunnel.url_of(target), header, method))
    try:
        connect = tunnel.decode_connect(data)
    except ProtocolError:
        return
    assert not set(connect.url.target + connect.method) & set(" \r\n\0")
    for name, values in (connect.header or {}).items():
        assert not set(name + "".join(values)) & set("\r\n\0")
