"""exec, attach and portForward at the node's HTTP door: the stream between the asker and the runtime.

The runtime's own streaming server speaks SPDY and WebSocket; here bytes pass through unread. Served to this machine
alone: whoever may open these streams is root in every container of the node.
Go: pkg/kubelet/server/server.go
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from aiohttp import web

from edgehive.edgecore.edged.rpc import RuntimeRefused
from edgehive.kit.relay import BackendFailed, Duplex, is_upgrade, pass_on_upgrade

#: People at terminals and their tools; a flood of streams must not starve the pods.
_MAX_STREAMS = 64
_DIAL_SECONDS = 10.0
#: How long the runtime keeps a stream's address: after that there is room again.
_RETRY_SECONDS = "60"


class Unavailable(Exception):
    """What was asked for is not to be had; the message is for the person who asked."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Place:
    """A container, or with an empty `container` a pod; `uid` is empty when the asker did not care."""

    namespace: str
    pod: str
    uid: str
    container: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of a process's streams to open."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


class StreamSource(Protocol):
    """Where the runtime serves a stream; each raises Unavailable or RuntimeRefused."""

    async def exec_url(self, place: Place, command: list[str], wanted: Wanted) -> str: ...

    async def attach_url(self, place: Place, wanted: Wanted) -> str: ...

    async def port_forward_url(self, place: Place, ports: list[int]) -> str: ...


class Streaming:
    """The routes of the streams."""

    def __init__(self, source: StreamSource) -> None:
        self._source = source
        self._streams = asyncio.Semaphore(_MAX_STREAMS)

    def routes(self) -> Iterator[web.RouteDef]:
        container = ("{namespace}/{pod}/{container}", "{namespace}/{pod}/{uid}/{container}")
        pod = ("{namespace}/{pod}", "{namespace}/{pod}/{uid}")
        for path, tails, find in (
            ("exec", container, self._exec),
            ("attach", container, self._attach),
            ("portForward", pod, self._port_forward),
        ):
            for tail in tails:
                for method in ("GET", "POST"):
                    yield web.route(method, f"/{path}/{tail}", self._handler(find))

    def _handler(
        self, find: Callable[[web.Request], Awaitable[str]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await self._open(request, find)
            except Unavailable as error:
                return web.Response(status=error.status, text=str(error))
            except ValueError as error:
                return web.Response(status=400, text=str(error))
            except RuntimeRefused as error:
                return _runtime_answer(error)
            except BackendFailed as error:
                return web.Response(status=502, text=f"container runtime: {error}")

        return handle

    async def _open(self, request: web.Request, find: Callable[[web.Request], Awaitable[str]]) -> web.StreamResponse:
        if not _from_this_machine(request):
            raise Unavailable("exec, attach and portForward are served to the node itself only, at 127.0.0.1", 403)
        url = await find(request)
        if not is_upgrade(request):
            raise Unavailable("Upgrade request required", 400)
        if self._streams.locked():
            raise Unavailable(f"{_MAX_STREAMS} streams are open already; try again later", 429)
        async with self._streams:
            host, port, target = _split(url)
            return await pass_on_upgrade(request, await _dial(host, port), target, host=f"{host}:{port}")

    async def _exec(self, request: web.Request) -> str:
        wanted = _wanted(request)
        return await self._source.exec_url(_place(request), request.query.getall("command", []), wanted)

    async def _attach(self, request: web.Request) -> str:
        return await self._source.attach_url(_place(request), _wanted(request))

    async def _port_forward(self, request: web.Request) -> str:
        return await self._source.port_forward_url(_place(request), _ports(request))


def _place(request: web.Request) -> Place:
    where = request.match_info
    return Place(where["namespace"], where["pod"], where.get("uid", ""), where.get("container", ""))


def _wanted(request: web.Request) -> Wanted:
    """The kubelet's parameter names, and those of the Kubernetes API; raises ValueError when nothing is wanted."""
    stdin, stdout, stderr = (
        _given(request, *names) for names in (("input", "stdin"), ("output", "stdout"), ("error", "stderr"))
    )
    if not (stdin or stdout or stderr):
        raise ValueError("you must specify at least 1 of stdin, stdout, stderr")
    tty = _given(request, "tty")
    # A terminal has one output; asking for both is usual and means this.
    return Wanted(stdin, stdout, stderr and not tty, tty)


def _given(request: web.Request, *names: str) -> bool:
    return any(request.query.get(name, "").lower() in ("1", "true") for name in names)


def _ports(request: web.Request) -> list[int]:
    """WebSocket clients name the ports beforehand, others in the stream; raises ValueError."""
    texts = [text for name in ("port", "ports") for text in request.query.getall(name, [])]
    if not texts and request.headers.get("Upgrade", "").lower() == "websocket":
        raise ValueError('query parameter "port" is required')
    return [_port(text, part) for text in texts for part in text.split(",")]


def _port(text: str, part: str) -> int:
    if not (part.isascii() and part.isdecimal() and 0 < int(part) < 65536):
        raise ValueError(f'unable to parse "{text}" as a port')
    return int(part)


def _from_this_machine(request: web.Request) -> bool:
    try:
        return ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        return False


def _split(url: str) -> tuple[str, int, str]:
    """Host, port, and path with query."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise BackendFailed(f"it serves streams at {parts.scheme}://{parts.netloc}; only http://HOST:PORT is supported")
    return parts.hostname, parts.port, f"{parts.path}?{parts.query}" if parts.query else parts.path


async def _dial(host: str, port: int) -> Duplex:
    try:
        async with asyncio.timeout(_DIAL_SECONDS):
            return Duplex(*await asyncio.open_connection(host, port))
    except OSError as error:
        raise BackendFailed(f"its streaming server at {host}:{port} cannot be reached: {error}") from error


def _runtime_answer(error: RuntimeRefused) -> web.Response:
    match error.code:
        case "NOT_FOUND":
            return web.Response(status=404, text=error.text)
        case "RESOURCE_EXHAUSTED":
            return web.Response(status=429, text=error.text, headers={"Retry-After": _RETRY_SECONDS})
        case "UNAVAILABLE" | "DEADLINE_EXCEEDED":
            return web.Response(status=503, text=str(error))
    return web.Response(status=500, text=error.text)
