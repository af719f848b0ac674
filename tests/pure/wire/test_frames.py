"""WebSocket frames of both roles: found whole or not at all, and nothing accepted that RFC 6455 forbids."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehive.wire import frames

LIMIT = 1 << 20


def masked(frame: bytes, mask: bytes) -> bytes:
    """A client's frame with another mask than zero."""
    found = frames.find(frame, 0, LIMIT, masked=True)
    assert found is not None
    payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(frame[found.start :]))
    return frame[: found.start - 4] + mask + payload


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 100_000])
@pytest.mark.parametrize("client", [False, True])
def test_a_frame_is_found_whole_or_not_at_all(size: int, client: bool) -> None:
    frame = (frames.client_frame if client else frames.server_frame)(frames.TEXT, b"x" * size)
    found = frames.find(b"before" + frame + b"rest", 6, LIMIT, masked=client)
    assert found is not None
    assert (found.opcode, found.final, found.end - found.start, found.end) == (frames.TEXT, True, size, 6 + len(frame))
    for cut in {1, len(frame) // 2, len(frame) - 1}:
        if cut < len(frame):
            assert frames.find(frame[:cut], 0, LIMIT, masked=client) is None


@given(payload=st.binary(max_size=300), mask=st.binary(min_size=4, max_size=4))
def test_a_mask_is_taken_off(payload: bytes, mask: bytes) -> None:
    frame = masked(frames.client_frame(frames.BINARY, payload), mask)
    found = frames.find(frame, 0, LIMIT, masked=True)
    assert found is not None
    assert frames.unmasked(bytearray(frame), found) == payload


def test_what_a_role_may_not_send_is_refused() -> None:
    wrong = [
        (frames.client_frame(frames.TEXT, b"masked"), False),
        (frames.server_frame(frames.TEXT, b"bare"), True),
        (frames.server_frame(frames.PING, b"x" * 126), False),
        (bytes([frames.PING, 0]), False),
        (bytes([0xC1, 0]), False),
        (bytes([0x83, 0]), False),
        (frames.server_frame(frames.TEXT, b"x" * 200), False),
    ]
    for frame, client in wrong:
        with pytest.raises(frames.BrokenFrame):
            frames.find(frame, 0, 100, masked=client)
    with pytest.raises(frames.BrokenFrame, match="size") as caught:
        frames.find(frames.server_frame(frames.TEXT, b"x" * 200), 0, 100, masked=False)
    assert caught.value.code == frames.TOO_LARGE


@given(st.binary(max_size=64))
def test_anything_is_a_frame_none_yet_or_refused(data: bytes) -> None:
    try:
        found = frames.find(data, 0, LIMIT, masked=True)
    except frames.BrokenFrame:
        return
    assert found is None or found.end <= len(data)


def test_a_close_says_why_within_the_size_of_a_control_frame() -> None:
    payload = frames.close_payload(frames.NORMAL, "ü" * 500)
    assert len(payload) <= 125
    assert frames.close_reason(payload).startswith("üü")
    assert frames.close_reason(os.urandom(1)) == ""
