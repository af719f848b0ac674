"""The stream port: what the API server takes for a node's kubelet, answered through that node's tunnel.

Logs, statistics and metrics are answers with a body; exec, attach and port-forward are taken over and relayed as bytes,
the kubelet's head included. Every request ends in the node's answer or in one sentence that says what is missing.

Go: cloud/pkg/cloudstream/{streamserver,containerlog_connection,containerexec_connection}.go
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry

from edgehive.cloudcore.cloudstream.callers import Caller, Callers, OfNode, Refused
from edgehive.cloudcore.cloudstream.farewell import SpdyWithFarewell
from edgehive.cloudcore.cloudstream.tunnels import Tunnels
from edgehive.kit import metrics
from edgehive.kit.relay import Duplex, Sink, hijack, is_upgrade, relay
from edgehive.kube.errors import ApiError, BadRequest, NotFound, ServiceUnavailable
from edgehive.wire import tunnel
from edgehive.wire.streams import PIECE, Stream, StreamBroken
from edgehive.wire.tunnel import Connect, FrameType

log = logging.getLogger("edgehive.cloudstream")

#: How long a node may take to begin its answer.
ANSWER_SECONDS = 60.0
#: Between the last byte of a stream and the end of its connection, when the client does not end it itself.
HANG_UP_SECONDS = 0.5
_FORWARDED = "/api/v1/nodes/"
#: What the counter tells apart; whatever else strangers ask for is one more of the same.
_KINDS = frozenset({"containerLogs", "exec", "attach", "portForward", "stats", "metrics"})
_CALLER = web.RequestKey("caller", Caller)
#: Credentials are for us; the rest is between the API server and the kubelet, as Go has it.
_OURS = frozenset({"Host", "Authorization", "Cookie"})

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: The node a pod is bound to, "" for none; raises NotFound or another ApiError.
Locate = Callable[[str, str], Awaitable[str]]
#: Answers for a node whose tunnel is elsewhere; raises StreamBroken when it is nowhere.
Elsewhere = Callable[[web.Request, str], Awaitable[web.StreamResponse]]


class KubeletFace:
    """`callers` None asks nobody who they are (the port is then for tests)."""

    def __init__(
        self,
        tunnels: Tunnels,
        locate: Locate,
        callers: Callers | None,
        registry: CollectorRegistry | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._elsewhere = elsewhere
        self._tunnels = tunnels
        self._locate = locate
        self._callers = callers
        self._asked = metrics.counter(
            "edgehive_stream_requests", "Requests at the stream port.", ["kind", "outcome"], registry=registry
        )

    def app(self, *before: Middleware) -> web.Application:
        """The routes of a kubelet that Go's stream server has, and portForward. `before` may answer instead."""

        @web.middleware
        async def excused(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._excused(request, handler)

        app = web.Application(middlewares=[*before, excused])
        add = app.router.add_route
        add("GET", "/containerLogs/{namespace}/{pod}/{container}", self._logs)
        for kind, type in (("exec", FrameType.EXEC), ("attach", FrameType.ATTACH)):
            for path in ("{namespace}/{pod}/{container}", "{namespace}/{pod}/{uid}/{container}"):
                for method in ("GET", "POST"):
                    add(method, f"/{kind}/{path}", self._streams(type))
        for path in ("{namespace}/{pod}", "{namespace}/{pod}/{uid}"):
            for method in ("GET", "POST"):
                add(method, f"/portForward/{path}", self._streams(FrameType.EXEC))
        for kind in ("stats", "metrics"):
            add("GET", f"/{kind}", self._metrics)
            add("GET", f"/{kind}/{{rest:.*}}", self._metrics)
        return app

    async def _excused(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The sentence of whatever went wrong before there was an answer."""
        kind = _kind(request)
        try:
            if self._callers is not None:
                request[_CALLER] = await self._callers.identify(request)
            response = await handler(request)
        except web.HTTPNotFound:
            text = f"{request.path} is nothing that the stream port serves"
            return self._failure(request, "other", NotFound(text))
        except Refused as refused:
            return self._failure(request, kind, refused.error)
        except StreamBroken as error:
            return self._failure(request, kind, ServiceUnavailable(str(error)))
        except NotFound as error:
            return self._failure(request, kind, error)
        except (ApiError, TimeoutError) as error:
            text = f"the API server does not answer cloudcore: {error or 'no answer in time'}"
            return self._failure(request, kind, ServiceUnavailable(text))
        self._asked.labels(kind, "answered").inc()
        return response

    def _failure(self, request: web.Request, kind: str, error: ApiError) -> web.Response:
        """In the form in which whoever asks shows the text to a person."""
        self._asked.labels(kind, "refused").inc()
        log.warning("%s %s: %s", request.method, request.path, error)
        if is_upgrade(request):
            # A client that wanted a stream takes a plain text for YAML, and a colon in it for an empty Status.
            return web.json_response(error.to_dict(), status=error.code)
        # kube-apiserver passes on what 400, 404 and 500 say, and drops the words of a 503.
        status = 500 if error.code == ServiceUnavailable.code else error.code
        return web.Response(status=status, text=f"{error}\n")

    # Which node

    async def _pod_node(self, request: web.Request) -> str:
        namespace, pod = request.match_info["namespace"], request.match_info["pod"]
        node = await self._locate(namespace, pod)
        if not node:
            raise Refused(BadRequest(f"pod {namespace}/{pod} is not bound to a node yet"))
        return node

    def _metrics_node(self, request: web.Request) -> str:
        """By the address asked for, or as the API server's proxy tells it."""
        forwarded = request.headers.get("X-Forwarded-Uri", "")
        if forwarded.startswith(_FORWARDED):
            name = forwarded.removeprefix(_FORWARDED).split("/", 1)[0]
            # A proxy path names a node as NAME, NAME:PORT or SCHEME:NAME:PORT.
            parts = name.split(":")
            return parts[1] if len(parts) == 3 else parts[0]
        host = request.host.rpartition(":")[0] if ":" in request.host else request.host
        node = self._tunnels.node_at(host.strip("[]"))
        if node is None:
            raise NotFound(
                f"{host} is no address of a node with a tunnel here: ask through the API server, "
                "/api/v1/nodes/<node>/proxy/metrics"
            )
        return node

    async def _permit(self, request: web.Request, verb: str, node: str, subresource: str) -> None:
        if self._callers is not None:
            await self._callers.demand(request[_CALLER], OfNode(verb, node, subresource))

    # Bodies

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        node = await self._pod_node(request)
        await self._permit(request, "get", node, "proxy")
        silent = request.query.get("follow", "").lower() in ("1", "true", "t")
        return await self._body(request, node, FrameType.LOGS, may_be_silent=silent)

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        node = self._metrics_node(request)
        await self._permit(request, "get", node, request.path.split("/", 2)[1])
        return await self._body(request, node, FrameType.METRICS)

    async def _body(
        self, request: web.Request, node: str, type: FrameType, *, may_be_silent: bool = False
    ) -> web.StreamResponse:
        """A stock node sends no status: its answer counts as 200, as Go has it."""
        if self._elsewhere is not None and node not in self._tunnels:
            return await self._elsewhere(request, node)
        stream = await self._connect(request, node, type)
        try:
            # A stock node gives no sign before there is something to follow.
            patience = ANSWER_SECONDS if stream.windowed or not may_be_silent else None
            head = await _in_time(stream.answered(), patience, node)
            response = web.StreamResponse(status=head.status if head else 200)
            response.headers["Content-Type"] = head.content_type if head else "text/plain; charset=utf-8"
            await response.prepare(request)
            try:
                while piece := await stream.read(PIECE):
                    await response.write(piece)
            except StreamBroken as error:
                log.warning("%s %s was cut off: %s", request.method, request.path, error)
                # A body that stops before its end says it to programs; people read it in the log, where kubelets put
                # their late errors too.
                if type is FrameType.LOGS:
                    await response.write(f"\n{error}\n".encode())
                if request.transport is not None:
                    request.transport.close()
                return response
            await response.write_eof()
            return response
        finally:
            stream.close()

    # Byte streams

    def _streams(self, type: FrameType) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            node = await self._pod_node(request)
            # A WebSocket begins with GET, and what it does is create all the same.
            await self._permit(request, "create", node, "proxy")
            if not is_upgrade(request):
                raise Refused(BadRequest(f"{request.path} needs an upgrade to SPDY/3.1 or WebSocket"))
            return await self._relay(request, node, type)

        return handle

    async def _relay(self, request: web.Request, node: str, type: FrameType) -> web.StreamResponse:
        if self._elsewhere is not None and node not in self._tunnels:
            return await self._elsewhere(request, node)
        stream = await self._connect(request, node, type)
        try:
            answer = await _in_time(stream.read(PIECE), ANSWER_SECONDS, node)
            if not answer:
                raise StreamBroken(f"node {node} ended the stream without an answer; its kubelet may not be running")
            taken = hijack(request)
            taken.stream.writer.write(answer)
            told = SpdyWithFarewell(answer, Duplex(stream, stream))
            # Either end's end is the end of both: the tunnel has no half-closed streams.
            await relay(taken.stream, Duplex(told, told), linger=0.0)
            stream.close()
            await _hang_up(taken.stream.writer)
            return taken
        finally:
            stream.close()

    async def _connect(self, request: web.Request, node: str, type: FrameType) -> Stream:
        stream = self._tunnels.open(node)
        url = tunnel.url_of(request.raw_path)
        method = request.method if type in tunnel.STREAM_TYPES else ""
        try:
            data = tunnel.encode_connect(Connect(stream.id, url, _header(request), method))
            if len(data) > tunnel.MAX_CONNECT:
                raise Refused(BadRequest(f"the request line and headers exceed {tunnel.MAX_CONNECT} bytes"))
            await stream.ask(type, data)
        except BaseException:
            stream.close()
            raise
        return stream


async def _in_time(answer: Awaitable[T], seconds: float | None, node: str) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise StreamBroken(f"node {node} did not begin to answer within {seconds:g} s") from None


async def _hang_up(writer: Sink) -> None:
    """A closed TLS connection waits for the peer's farewell, and kube-apiserver's port-forward for ours to be gone."""
    transport = cast("asyncio.StreamWriter", writer).transport
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            while transport.get_write_buffer_size():  # noqa: ASYNC110 - a closing transport has no event for it
                await asyncio.sleep(HANG_UP_SECONDS)
    await asyncio.sleep(HANG_UP_SECONDS)
    transport.abort()


def _kind(request: web.Request) -> str:
    # The path of `OPTIONS *` has no slash.
    first = request.path.lstrip("/").partition("/")[0]
    return first if first in _KINDS else "other"


def _header(request: web.Request) -> dict[str, list[str]]:
    header: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        spelt = tunnel.canonical(name)
        if spelt not in _OURS:
            header.setdefault(spelt, []).append(value)
    return header
