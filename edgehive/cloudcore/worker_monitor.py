"""Health and metrics of several workers at one port: ready when all are, and every figure with its worker's number.

It asks the workers when it is asked. A worker that is being started again is not ready and counts nothing.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from edgehive.api.config.cloudcore import CloudCore
from edgehive.kit.http import read_answer, serve

log = logging.getLogger("edgehive.cloudcore")

ASK_SECONDS = 5.0
LOOK_SECONDS = 0.25
#: Far more than the metrics of a worker with many nodes.
MAX_ANSWER = 32 * 1024 * 1024


class WorkerMonitor:
    """`follow` one life of each worker; `serving` answers for all."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._ports: dict[int, int] = {}
        self._ready: set[int] = set()
        #: All were ready once: from then on a worker that ends is started again, whatever it ended with.
        self.ever_ready = False
        self._session: aiohttp.ClientSession | None = None

    # Lives

    async def follow(self, number: int, output: asyncio.StreamReader | None) -> None:
        """Take a worker's announcement and wait until it is ready."""
        assert output is not None
        _, _, port = (await output.readline()).decode(errors="replace").strip().partition(" ")
        if not port.isdecimal():
            return
        self._ports[number] = int(port)
        while (await self._ask(number, "/readyz"))[0] != 200:  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(LOOK_SECONDS)
        self._ready.add(number)
        if len(self._ready) == self._count and not self.ever_ready:
            self.ever_ready = True
            log.info("all %d workers are ready", self._count)

    def is_ready(self, number: int) -> bool:
        """Whether it was, in its present life."""
        return number in self._ready

    def forget(self, number: int) -> None:
        """Its life is over."""
        self._ready.discard(number)
        self._ports.pop(number, None)

    # Answers

    @asynccontextmanager
    async def serving(self, config: CloudCore) -> AsyncIterator[None]:
        host, port = config.common_config.monitor_server.listen
        app = web.Application()
        app.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/livez", self._health),
                web.get("/readyz", self._health),
                web.get("/statusz", self._status),
                web.get("/metrics", self._metrics),
            ]
        )
        timeout = aiohttp.ClientTimeout(total=ASK_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as self._session, serve(app, host=host, port=port):
            yield

    async def _health(self, request: web.Request) -> web.Response:
        """What the first worker that is not well says, or ok."""
        for number, (status, text) in enumerate(await self._ask_all(request.path)):
            if status != 200 or (request.path == "/readyz" and number not in self._ready):
                return web.Response(status=503, text=f"worker {number}: {text}\n")
        return web.Response(text="ok")

    async def _status(self, request: web.Request) -> web.Response:
        answers = await self._ask_all(request.path)
        told = [text if status == 200 else "null" for status, text in answers]
        return web.Response(text=f'{{"workers":[{",".join(told)}]}}', content_type="application/json")

    async def _metrics(self, request: web.Request) -> web.Response:
        answers = await self._ask_all(request.path)
        body = merged([text if status == 200 else "" for status, text in answers])
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _ask_all(self, path: str) -> list[tuple[int, str]]:
        return await asyncio.gather(*(self._ask(number, path) for number in range(self._count)))

    async def _ask(self, number: int, path: str) -> tuple[int, str]:
        port = self._ports.get(number)
        if port is None or self._session is None:
            return 503, "it is being started"
        try:
            async with self._session.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, (await read_answer(answer, MAX_ANSWER)).decode(errors="replace").strip()
        except (aiohttp.ClientError, OSError) as error:
            return 503, f"it does not answer: {error or 'not in time'}"


class _Collected(Collector):
    """Families that are there already, as the library writes them."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def merged(texts: Iterable[str]) -> bytes:
    """Expositions of several workers as one, each sample with its worker's number."""
    families: dict[str, Metric] = {}
    for number, text in enumerate(texts):
        with contextlib.suppress(ValueError):
            for family in text_string_to_metric_families(text + "\n"):
                known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                known.samples += [
                    sample._replace(labels=sample.labels | {"worker": str(number)}) for sample in family.samples
                ]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(families.values()))
    return generate_latest(registry)
