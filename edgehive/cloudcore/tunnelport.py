"""The port that iptables lead to the stream port, agreed on by all cloudcores in a ConfigMap, as Go has it.

For iptables mode only: `iptables` reads the record and writes the rules, and so does Go's manager. A cloudcore keeps
the port it has once been given.

Go: cloud/cmd/cloudcore/app/server.go (NegotiateTunnelPort)
"""

from typing import Any

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import CONFIG_MAPS, NAMESPACES
from edgehive.kube.client import Client
from edgehive.kube.errors import AlreadyExists, Conflict, NotFound

NAMESPACE, NAME = "kubeedge", "tunnelport"
ANNOTATION = "tunnelportrecord.kubeedge.io"
FIRST_PORT, LAST_PORT = 10351, 65535
TRIES = 10


class Record(msgspec.Struct):
    """Go's: every cloudcore's port by its address, and the ports taken."""

    by_address: dict[str, int] = msgspec.field(default_factory=dict, name="ipTunnelPort")
    taken: dict[str, bool] = msgspec.field(default_factory=dict, name="port")


class NoTunnelPort(Exception):
    """The record cannot be used; the text says why."""


async def negotiate(client: Client, address: str) -> int:
    """This cloudcore's port, recorded. Raises NoTunnelPort or ApiError."""
    for _ in range(TRIES):
        try:
            present = await client.get(CONFIG_MAPS, NAME, NAMESPACE)
            record = record_of(present)
            if address in record.by_address:
                return record.by_address[address]
            port = take(record, address)
            await client.update(CONFIG_MAPS, _with_record(present.to_dict(), record), NAMESPACE)
        except NotFound:
            try:
                return await _create(client, address)
            except AlreadyExists:
                continue
        except Conflict:
            continue
        return port
    raise NoTunnelPort(f"ConfigMap {NAMESPACE}/{NAME} is written by others all the time; try again")


def take(record: Record, address: str) -> int:
    """The lowest free port, entered into the record; raises NoTunnelPort."""
    ports = (port for port in range(FIRST_PORT, LAST_PORT + 1) if str(port) not in record.taken)
    port = next(ports, None)
    if port is None:
        raise NoTunnelPort(f"no port is left in ConfigMap {NAMESPACE}/{NAME}; remove the entries of absent cloudcores")
    record.by_address[address] = port
    record.taken[str(port)] = True
    return port


def record_of(document: Document) -> Record:
    """What the ConfigMap says; raises NoTunnelPort."""
    text = (document.meta.annotations or {}).get(ANNOTATION, "")
    try:
        return msgspec.json.decode(text or "{}", type=Record)
    except msgspec.DecodeError as error:
        raise NoTunnelPort(
            f"annotation {ANNOTATION} of ConfigMap {NAMESPACE}/{NAME} cannot be read: {error}; mend it, or delete the "
            "ConfigMap to begin anew"
        ) from error


def _with_record(config_map: dict[str, Any], record: Record) -> dict[str, Any]:
    metadata = config_map.setdefault("metadata", {})
    annotations = metadata.get("annotations") or {}
    metadata["annotations"] = annotations | {ANNOTATION: msgspec.json.encode(record).decode()}
    return config_map


async def _create(client: Client, address: str) -> int:
    record = Record()
    port = take(record, address)
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE}}
    try:
        await client.create(CONFIG_MAPS, _with_record(config_map, record), NAMESPACE)
    except NotFound:
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        await client.create(CONFIG_MAPS, _with_record(config_map, record), NAMESPACE)
    return port
