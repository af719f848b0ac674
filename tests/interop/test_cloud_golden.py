"""The recorded Go edges speak again, this time to our cloud: whatever the Go cloud answered, ours answers too.

The objects of the recordings do not exist here, so many answers are errors; their envelope is the recorded one. What
the answers say in full is compared in tests/modules/edgecontroller/test_golden_requests.py. What
is said of devices is compared in test_device_golden.py. Rule and job messages have no module behind them yet: they must
leave the session standing.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgehive.api.config.cloudcore import CloudCore
from edgehive.beehive.message import Message
from edgehive.testing.cloud import ScriptedEdge, cloud
from edgehive.wire.codec import decode
from edgehive.wire.names import Operation, Source

SHARED = Path(os.environ.get("EDGEHIVE_SHARED") or Path(__file__).resolve().parents[3] / "shared")
FILES = sorted((SHARED / "golden").glob("*.jsonl"))
#: The recordings were made with authorization off but for two, which try it.
TRUSTING = msgspec.convert({"modules": {"cloudHub": {"authorization": {"enable": False}}}}, CloudCore)
#: Whose requests are answered by modules that stand.
ANSWERED = {Source.EDGED, Source.META_MANAGER}

pytestmark = [
    pytest.mark.looptime,
    pytest.mark.skipif(
        not FILES, reason=f"no recorded traffic: {SHARED / 'golden'} is absent (EDGEHIVE_SHARED names its parent)"
    ),
]


def conversations(file: Path) -> Iterator[tuple[list[Message], set[str]]]:
    """Per connection: what the edge said, and the ids the cloud answered."""
    said: dict[str, list[Message]] = {}
    answered: dict[str, set[str]] = {}
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        body = entry["message"]
        if not entry["channel"].startswith("hub") or not isinstance(body.get("json"), dict) or "text" not in body:
            continue
        message = decode(body["text"].encode())
        if entry["direction"] == "edge->cloud":
            said.setdefault(body["connection"], []).append(message)
        else:
            answered.setdefault(body["connection"], set()).add(message.header.parent_id)
    for connection, messages in said.items():
        yield messages, answered.get(connection, set())


WITH_TALK = [file for file in FILES if any(True for _ in conversations(file))]


@pytest.mark.parametrize("file", WITH_TALK, ids=lambda file: file.stem)
async def test_what_the_go_cloud_answered_is_answered(file: Path) -> None:
    """[29, 44, 45, 51, 74, 78, 81]"""
    for said, answered in conversations(file):
        async with cloud(TRUSTING) as it:
            edge = await it.edge("goedge")
            for message in said:
                await edge.link.send(message)
                await edge.keepalive()
            for message in said:
                asks = message.route.operation not in (Operation.RESPONSE, Operation.ERROR, Operation.KEEPALIVE)
                if asks and message.id in answered and message.route.source in ANSWERED:
                    await answer(edge, message)
            assert not edge.closed.is_set()
            await edge.request("query", "default/configmap/still-there")


async def answer(edge: ScriptedEdge, asked: Message) -> None:
    try:
        await edge.expect(lambda message: message.header.parent_id == asked.id)
    except TimeoutError:
        pytest.fail(f"no answer to {asked.route}")
    await asyncio.sleep(0)
