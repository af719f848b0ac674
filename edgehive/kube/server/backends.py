"""How the API server speaks to what stands behind it: kubelets, pods and services.

A request is passed on as it came, less what is between the client and us; an upgraded connection becomes a
plain stream of bytes both ways. Certificates are always verified.

Go: k8s.io/apimachinery/pkg/util/proxy/upgradeaware.go
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from edgehive.api.meta import Status
from edgehive.kit.relay import BackendFailed, Duplex, pass_on_upgrade
from edgehive.kube.errors import ServerError, ServiceUnavailable, from_status

DIAL_SECONDS = 10.0
#: What was asked of us. Several nodes may answer at one address: KubeEdge's cloud tells them apart by it.
FORWARDED_URI = "X-Forwarded-Uri"
_CHUNK = 64 * 1024
#: Between two neighbours only, or ours alone.
_NOT_PASSED_ON = frozenset({
    "authorization", "connection", "host", "keep-alive", "proxy-authenticate", "proxy-authorization",
    "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
_ADDED_BY_OTHERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a request goes on to; `name` says what that is in messages."""

    name: str
    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, target: str) -> URL:
        return URL(f"{self.scheme}://{self.authority}{target}", encoded=True)


class BadGateway(ServerError):
    """What stands behind us gave no usable answer."""

    def __init__(self, message: str) -> None:
        super().__init__(status=Status(message=message, reason="BadGateway", code=502))


class Backends:
    """The connections to them; enter it before use. `tls` verifies those that speak https."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Backends":
        connector = aiohttp.TCPConnector(limit=0, ssl=self._tls if self._tls is not None else True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=DIAL_SECONDS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_ADDED_BY_OTHERS,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def read(self, backend: Backend, target: str, *, asked: str, limit: int, seconds: float) -> bytes:
        """A small answer as a whole, as if `asked` had been asked of us; raises ServiceUnavailable, BadGateway."""
        try:
            async with asyncio.timeout(seconds), self._get(backend, target, asked) as answer:
                body = b""
                while len(body) <= limit and (more := await answer.content.read(limit + 1 - len(body))):
                    body += more
                if len(body) > limit:
                    raise BadGateway(f"{backend.name} answered more than {limit} bytes to {target}")
                if answer.status != 200:
                    raise BadGateway(f"{backend.name} answered {answer.status}: {body[:200].decode(errors='replace')}")
                return body
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(backend, error, seconds) from error

    def _get(self, backend: Backend, target: str, asked: str) -> "aiohttp.client._RequestContextManager":
        return self._open().get(backend.url(target), headers={FORWARDED_URI: asked})

    async def pass_on(
        self, request: web.Request, backend: Backend, target: str, *, prefix: str = "", raw: bool = True
    ) -> web.StreamResponse:
        """An ordinary request and its answer; `prefix` is put before redirects.

        Raises ServiceUnavailable, and unless the answer is wanted `raw` what a refusal says as an ApiError.
        """
        response: web.StreamResponse | None = None
        try:
            async with self._open().request(
                request.method,
                backend.url(target),
                headers=_forwarded(request),
                data=request.content if request.body_exists else None,
                allow_redirects=False,
            ) as answer:
                if answer.status >= 400 and not raw:
                    text = (await answer.content.read(_CHUNK)).decode(errors="replace").strip()
                    raise type(from_status(Status(code=answer.status)))(text)
                response = web.StreamResponse(
                    status=answer.status, reason=answer.reason, headers=_answered(answer.headers, backend, prefix)
                )
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (aiohttp.ClientError, TimeoutError) as error:
            if response is None:
                raise unreachable(backend, error) from error
            # What was promised cannot be finished: only a broken connection tells the client so.
            if request.transport is not None:
                request.transport.abort()
            return response

    async def upgrade(self, request: web.Request, backend: Backend, target: str) -> web.StreamResponse:
        """A connection that goes on as another protocol; raises ServiceUnavailable, BadGateway."""
        duplex = await self._dial(backend)
        try:
            return await pass_on_upgrade(request, duplex, target, host=backend.authority)
        except BackendFailed as error:
            raise BadGateway(f"{backend.name}: {error}") from error

    async def _dial(self, backend: Backend) -> Duplex:
        tls = None
        if backend.scheme == "https":
            tls = self._tls or ssl.create_default_context()
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                return Duplex(*await asyncio.open_connection(backend.host, backend.port, ssl=tls))
        except (OSError, TimeoutError) as error:
            raise unreachable(backend, error) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise ServiceUnavailable("the API server is not serving yet")
        return self._session


def unreachable(backend: Backend, error: Exception, seconds: float = DIAL_SECONDS) -> ServiceUnavailable:
    """503 for what does not answer within `seconds`."""
    why = f"no answer within {seconds:g}s" if isinstance(error, TimeoutError) else str(error)
    return ServiceUnavailable(f"error dialing backend: {backend.name} at {backend.authority} does not answer: {why}")


def _forwarded(request: web.Request) -> CIMultiDict[str]:
    headers = CIMultiDict(
        (name, value) for name, value in request.headers.items() if name.lower() not in _NOT_PASSED_ON
    )
    headers.add("X-Forwarded-For", request.remote or "")
    headers["X-Forwarded-Host"] = request.host
    headers["X-Forwarded-Proto"] = request.scheme
    headers[FORWARDED_URI] = request.rel_url.raw_path
    return headers


def _answered(headers: Mapping[str, str], backend: Backend, prefix: str) -> CIMultiDict[str]:
    kept = CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _NOT_PASSED_ON)
    location = kept.get("Location", "").removeprefix(f"{backend.scheme}://{backend.authority}")
    if prefix and location.startswith("/"):
        kept["Location"] = prefix + location
    return kept
