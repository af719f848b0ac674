"""OPC UA devices. Needs asyncua (`edgehive[opcua]`).

device   url (opc.tcp://host:4840), timeout in milliseconds (4000)
         userName, passwordFile                           to log in with; the file holds the password
         securityPolicy (Basic256Sha256...), securityMode (SignAndEncrypt), certificate, privateKey,
         remoteCertificate                                paths; the server must show that last one
visitor  nodeID      ns=2;i=3 or ns=2;s=Boiler.Temperature
         subscribe   milliseconds: the server tells changes that often, instead of being asked at each read
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from asyncua import ua
from asyncua.client.client import Client
from asyncua.common.node import Node
from asyncua.ua.uaerrors import (
    BadConnectionClosed,
    BadSecureChannelClosed,
    BadServerNotConnected,
    BadSessionClosed,
    BadSessionIdInvalid,
    UaError,
)

from edgehive.mapper import Value, Visitor, run

# What asyncua says of each lost connection is said by the mapper, in one line.
logging.getLogger("asyncua").setLevel(logging.CRITICAL)

_LOST = (BadConnectionClosed, BadSecureChannelClosed, BadServerNotConnected, BadSessionClosed, BadSessionIdInvalid)


class _Changes:
    """What the server told of nodes that are subscribed to, by node."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def datachange_notification(self, node: Node, value: Any, data: Any) -> None:  # noqa: ARG002 - asyncua's call
        self.values[node.nodeid.to_string()] = value


class Opcua:
    """One server."""

    protocol = "opcua"

    def __init__(self) -> None:
        self._client: Client | None = None
        self._types: dict[str, ua.VariantType] = {}
        self._changes = _Changes()
        self._subscribed: set[str] = set()

    async def open(self, config: Mapping[str, Any]) -> None:
        if not str(config.get("url", "")).startswith("opc.tcp://"):
            raise ValueError(f"url {config.get('url')!r} is no address like opc.tcp://host:4840")
        client = Client(str(config["url"]), timeout=float(config.get("timeout", 4000)) / 1000)
        if "userName" in config:
            client.set_user(str(config["userName"]))
            client.set_password(_password(config))
        if str(config.get("securityPolicy", "None")) != "None":
            await client.set_security_string(_security(config))
        await client.connect()
        self._client = client

    async def read(self, visitor: Visitor) -> Value:
        client, id = self._connected(), _node_id(visitor)
        try:
            if id in self._subscribed:
                await client.check_connection()
                return _plain(self._changes.values[id])
            value = await client.get_node(id).read_value()
            if period := visitor.config.get("subscribe"):
                await self._subscribe(client, id, value, float(period))
        except _LOST as error:
            raise ConnectionError(f"the server closed the connection: {type(error).__name__}") from error
        return _plain(value)

    async def write(self, visitor: Visitor, value: Value) -> None:
        client, id = self._connected(), _node_id(visitor)
        try:
            node = client.get_node(id)
            if id not in self._types:
                self._types[id] = await node.read_data_type_as_variant_type()
            await node.write_value(ua.DataValue(ua.Variant(_as(self._types[id], value), self._types[id])))
        except _LOST as error:
            raise ConnectionError(f"the server closed the connection: {type(error).__name__}") from error

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.disconnect()

    def _connected(self) -> Client:
        if self._client is None:
            raise ConnectionError("the device is not open")
        return self._client

    async def _subscribe(self, client: Client, id: str, value: Any, period: float) -> None:
        self._changes.values[id] = value
        subscription = await client.create_subscription(period, self._changes)
        await subscription.subscribe_data_change(client.get_node(id))
        self._subscribed.add(id)


def _node_id(visitor: Visitor) -> str:
    """In the form the server's answers have; raises ValueError."""
    text = visitor.config.get("nodeID", "")
    try:
        found: str = ua.NodeId.from_string(str(text)).to_string()
    except (UaError, ValueError) as error:
        raise ValueError(f"nodeID {text!r} is none like ns=2;i=3 or ns=2;s=Name") from error
    return found


def _password(config: Mapping[str, Any]) -> str:
    try:
        return Path(str(config["passwordFile"])).read_text().strip() if "passwordFile" in config else ""
    except OSError as error:
        raise ValueError(f"passwordFile {config['passwordFile']} cannot be read: {error.strerror}") from error


def _security(config: Mapping[str, Any]) -> str:
    parts = [str(config.get(name, "")) for name in ("certificate", "privateKey", "remoteCertificate")]
    if not all(parts):
        raise ValueError("securityPolicy needs certificate, privateKey and remoteCertificate, which is the server's")
    return ",".join((str(config["securityPolicy"]), str(config.get("securityMode", "SignAndEncrypt")), *parts))


def _plain(value: Any) -> Value:
    if isinstance(value, bool | int | float | str | bytes):
        return value
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _as(type: ua.VariantType, value: Value) -> Value:
    """A whole number for an integer node, a fraction for a real one."""
    if type in (ua.VariantType.Float, ua.VariantType.Double) and isinstance(value, int | float):
        return float(value)
    if type.name.startswith(("Int", "UInt", "SByte", "Byte")) and isinstance(value, float):
        if not value.is_integer():
            raise ValueError(f"the node takes whole numbers ({type.name}), and {value:g} is none")
        return int(value)
    return value


if __name__ == "__main__":
    run(Opcua)
