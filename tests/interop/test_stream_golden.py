"""The tunnel as recorded from a live Go pair: every frame and every request, byte for byte."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgehive.wire import tunnel
from edgehive.wire.tunnel import FrameType

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("EDGEHIVE_SHARED") or CHECKOUT.parent / "shared")
FILES = sorted((SHARED / "golden").glob("*.jsonl"))
CONNECTS = tunnel.BODY_TYPES | tunnel.STREAM_TYPES

pytestmark = pytest.mark.skipif(
    not FILES, reason=f"no recorded traffic: {SHARED / 'golden'} is absent (EDGEHIVE_SHARED names its parent)"
)


class Recorded(NamedTuple):
    place: str
    frame: bytes
    message: dict[str, Any]


def recorded() -> Iterator[Recorded]:
    for file in FILES:
        with file.open() as lines:
            for line in lines:
                entry = json.loads(line)
                message = entry["message"]
                if entry["channel"] == "tunnel" and message.get("opcode") == 1 and "frame_hex" in message:
                    yield Recorded(f"{file.name} seq {entry['seq']}", bytes.fromhex(message["frame_hex"]), message)


def test_every_recorded_frame_is_read_and_written_as_go_wrote_it() -> None:
    seen = 0
    for place, payload, message in recorded():
        frame = tunnel.decode(payload)
        assert (frame.connection, frame.type) == (message["connect_id"], message["type"]), place
        assert tunnel.encode(*frame) == payload, place
        seen += 1
    assert seen > 150


def test_every_recorded_request_is_read_and_written_as_go_wrote_it() -> None:
    seen: set[int] = set()
    for place, payload, message in recorded():
        frame = tunnel.decode(payload)
        if frame.type not in CONNECTS:
            continue
        connect = tunnel.decode_connect(frame.data)
        assert tunnel.encode_connect(connect) == frame.data, place
        assert (connect.id, connect.method or "GET") == (frame.connection, message["json"].get("method", "GET")), place
        again = tunnel.url_of(connect.url.target)
        assert again == connect.url, place
        seen.add(frame.type)
    assert seen == {FrameType.LOGS, FrameType.EXEC, FrameType.METRICS, FrameType.ATTACH}
