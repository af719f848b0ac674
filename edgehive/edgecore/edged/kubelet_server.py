"""The node's own HTTP door on 127.0.0.1:10350: pods, container logs and streams, statistics, health, metrics.

For `kubectl logs`, `exec` and the like (through the cloud or edgesite), metrics collectors and people on the node; it
works without the cloud. It reads through `PodSource` and never changes anything.
Go: pkg/kubelet/server/server.go
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from edgehive.edgecore.edged.logs import LogFile, LogOptions, read_log
from edgehive.edgecore.edged.plan import ObservedContainer
from edgehive.edgecore.edged.rpc import RuntimeRefused
from edgehive.edgecore.edged.stats import StatsSummary
from edgehive.edgecore.edged.streaming import Streaming, StreamSource, Unavailable
from edgehive.edgecore.edged.usage_metrics import Families, cadvisor_families, resource_families
from edgehive.kit.clock import Clock, parse_rfc3339

#: One door serves a handful of people and collectors; a flood of followers must not starve the pods.
_MAX_FOLLOWERS = 64


class PodSource(StreamSource, Protocol):
    """What edged offers to its HTTP door."""

    def pods(self) -> Iterable[Mapping[str, Any]]:
        """Whole pod objects this node should run, with their newest status."""
        ...

    def running_pods(self) -> Iterable[Mapping[str, Any]]:
        """Minimal pod objects of what the runtime runs."""
        ...

    def container_log(self, namespace: str, pod: str, container: str, *, previous: bool) -> LogFile:
        """The newest (or the one before) attempt's log file; raises Unavailable."""
        ...

    def running_containers(self) -> Mapping[str, ObservedContainer]:
        """By id."""
        ...

    def healthy(self) -> str:
        """ "" when all is well, else one sentence saying what is wrong."""
        ...


class KubeletServer:
    """Routes over a PodSource; `app()` is served by the caller with `kit.http.serve`."""

    def __init__(
        self,
        source: PodSource,
        stats: StatsSummary,
        clock: Clock,
        registry: CollectorRegistry,
        probes: CollectorRegistry,
        *,
        debugging: bool = True,
    ) -> None:
        self._source = source
        self._stats = stats
        self._clock = clock
        self._registry = registry
        self._probes = probes
        self._debugging = debugging
        self._streaming = Streaming(source)
        self._followers = asyncio.Semaphore(_MAX_FOLLOWERS)

    def app(self) -> web.Application:
        """A fresh application with all routes."""
        app = web.Application()
        app.add_routes([
            web.get("/healthz", self._healthz),
            web.get("/pods", self._pods),
            web.get("/pods/", self._pods),
            web.get("/stats/summary", self._summary),
            web.get("/metrics", self._metrics),
            web.get("/metrics/resource", self._resource),
            web.get("/metrics/cadvisor", self._cadvisor),
            web.get("/metrics/probes", self._probe_counts),
        ])  # fmt: skip
        if self._debugging:
            app.add_routes([
                web.get("/runningpods/", self._running_pods),
                web.get("/containerLogs/{namespace}/{pod}/{container}", self._logs),
                *self._streaming.routes(),
            ])  # fmt: skip
        else:
            for path in ("runningpods", "containerLogs", "exec", "attach", "portForward"):
                app.router.add_route("*", f"/{path}/{{rest:.*}}", _disabled)
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        trouble = self._source.healthy()
        return web.Response(text=trouble or "ok", status=500 if trouble else 200)

    async def _pods(self, _: web.Request) -> web.Response:
        return _pod_list(self._source.pods())

    async def _running_pods(self, _: web.Request) -> web.Response:
        return _pod_list(self._source.running_pods())

    # statistics and metrics

    async def _summary(self, _: web.Request) -> web.Response:
        try:
            return _json(await self._stats.summary(self._source.running_containers()))
        except RuntimeRefused as error:
            return web.Response(status=500, text=str(error))

    async def _metrics(self, _: web.Request) -> web.Response:
        return _exposition(self._registry)

    async def _probe_counts(self, _: web.Request) -> web.Response:
        return _exposition(self._probes)

    async def _resource(self, _: web.Request) -> web.Response:
        try:
            reading = await self._stats.read()
        except RuntimeRefused:
            return _exposition(Families(resource_families(None, {})))
        return _exposition(Families(resource_families(reading, self._source.running_containers())))

    async def _cadvisor(self, _: web.Request) -> web.Response:
        running = self._source.running_containers()
        try:
            reading = await self._stats.read(running)
        except RuntimeRefused as error:
            return web.Response(status=500, text=str(error))
        return _exposition(Families(cadvisor_families(reading, running)))

    # logs

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        where = request.match_info
        try:
            options = self._log_options(request.query)
            previous = _flag(request.query, "previous")
            file = self._source.container_log(where["namespace"], where["pod"], where["container"], previous=previous)
        except ValueError as error:
            return web.Response(status=400, text=str(error))
        except Unavailable as error:
            return web.Response(status=error.status, text=str(error))
        if not options.follow:
            return await self._send(request, file, options)
        if self._followers.locked():
            return web.Response(status=429, text=f"{_MAX_FOLLOWERS} logs are followed already; try again later")
        async with self._followers:
            return await self._send(request, _while_connected(file, request), options)

    async def _send(self, request: web.Request, file: LogFile, options: LogOptions) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        async for piece in read_log(file, options):
            await response.write(piece)
        await response.write_eof()
        return response

    def _log_options(self, query: Mapping[str, str]) -> LogOptions:
        since = parse_rfc3339(query["sinceTime"]) if query.get("sinceTime") else None
        seconds = _count(query, "sinceSeconds")
        if seconds is not None and since is not None:
            raise ValueError("at most one of sinceTime or sinceSeconds may be specified")
        if seconds is not None:
            since = self._clock.now() - timedelta(seconds=seconds)
        return LogOptions(
            follow=_flag(query, "follow"),
            tail=_count(query, "tailLines"),
            since=since,
            timestamps=_flag(query, "timestamps"),
            limit_bytes=_count(query, "limitBytes"),
            stream=query.get("stream", "All"),
        )


def _while_connected(file: LogFile, request: web.Request) -> LogFile:
    """Following a silent log writes nothing, so nothing but this notices that the reader has left."""

    async def running() -> bool:
        transport = request.transport
        return transport is not None and not transport.is_closing() and await file.running()

    return replace(file, running=running)


async def _disabled(_: web.Request) -> web.Response:
    return web.Response(status=405, text="Debug endpoints are disabled.")


def _exposition(source: CollectorRegistry | Families) -> web.Response:
    """In Prometheus' text format."""
    return web.Response(body=generate_latest(source), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _pod_list(items: Iterable[Mapping[str, Any]]) -> web.Response:
    return _json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": list(items)})


def _json(body: Mapping[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "").lower()
    if text not in ("", "0", "1", "true", "false", "t", "f"):
        raise ValueError(f"{name}={text!r} is neither true nor false")
    return text in ("1", "true", "t")


def _count(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise ValueError(f"{name}={text!r} must be a non-negative integer")
    return int(text)
