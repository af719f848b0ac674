"""`edgehive devices` as it is seen: once, live, and as a curve."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from devices_view_rig import Screen, Site
from rich.console import Console

from edgehive.api.registry import DEVICES
from edgehive.devices_view.app import Order, view
from edgehive.devices_view.choice import Scope, Unusable
from edgehive.kube.client import Client
from edgehive.kube.errors import NotFound, Unreachable

pytestmark = pytest.mark.looptime

HERE = Scope("default")
EVERYWHERE = Scope()


def cells(output: str, property: str) -> list[str]:
    """The columns of one property."""
    return next(line.split() for line in output.splitlines() if f" {property} " in line)


async def test_a_plain_table_for_pipes(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    await site.device()
    await site.report(temperature="20.5", target="20")
    await asyncio.sleep(90)
    output = await site.printed(Order(), HERE, capsys)
    assert output.splitlines()[0].split() == (
        ["NAMESPACE", "DEVICE", "NODE", "PROTOCOL", "STATE", "PROPERTY", "DESIRED", "REPORTED", "UNIT", "AGE", "MARKS"]
    )
    head = ["default", "hall", "edge", "modbus", "online"]
    assert cells(output, "temperature") == [*head, "temperature", "-", "20.5", "C", "90s", "-"]
    assert cells(output, "target") == [*head, "target", "21", "20", "C", "90s", "differs"]
    assert cells(output, "label") == [*head, "label", "-", "-", "-", "-", "-"]


async def test_json_holds_everything(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    conflict = json.dumps({"target": {"value": "25", "winner": "cloud", "timestamp": 1}})
    await site.device(metadata={"annotations": {"edgehive.io/desired-conflict": conflict}})
    await site.report(target="21.0")
    (device,) = json.loads(await site.printed(Order(as_json=True), HERE, capsys))["devices"]
    assert (device["name"], device["state"], device["protocol"]) == ("hall", "online", "modbus")
    target = next(one for one in device["properties"] if one["name"] == "target")
    assert target | {"reportedAt": ""} == {
        "name": "target",
        "type": "INT",
        "unit": "C",
        "desired": "21",
        "reported": "21.0",
        "reportedAt": "",
        "ageSeconds": pytest.approx(0, abs=0.01),
        "differs": False,
        "stale": False,
        "conflict": {"value": "25", "winner": "cloud"},
    }


async def test_a_conflict_is_marked_until_it_is_settled(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    conflict = json.dumps({"target": {"value": "25", "winner": "edge", "timestamp": 1}})
    await site.device(metadata={"annotations": {"edgehive.io/desired-conflict": conflict}})
    assert "conflict: 25 gave way to the edge's" in await site.printed(Order(), HERE, capsys)
    settled = {"type": "DesiredAgreed", "status": "True", "reason": "Settled"}
    await site.client.patch(DEVICES, "hall", {"status": {"conditions": [settled]}}, "default", subresource="")
    assert "conflict" not in await site.printed(Order(), HERE, capsys)


@pytest.mark.parametrize(
    ("state", "stale_after", "mark"),
    [("online", None, "-"), ("offline", None, "stale"), ("online", 60.0, "stale"), ("online", 600.0, "-")],
)
async def test_stale_values_are_marked(
    site: Site, capsys: pytest.CaptureFixture[str], state: str, stale_after: float | None, mark: str
) -> None:
    await site.device()
    await site.report(state=state, temperature="20.5")
    await asyncio.sleep(90)
    output = await site.printed(Order(stale_after=stale_after), HERE, capsys)
    assert cells(output, "temperature")[-1] == mark


async def test_devices_are_narrowed(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    await site.device("hall", metadata={"labels": {"room": "hall"}})
    await site.device("attic")
    await site.device("cellar", "other")
    assert "cellar" not in await site.printed(Order(), HERE, capsys)
    assert "cellar" in await site.printed(Order(), EVERYWHERE, capsys)
    assert "attic" not in await site.printed(Order(), Scope("default", "room=hall"), capsys)
    assert "hall" not in await site.printed(Order(name="attic"), HERE, capsys)


async def test_text_of_devices_cannot_move_the_cursor(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    await site.device()
    await site.report(label="\x1b[2J[red]x\nhall" + "y" * 1000)
    output = await site.printed(Order(), HERE, capsys)
    assert "·[2J[red]x·hall" in output and "\x1b" not in output
    assert max(map(len, output.splitlines())) < 600


async def test_a_device_that_cannot_be_understood_says_so(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    await site.device(deviceModelRef={"name": "gone"})
    await site.device("good")
    output = await site.printed(Order(), HERE, capsys)
    assert "device model gone is absent" in output
    assert "good" in output


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (Order(name="hal"), "there is no device 'hal' in namespace default; did you mean hall?"),
        (Order(name="hall", plot="temprature"), "no property 'temprature'; did you mean temperature?"),
        (Order(name="hall", plot="label"), "property 'label' of device 'hall' is STRING, and only numbers are drawn"),
    ],
)
async def test_who_means_nothing_that_is_there_is_told(site: Site, order: Order, said: str) -> None:
    await site.device()
    with pytest.raises(Unusable, match=said):
        await view(site.client, HERE, order, Console(file=io.StringIO()), site.clock)


async def test_a_device_in_two_namespaces_is_not_drawn(site: Site) -> None:
    await site.device()
    await site.device("hall", "other")
    with pytest.raises(Unusable, match="say which with -n: default, other"):
        order = Order(name="hall", plot="temperature")
        await view(site.client, EVERYWHERE, order, Console(file=io.StringIO()), site.clock)


async def test_an_api_without_the_kinds_is_told_with_the_mend(site: Site) -> None:
    client: Any = Stand(site.client)
    client.failure = NotFound("the server could not find the requested resource")
    with pytest.raises(Unusable, match=r"does not serve devices.devices.kubeedge.io \(v1beta1\).*build/crds/devices"):
        await view(client, HERE, Order(), Console(file=io.StringIO()), site.clock)


async def test_the_live_table_follows(site: Site, screen: Screen) -> None:
    await site.device()
    async with screen.showing(site, Order()):
        await screen.until(lambda text: "temperature" in text and "20.5" not in text)
        await site.report(temperature="20.5")
        await screen.until(lambda text: "20.5" in text and "online" in text)
        await site.device("attic")
        await screen.until(lambda text: "attic" in text)


async def test_pictures_are_few_however_much_happens(site: Site, screen: Screen) -> None:
    await site.device()
    async with screen.showing(site, Order()):
        before = screen.getvalue().count("namespace")
        for number in range(100):
            await site.report(temperature=str(number))
            await asyncio.sleep(0.05)
        assert screen.getvalue().count("namespace") - before <= 4 * 5 + 1


async def test_a_picture_is_not_higher_than_the_terminal(site: Site, screen: Screen) -> None:
    for number in range(30):
        await site.device(f"d{number:02}")
    async with screen.showing(site, Order()):
        await screen.until(lambda text: "24 more; narrow with NAME" in text)
        assert "d00" in screen.text and "d29" not in screen.text
        assert len(screen.text.splitlines()) <= 24


async def test_a_narrow_terminal_shows_what_matters(site: Site, screen: Screen) -> None:
    await site.device()
    await site.report(temperature="20.5")
    screen.console.width = 80
    async with screen.showing(site, Order()):
        await screen.until(lambda text: "20.5" in text)
        assert all(word in screen.text for word in ("hall", "online", "temperature", "reported", "differs"))
        assert max(map(len, screen.text.splitlines())) <= 80 and "…" not in screen.text


async def test_an_api_that_is_away_is_told_until_it_is_back(site: Site, screen: Screen) -> None:
    await site.device()
    await site.report(temperature="20.5")
    client: Any = Stand(site.client)
    async with screen.showing(site, Order(), client):
        await screen.until(lambda text: "20.5" in text)
        client.break_off()
        await screen.until(lambda text: "the API is away since" in text and "no route" in text)
        assert "20.5" in screen.text
        client.failure = Unreachable("connection refused")
        await screen.until(lambda text: "(10s)" in text and "connection refused" in text)
        client.failure = None
        await screen.until(lambda text: "away" not in text)
        await site.report(temperature="22.5")
        await screen.until(lambda text: "22.5" in text)


async def test_a_curve_grows(site: Site, screen: Screen) -> None:
    await site.device()
    async with screen.showing(site, Order(name="hall", plot="temperature", window=60.0)):
        await screen.until(lambda text: "no value yet" in text)
        for value in ("20", "24", "22"):
            await site.report(temperature=value)
            await asyncio.sleep(5)
        assert "default/hall  temperature  [C]" in screen.text
        assert "min 20 C  max 24 C  last 22 C" in screen.text
        assert "-1m" in screen.text and "now" in screen.text
        await site.client.delete(DEVICES, "hall", "default")
        await screen.until(lambda text: "the device is gone" in text)


async def test_a_curve_for_a_pipe_is_drawn_at_the_end(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    await site.device()
    await site.report(temperature="20")
    printing = asyncio.gather(site.printed(Order(name="hall", plot="temperature", window=10.0), HERE, capsys))
    await asyncio.sleep(5)
    await site.report(temperature="30")
    (output,) = await printing
    assert output.splitlines()[-1] == "min 20 C  max 30 C  last 30 C"


class Stand:
    """A client whose server can be away."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.failure: Exception | None = None
        self._broken = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def break_off(self) -> None:
        """Running watches end and new requests fail."""
        self.failure = Unreachable("no route to host")
        self._broken.set()

    async def list(self, *words: Any, **options: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        return await self._client.list(*words, **options)

    async def watch(self, *words: Any, **options: Any) -> AsyncIterator[Any]:
        if self.failure is not None:
            raise self.failure
        self._broken.clear()
        events = aiter(self._client.watch(*words, **options))
        while True:
            coming = asyncio.ensure_future(anext(events))
            broken = asyncio.ensure_future(self._broken.wait())
            try:
                await asyncio.wait((coming, broken), return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    raise Unreachable("no route to host")
                yield coming.result()
            finally:
                for one in (coming, broken):
                    one.cancel()
                await asyncio.gather(coming, broken, return_exceptions=True)
