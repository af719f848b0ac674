"""`run_edgecore` as a whole (without edged), with a scripted cloud over the in-memory network."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehive.api.config.edgecore import EdgeCore
from edgehive.beehive.message import Message
from edgehive.edgecore.app import run_edgecore
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn


def configuration(folder: Path) -> EdgeCore:
    data = {
        "database": {"dataSource": str(folder / "edgecore.db")},
        "modules": {
            "edged": {"enable": False, "hostnameOverride": "edge-1"},
            "deviceTwin": {"enable": False},
            "eventBus": {"enable": False},
        },
    }
    return msgspec.convert(data, EdgeCore)


@asynccontextmanager
async def agent(folder: Path, cloud: Any) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = spawn(
        run_edgecore(configuration(folder), dial=cloud.dial, clock=SystemClock(), stop=stop), name="edgecore under test"
    )
    try:
        yield
        stop.set()
        await asyncio.wait_for(task, 10)
    finally:
        await cancel_and_join(task)


def pod(name: str, version: int = 5) -> dict[str, Any]:
    meta = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": meta, "spec": {"nodeName": "edge-1"}}


def rows(folder: Path) -> dict[str, str]:
    with closing(sqlite3.connect(folder / "edgecore.db")) as connection:
        return dict(connection.execute("SELECT key, value FROM meta").fetchall())


def insert(name: str) -> Message:
    return Message.of(
        source="edgecontroller", group="resource", operation="insert", resource=f"default/pod/{name}",
        content=pod(name), resource_version="5", timestamp=1,
    )  # fmt: skip


async def test_an_acknowledged_pod_is_on_disk_when_the_acknowledgement_is_on_the_wire(tmp_path, cloud, next_message):
    """[34]"""
    async with agent(tmp_path, cloud):
        link = await cloud.accept()
        for number in range(20):
            sent = insert(f"p{number}")
            await link.send(sent)
            ack = await next_message(link)
            assert (ack.route.operation, ack.header.parent_id) == ("response", sent.id)
            assert f"default/pod/p{number}" in rows(tmp_path)


async def test_a_link_cut_before_the_acknowledgement_means_a_repetition_that_is_harmless(tmp_path, cloud, next_message):
    async with agent(tmp_path, cloud):
        sent = insert("p")
        link = await cloud.accept()
        await link.send(sent)
        await link.close()
        link = await cloud.accept()
        await link.send(sent)
        assert (await next_message(link)).header.parent_id == sent.id
        assert list(rows(tmp_path)) == ["default/pod/p"]


async def test_it_starts_and_stops_without_any_cloud(tmp_path, offline_cloud):
    async with agent(tmp_path, offline_cloud):
        while not offline_cloud.dials:
            await asyncio.sleep(0.001)
    assert (tmp_path / "edgecore.db").exists()


@pytest.mark.parametrize("times", [3])
async def test_starting_again_leaves_no_tasks(tmp_path, cloud, times):
    before = len(asyncio.all_tasks())
    for _ in range(times):
        async with agent(tmp_path, cloud):
            await cloud.accept()
    assert len(asyncio.all_tasks()) == before
