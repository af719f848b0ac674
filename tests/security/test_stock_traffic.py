"""Nothing that a stock edge said while it was recorded is refused: the rules must not cost a fleet its service."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgehive.beehive.message import Message
from edgehive.cloudcore.cloudhub import authz
from edgehive.wire import codec
from edgehive.wire.payloads import is_empty

CHECKOUT = Path(__file__).resolve().parents[2]
GOLDEN = Path(os.environ.get("EDGEHIVE_SHARED") or CHECKOUT.parent / "shared") / "golden"
RECORDINGS = sorted(GOLDEN.glob("*.jsonl"))
NODE = "goedge"

pytestmark = pytest.mark.skipif(not RECORDINGS, reason=f"no recorded traffic: {GOLDEN} is absent or empty")


def said_by_the_edge(recording: Path) -> Iterator[Message]:
    for line in recording.read_text().splitlines():
        entry = json.loads(line)
        if entry["channel"] == "hub" and entry["direction"] == "edge->cloud" and "text" in entry["message"]:
            yield codec.decode(entry["message"]["text"].encode())


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_what_a_stock_edge_said_is_allowed(recording: Path) -> None:
    for message in said_by_the_edge(recording):
        if not is_empty(message):
            assert authz.malformed(message) == ""
            assert authz.violation(NODE, message, lambda *_: NODE) == "", message.route
