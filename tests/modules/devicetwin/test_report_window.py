"""How many reports are on their way at once: what the cloud confirms in two seconds, within limits."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edgehive.beehive.message import Message
from edgehive.edgecore.devicetwin.reports import WIDEST, WINDOW, Report, Reports, Topic
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire.devices import ReportKind

pytestmark = pytest.mark.looptime
DEVICES = 1000


class Cloud:
    """All devices always have news; `rate` reports a second are confirmed, in their order."""

    def __init__(self) -> None:
        self.sent: deque[str] = deque()
        self.reports = Reports(self._write, self._send, asyncio.Lock())

    def _write(self, topic: Topic) -> Report:
        message = Message.of(source="twin", group="twin", operation="update", resource=topic.id, timestamp=1)
        return Report(message, None)

    async def _send(self, message: Message) -> None:
        self.sent.append(message.id)

    async def confirm(self, rate: float, seconds: float) -> None:
        for _ in range(int(rate * seconds)):
            await asyncio.sleep(1 / rate)
            if self.sent:
                found = self.reports.confirmed(self.sent.popleft())
                assert found is not None
                self.reports.touch(found[0])
                self.reports.release()


@asynccontextmanager
async def connected_cloud() -> AsyncIterator[Cloud]:
    cloud = Cloud()
    task = spawn(cloud.reports.run(), name="reports")
    for number in range(DEVICES):
        cloud.reports.touch(Topic(f"d{number}", ReportKind.TWIN))
    cloud.reports.link(True)
    await asyncio.sleep(0.1)
    yield cloud
    await cancel_and_join(task)


@pytest.mark.parametrize(("rate", "window"), [(5, WINDOW), (30, WINDOW), (80, 160), (1000, WIDEST)])
async def test_what_waits_on_the_way_is_no_more_than_is_confirmed_soon(rate: int, window: int) -> None:
    async with connected_cloud() as cloud:
        assert len(cloud.sent) == WINDOW
        await cloud.confirm(rate, 5)
        assert len(cloud.sent) == pytest.approx(window, abs=4)
