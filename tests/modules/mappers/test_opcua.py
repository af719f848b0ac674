"""The OPC UA driver against asyncua's own server."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from asyncua import Server, ua

from edgehive.api.devices import PropertyType
from edgehive.mapper import Value, Visitor
from edgehive.mappers.opcua import Opcua


class Boiler:
    """A server with a few nodes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.server = Server()
        self.nodes: dict[str, Any] = {}

    async def start(self) -> None:
        await self.server.init()
        self.server.set_endpoint(self.url)
        index = await self.server.register_namespace("urn:boiler")
        kinds = {
            "temperature": (21.5, ua.VariantType.Double),
            "target": (50.0, ua.VariantType.Float),
            "level": (3, ua.VariantType.Int16),
            "pump": (False, ua.VariantType.Boolean),
            "label": ("north", ua.VariantType.String),
            "serial": (b"\x01\x02", ua.VariantType.ByteString),
        }
        for name, (value, kind) in kinds.items():
            node = await self.server.nodes.objects.add_variable(ua.NodeId(name, index), name, value, kind)
            if name != "temperature":
                await node.set_writable()
            self.nodes[name] = node
        await self.server.start()


@pytest.fixture
async def boiler() -> AsyncIterator[Boiler]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = Boiler(f"opc.tcp://127.0.0.1:{port}")
    await found.start()
    yield found
    await found.server.stop()


@pytest.fixture
async def opcua(boiler: Boiler) -> AsyncIterator[Opcua]:
    driver = Opcua()
    await driver.open({"url": boiler.url})
    yield driver
    await driver.close()


def at(name: str, type: str = "DOUBLE", **config: Any) -> Visitor:
    return Visitor(name, PropertyType(type), {"nodeID": f"ns=2;s={name}", **config}, writable=True)


@pytest.mark.parametrize(
    ("visitor", "value"),
    [
        (at("temperature"), 21.5),
        (at("target", "FLOAT"), 50.0),
        (at("level", "INT"), 3),
        (at("pump", "BOOLEAN"), False),
        (at("label", "STRING"), "north"),
        (at("serial", "BYTES"), b"\x01\x02"),
    ],
)
async def test_a_value_is_read(opcua: Opcua, visitor: Visitor, value: Value) -> None:
    assert await opcua.read(visitor) == value


@pytest.mark.parametrize(
    ("visitor", "value"),
    [
        (at("target", "FLOAT"), 62.5),
        (at("level", "INT"), -7),
        (at("level", "FLOAT"), 5.0),
        (at("pump", "BOOLEAN"), True),
        (at("label", "STRING"), "süd"),
        (at("serial", "BYTES"), b""),
    ],
)
async def test_what_is_written_is_read(opcua: Opcua, visitor: Visitor, value: Value) -> None:
    await opcua.write(visitor, value)
    assert await opcua.read(visitor) == value


async def test_a_subscribed_value_is_told_by_the_server(opcua: Opcua, boiler: Boiler) -> None:
    visitor = at("temperature", subscribe=20)
    assert await opcua.read(visitor) == 21.5
    await boiler.nodes["temperature"].write_value(23.0)
    async with asyncio.timeout(5):
        while await opcua.read(visitor) != 23.0:
            await asyncio.sleep(0.01)


async def test_wrong_nodes_are_told_and_the_connection_goes_on(opcua: Opcua) -> None:
    with pytest.raises(ValueError, match="nodeID 'boiler' is none like ns=2;i=3"):
        await opcua.read(Visitor("p", PropertyType.INT, {"nodeID": "boiler"}))
    with pytest.raises(ua.UaStatusCodeError, match="node id"):
        await opcua.read(at("nobody"))
    with pytest.raises(ua.UaStatusCodeError):
        await opcua.write(at("temperature"), 1.0)
    with pytest.raises(ValueError, match="takes whole numbers"):
        await opcua.write(at("level", "FLOAT"), 1.5)
    assert await opcua.read(at("level", "INT")) == 3


@pytest.mark.parametrize("subscribe", [{}, {"subscribe": 20}])
async def test_a_server_that_went_away_is_told_as_lost(boiler: Boiler, subscribe: dict[str, int]) -> None:
    driver, visitor = Opcua(), at("temperature", **subscribe)
    await driver.open({"url": boiler.url, "timeout": 1000})
    assert await driver.read(visitor) == 21.5
    await boiler.server.stop()
    with pytest.raises((OSError, ua.UaError)):
        for _ in range(100):
            await driver.read(visitor)
            await asyncio.sleep(0.02)
    await driver.close()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "url None is no address like opc.tcp://host:4840"),
        ({"url": "opc.tcp://x", "userName": "u", "passwordFile": "nowhere"}, "passwordFile nowhere cannot be read"),
        ({"url": "opc.tcp://x", "securityPolicy": "Basic256Sha256"}, "needs certificate, privateKey and remoteCert"),
    ],
)
async def test_a_wrong_configuration_is_told(config: dict[str, str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        await Opcua().open(config)
