"""Reading CRI log files as people ask for them, and keeping them small."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, Counter

from edgehive.edgecore.edged import logs
from edgehive.edgecore.edged.cri import RuntimeRefused
from edgehive.edgecore.edged.kubelet_server import KubeletServer
from edgehive.edgecore.edged.logs import LogFile, LogOptions, LogRotation, read_log, rotated
from edgehive.edgecore.edged.stats import StatsSummary
from edgehive.edgecore.edged.streaming import Unavailable
from edgehive.kit.clock import FixedClock
from edgehive.protos import cri_pb2 as cri
from edgehive.testing.cri import FakeRuntime
from edgehive.testing.virtual_time import threads_take_no_time

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def line(second: int, text: str, *, tag: str = "F", stream: str = "stdout") -> str:
    return f"{(START + timedelta(seconds=second)).isoformat().replace('+00:00', '.123456789Z')} {stream} {tag} {text}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "c" / "0.log"
    made.parent.mkdir()
    made.write_text(
        line(0, "one") + line(1, "er", stream="stderr") + line(2, "lo", tag="P") + line(3, "ng") + line(4, "")
    )
    return made


async def ended() -> bool:
    return False


async def read(path: Path, **options: Any) -> str:
    return b"".join([piece async for piece in read_log(LogFile(path, ended), LogOptions(**options))]).decode()


async def test_whole_log_with_parts_joined(path: Path) -> None:
    assert await read(path) == "one\ner\nlong\n\n"


@pytest.mark.parametrize(("count", "text"), [
    (0, ""), (1, "\n"), (2, "long\n\n"), (3, "er\nlong\n\n"), (4, "one\ner\nlong\n\n"), (99, "one\ner\nlong\n\n"),
])  # fmt: skip
async def test_tail_counts_whole_lines(path: Path, count: int, text: str) -> None:
    assert await read(path, tail=count) == text


async def test_tail_of_a_log_larger_than_a_block(path: Path) -> None:
    path.write_text("".join(line(i % 50, f"{i:05}" + "x" * 200) for i in range(3000)))
    shown = (await read(path, tail=700)).splitlines()
    assert [text[:5] for text in shown] == [f"{i:05}" for i in range(2300, 3000)]


async def test_since_timestamps_streams_and_limit(path: Path) -> None:
    assert await read(path, since=START + timedelta(seconds=2)) == "long\n\n"
    assert await read(path, stream="Stderr") == "er\n"
    assert await read(path, limit_bytes=6) == "one\ner"
    stamped = (await read(path, timestamps=True)).splitlines()
    assert stamped[0] == "2026-01-02T03:04:05.123456789Z one"
    assert stamped[2] == "2026-01-02T03:04:07.123456789Z long"


async def test_damaged_lines_are_skipped_and_a_missing_file_is_empty(path: Path) -> None:
    path.write_text("garbage\n" + line(0, "good") + "\n")
    assert await read(path) == "good\n"
    path.unlink()
    assert await read(path, tail=3) == ""


@pytest.mark.looptime
async def test_following_goes_through_a_rotation_to_the_end(path: Path) -> None:
    threads_take_no_time()
    path.write_text(line(0, "a"))
    running = True

    async def runs() -> bool:
        return running

    seen: list[bytes] = []
    async with asyncio.timeout(60):
        async for piece in read_log(LogFile(path, runs), LogOptions(follow=True)):
            seen.append(piece)
            match piece:
                case b"a\n":
                    with path.open("a") as log:
                        log.write(line(1, "b"))
                case b"b\n":
                    with path.open("a") as log:
                        log.write(line(2, "c"))
                    path.rename(path.with_name("0.log.1"))
                    path.write_text(line(3, "d"))
                case b"d\n":
                    running = False
    assert seen == [b"a\n", b"b\n", b"c\n", b"d\n"]


# --- rotation ---


async def started(runtime: FakeRuntime, path: Path) -> str:
    client = runtime.client()
    sandbox = cri.PodSandboxConfig(log_directory=str(path.parent.parent))
    pod = await client.run_pod_sandbox(sandbox)
    config = cri.ContainerConfig(
        metadata=cri.ContainerMetadata(name="c"), image=cri.ImageSpec(image="app:1"), log_path="c/0.log"
    )
    made = await client.create_container(pod, config, sandbox)
    await client.start_container(made)
    return made


async def test_large_logs_are_rotated_compressed_and_counted(path: Path) -> None:
    runtime = FakeRuntime(images=["app:1"])
    container = await started(runtime, path)
    clock = FixedClock(START)
    rotation = LogRotation(runtime.client(), clock, max_size=1000, max_files=3)
    assert not await rotation.rotate(container, path)
    for number in range(5):
        clock.set(START + timedelta(minutes=number))
        path.write_text(f"{number}" * 1000)
        assert await rotation.rotate(container, path)
        assert path.read_text() == ""
    kept = rotated(path)
    assert [item.name for item in kept] == ["0.log.20260102-030705.gz", "0.log.20260102-030805"]
    assert gzip.decompress(kept[0].read_bytes()) == b"3" * 1000


async def test_a_rotation_the_runtime_refuses_is_undone(path: Path) -> None:
    runtime = FakeRuntime(images=["app:1"])
    container = await started(runtime, path)
    before = path.read_text()
    runtime.fail("ReopenContainerLog", "UNKNOWN", "no")
    with pytest.raises(RuntimeRefused):
        await LogRotation(runtime.client(), FixedClock(START), max_size=1).rotate(container, path)
    assert path.read_text() == before


# --- the HTTP door ---


class Source:
    """A node with one pod and one log."""

    trouble = ""
    running = False

    def __init__(self, path: Path) -> None:
        self.path = path

    async def runs(self) -> bool:
        return self.running

    def pods(self) -> Iterable[Mapping[str, Any]]:
        return [{"metadata": {"name": "p"}}]

    def running_pods(self) -> Iterable[Mapping[str, Any]]:
        return []

    def container_log(self, namespace: str, pod: str, container: str, *, previous: bool) -> LogFile:
        if pod != "p":
            raise Unavailable(f'pod "{pod}" does not exist', 404)
        if previous:
            raise Unavailable(f'previous terminated container "{container}" in pod "{pod}" not found', 400)
        return LogFile(self.path, self.runs)

    def running_containers(self) -> Mapping[str, Any]:
        return {}

    def healthy(self) -> str:
        return self.trouble


@pytest.fixture
async def http(path: Path) -> AsyncIterator[TestClient]:
    registry = CollectorRegistry()
    Counter("edged_things", "Things.", registry=registry).inc()
    source, clock = Source(path), FixedClock(START + timedelta(seconds=4))
    stats = StatsSummary(FakeRuntime().client(), clock, "n")
    server = KubeletServer(source, stats, clock, registry, CollectorRegistry())  # type: ignore[arg-type]
    async with TestClient(TestServer(server.app())) as client:
        client.source = source
        client.door = server
        yield client


async def get(http: TestClient, where: str) -> tuple[int, str]:
    async with http.get(where) as response:
        return response.status, await response.text()


@pytest.mark.parametrize(("query", "text"), [
    ("", "one\ner\nlong\n\n"), ("?tailLines=2", "long\n\n"), ("?limitBytes=3", "one"), ("?follow=true", None),
    ("?sinceSeconds=2", "long\n\n"), ("?sinceTime=2026-01-02T03:04:08Z", "\n"), ("?follow=1&tailLines=1", "\n"),
])  # fmt: skip
async def test_logs(http: TestClient, query: str, text: str | None) -> None:
    assert await get(http, f"/containerLogs/ns/p/c{query}") == (200, text if text is not None else "one\ner\nlong\n\n")


@pytest.mark.parametrize(("where", "status", "text"), [
    ("ns/x/c", 404, 'pod "x" does not exist'),
    ("ns/p/c?previous=true", 400, 'previous terminated container "c" in pod "p" not found'),
    ("ns/p/c?tailLines=-1", 400, "tailLines='-1' must be a non-negative integer"),
    ("ns/p/c?follow=maybe", 400, "follow='maybe' is neither true nor false"),
    ("ns/p/c?sinceTime=2026-01-02T03:04:08Z&sinceSeconds=1", 400,
     "at most one of sinceTime or sinceSeconds may be specified"),
])  # fmt: skip
async def test_questions_that_cannot_be_answered(http: TestClient, where: str, status: int, text: str) -> None:
    assert await get(http, f"/containerLogs/{where}") == (status, text)


async def test_a_reader_who_leaves_a_silent_log_is_noticed(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    class Places(asyncio.Semaphore):
        """Tells when the last follower has given its place back."""

        def __init__(self) -> None:
            super().__init__(3)
            self.given_back = 0
            self.free = asyncio.Event()

        def release(self) -> None:
            super().release()
            self.given_back += 1
            if self.given_back == 3:
                self.free.set()

    monkeypatch.setattr(logs, "_POLL_SECONDS", 0.001)
    http.door._followers = places = Places()
    http.source.running = True
    for _ in range(3):
        async with http.get("/containerLogs/ns/p/c?follow=true") as response:
            assert await response.content.readline() == b"one\n"
            response.close()
    async with asyncio.timeout(10):
        await places.free.wait()


async def test_other_routes(http: TestClient) -> None:
    status, body = await get(http, "/pods")
    assert (status, json.loads(body)["kind"], len(json.loads(body)["items"])) == (200, "PodList", 1)
    assert json.loads((await get(http, "/runningpods/"))[1])["items"] == []
    assert json.loads((await get(http, "/stats/summary"))[1])["node"]["nodeName"] == "n"
    assert "edged_things_total 1.0" in (await get(http, "/metrics"))[1]
    assert await get(http, "/healthz") == (200, "ok")
    http.source.trouble = "containerd does not answer"
    assert await get(http, "/healthz") == (500, "containerd does not answer")
