"""`HttpClient`: the `Client` protocol over HTTPS to any Kubernetes API server.

cloudcore uses it against a real cluster. Bodies are passed through as bytes and never re-encoded; every answer
has a size limit, every request a deadline; nothing is retried. Connections are kept and shared, also by the
views `impersonating` gives.

Go: k8s.io/client-go/rest
"""

import asyncio
import contextlib
import io
import logging
import os
import socket
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from edgehive import __version__
from edgehive.api.document import Document
from edgehive.api.meta import ObjectMeta, Status
from edgehive.api.registry import ApiResource
from edgehive.kit.keepalive import expect_life
from edgehive.kit.ssl_contexts import load_pem
from edgehive.kit.tasks import spawn
from edgehive.kube import warning_headers
from edgehive.kube.answers import Answer, AnswerTooLarge, BadAnswer
from edgehive.kube.client import Body, DocumentList, EventType, PatchType, WatchEvent
from edgehive.kube.connections import Connections
from edgehive.kube.errors import ApiError, BadRequest, Gone, ServerError, Unreachable, from_status
from edgehive.kube.kubeconfig import ClusterAccess

REQUEST_SECONDS = 30.0
#: How long past its own timeout a watch may stay open before we end it.
WATCH_GRACE_SECONDS = 30.0
PAGE_SIZE = 500
MAX_ANSWER = 128 * 1024 * 1024
MAX_EVENT = 16 * 1024 * 1024
#: Service account tokens are replaced while we run; client-go rereads them this often too.
TOKEN_SECONDS = 60.0
READ_BUFFER = 256 * 1024
#: A body above this is handed to aiohttp in pieces, so that writing it does not hold up the loop.
LARGE_BODY = 512 * 1024

WARNINGS_REMEMBERED = 256

_STANDING_HEADERS = {"User-Agent": f"edgehive/{__version__}", "Accept-Encoding": "identity"}

log = logging.getLogger("edgehive.kube.client")

_encode = msgspec.json.Encoder().encode


class _ListMeta(msgspec.Struct, rename="camel", frozen=True):
    resource_version: str = ""
    continue_token: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, frozen=True):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Identity(msgspec.Struct, rename="camel", frozen=True):
    kind: str = ""
    api_version: str = ""


class _Named(msgspec.Struct, frozen=True):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


_page_decoder = msgspec.json.Decoder(_Page)
_identity_decoder = msgspec.json.Decoder(_Identity)
_named_decoder = msgspec.json.Decoder(_Named)
_event_decoder = msgspec.json.Decoder(_Event)
_status_decoder = msgspec.json.Decoder(Status, strict=False)
_EVENT_TYPES = {type.value: type for type in EventType}


class _TokenFile:
    """A token that somebody else replaces on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""
        self._read_at = float("-inf")

    def token(self) -> str:
        now = asyncio.get_running_loop().time()
        if now - self._read_at > TOKEN_SECONDS:
            try:
                self._token = self._path.read_text().strip()
                self._read_at = now
            except OSError as error:
                # The last good token may still be accepted; without one there is nothing to send.
                if not self._token:
                    raise Unreachable(f"the token file {self._path} cannot be read: {error.strerror}") from error
        return self._token

    def expire(self) -> None:
        """Read the file again before the next request: the server did not take this one."""
        self._read_at = float("-inf")


class _CertificateFiles:
    """A client certificate and its key that somebody else replaces on disk."""

    def __init__(self, files: tuple[Path, Path], context: ssl.SSLContext) -> None:
        self._files = files
        self._context = context
        self._seen = self._state()
        self._looked_at = float("-inf")

    def refresh(self) -> bool:
        """Show new connections what the files hold now; True when that is something else.

        One half replaced, or none readable, changes nothing.
        """
        now = asyncio.get_running_loop().time()
        if now - self._looked_at <= TOKEN_SECONDS:
            return False
        self._looked_at = now
        state = self._state()
        if state is None or state == self._seen:
            return False
        try:
            load_pem(self._context, b"\n".join(file.read_bytes() for file in self._files))
        except (OSError, ssl.SSLError) as error:
            log.warning("the client certificate in %s stays as it was: %s", self._files[0], error)
            return False
        self._seen = state
        log.info("the client certificate in %s has been replaced", self._files[0])
        return True

    def expire(self) -> None:
        """Look at the files before the next request: the server did not take this certificate."""
        self._looked_at = float("-inf")

    def _state(self) -> list[tuple[int, int]] | None:
        try:
            return [(status.st_mtime_ns, status.st_ino) for status in map(os.stat, self._files)]
        except OSError:
            return None


class _Transport:
    """The connections and credentials that a client and its impersonating views share."""

    def __init__(self, access: ClusterAccess) -> None:
        self.access = access
        self.server_hostname = access.tls_server_name or None
        self.token_file = _TokenFile(access.token_file) if access.token_file and not access.token else None
        self.session: aiohttp.ClientSession | None = None
        self._retired: set[asyncio.Task[None]] = set()
        self._ssl_context = access.ssl_context()
        self.base_path = urlsplit(access.server).path.rstrip("/")
        self.connections = Connections(access.server, self._ssl_context, self.server_hostname)
        files = access.client_files
        self.certificate = _CertificateFiles(files, self._ssl_context) if files and self._ssl_context else None
        self._warnings: OrderedDict[str, None] = OrderedDict()

    def is_news(self, warning: str) -> bool:
        """Whether the server has not said so lately."""
        known = warning in self._warnings
        self._warnings[warning] = None
        self._warnings.move_to_end(warning)
        if len(self._warnings) > WARNINGS_REMEMBERED:
            self._warnings.popitem(last=False)
        return not known

    def open(self) -> aiohttp.ClientSession:
        if self.certificate is not None and self.certificate.refresh():
            self._retire()
        if self.session is None:
            connector = aiohttp.TCPConnector(
                limit=0,
                ssl=self._ssl_context if self._ssl_context is not None else True,
                socket_factory=_socket,
                keepalive_timeout=60,
            )
            self.session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=READ_BUFFER,
                skip_auto_headers=_STANDING_HEADERS,
            )
        return self.session

    def expire_credentials(self) -> None:
        """The server did not take them: read the files they come from before the next request."""
        for file in (self.token_file, self.certificate):
            if file is not None:
                file.expire()

    def _retire(self) -> None:
        """End all connections, as client-go does: they have shown the old certificate."""
        self.connections.retire()
        session, self.session = self.session, None
        if session is not None:
            task = spawn(session.close(), name="connections with a replaced certificate")
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)

    async def close(self) -> None:
        self._retire()
        await asyncio.gather(*self._retired)


def _socket(address: Any) -> socket.socket:
    """A socket on which a vanished server is noticed within a minute, also by an idle watch."""
    connection = socket.socket(address[0], address[1], address[2])
    connection.setblocking(False)
    expect_life(connection, idle=30, interval=10, unacknowledged=30)
    return connection


class HttpClient:
    """Use as an async context manager; a client made by `impersonating` ends with the one it came from."""

    def __init__(
        self, access: ClusterAccess, *, request_timeout: float = REQUEST_SECONDS, page_size: int = PAGE_SIZE
    ) -> None:
        self._transport = _Transport(access)
        self._timeout = request_timeout
        self._page_size = page_size
        self._user, self._groups = access.impersonate_user, access.impersonate_groups

    def impersonating(self, user: str, groups: Sequence[str] = ()) -> "HttpClient":
        """The same connections, acting as somebody else."""
        view = object.__new__(HttpClient)
        view.__dict__.update(self.__dict__)
        view._user, view._groups = user, tuple(groups)
        return view

    async def __aenter__(self) -> "HttpClient":
        self._transport.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._transport.close()

    # Reading

    async def get(self, resource: ApiResource, name: str, namespace: str = "", *, subresource: str = "") -> Document:
        return Document(await self._request("GET", _path_of_one(resource, namespace, name, subresource)))

    async def list(
        self,
        resource: ApiResource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
    ) -> DocumentList:
        query = _selectors(label_selector, field_selector)
        if resource_version:
            query["resourceVersion"] = resource_version
        try:
            return await self._list(resource, namespace, {**query, "limit": str(self._page_size)})
        except Gone:
            # The pages expired while they were read (or the version is too old): the whole list in one answer.
            return await self._list(resource, namespace, query)

    async def _list(self, resource: ApiResource, namespace: str, query: dict[str, str]) -> DocumentList:
        path = resource.path(namespace)
        items: list[Document] = []
        while True:
            page = _decode(_page_decoder, await self._request("GET", path, query), path)
            items += [_with_kind(bytes(item), resource) for item in page.items or ()]
            if not page.metadata.continue_token:
                return DocumentList(items, page.metadata.resource_version)
            query = {key: value for key, value in query.items() if key != "resourceVersion"}
            query["continue"] = page.metadata.continue_token

    async def watch(
        self,
        resource: ApiResource,
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout: float | None = None,
    ) -> AsyncIterator[WatchEvent]:
        query = {"watch": "1", "allowWatchBookmarks": "true", **_selectors(label_selector, field_selector)}
        if resource_version:
            query["resourceVersion"] = resource_version
        if timeout is not None:
            query["timeoutSeconds"] = str(max(1, round(timeout)))
        deadline = None if timeout is None else timeout + WATCH_GRACE_SECONDS
        path = resource.path(namespace)
        async with self._response("GET", path, query, timeout=deadline) as response:
            async for line in _lines(response.content):
                event = _watch_event(_decode(_event_decoder, line, path), resource)
                if event is not None:
                    yield event

    # Writing

    async def create(
        self, resource: ApiResource, body: Body, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Document:
        data = _body(body)
        if resource.namespaced and not namespace:
            namespace = _decode(_named_decoder, data, "the body").metadata.namespace
        path = _path_of_one(resource, namespace, name, subresource) if name else resource.path(namespace)
        return Document(await self._request("POST", path, data=data))

    async def update(
        self, resource: ApiResource, body: Body, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Document:
        data = _body(body)
        if not name or (resource.namespaced and not namespace):
            meta = _decode(_named_decoder, data, "the body").metadata
            name, namespace = name or meta.name, namespace or meta.namespace
        return Document(await self._request("PUT", _path_of_one(resource, namespace, name, subresource), data=data))

    async def patch(
        self,
        resource: ApiResource,
        name: str,
        patch: Body | Sequence[Any],
        namespace: str = "",
        *,
        type: PatchType = PatchType.MERGE,
        subresource: str = "",
    ) -> Document:
        query = {"fieldManager": "edgehive", "force": "true"} if type is PatchType.APPLY else None
        path = _path_of_one(resource, namespace, name, subresource)
        return Document(await self._request("PATCH", path, query, data=_body(patch), content_type=type.value))

    async def delete(
        self,
        resource: ApiResource,
        name: str,
        namespace: str = "",
        *,
        grace_period_seconds: int | None = None,
        uid: str = "",
        propagation: str = "",
    ) -> Document | None:
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        if uid:
            options["preconditions"] = {"uid": uid}
        if propagation:
            options["propagationPolicy"] = propagation
        answer = await self._request("DELETE", _path_of_one(resource, namespace, name), data=_encode(options))
        return _lingering(Document(answer))

    # One request

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        data: bytes | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        if data is not None and len(data) > LARGE_BODY:
            async with self._response(
                method, path, query, data=data, content_type=content_type, timeout=self._timeout
            ) as response:
                return await _read(response, MAX_ANSWER)
        answer = await self._exchange(method, path, query, data, content_type)
        self._tell_warnings(answer.values("Warning"), method, path)
        if not 200 <= answer.status < 300:
            if answer.status == 401:
                self._transport.expire_credentials()
            raise _api_error(answer.status, answer.body)
        return answer.body

    async def _exchange(
        self, method: str, path: str, query: Mapping[str, str] | None, data: bytes | None, content_type: str
    ) -> Answer:
        """One short request on a kept connection."""
        transport = self._transport
        transport.open()
        target = transport.base_path + quote(path, safe="/:") + (f"?{urlencode(query)}" if query else "")
        headers = self._headers(content_type if data is not None else "")
        try:
            return await transport.connections.exchange(
                method, target, headers, data, limit=MAX_ANSWER, timeout=self._timeout
            )
        except TimeoutError as error:
            raise Unreachable(f"{transport.access.server} did not answer {method} {path} in time") from error
        except AnswerTooLarge:
            raise ServerError(f"the answer to {method} {path} is larger than {MAX_ANSWER} bytes") from None
        except (OSError, BadAnswer) as error:
            raise Unreachable(_unreachable(transport.access.server, error)) from error

    @contextlib.asynccontextmanager
    async def _response(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        *,
        timeout: float | None,
        data: bytes | None = None,
        content_type: str = "application/json",
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful answer; everything else is raised as an ApiError."""
        transport = self._transport
        text = transport.access.server + quote(path, safe="/:")
        url = URL(f"{text}?{urlencode(query)}" if query else text, encoded=True)
        try:
            async with transport.open().request(
                method,
                url,
                data=io.BytesIO(data) if data is not None and len(data) > LARGE_BODY else data,
                headers=self._headers(content_type if data is not None else ""),
                timeout=aiohttp.ClientTimeout(total=timeout, sock_connect=REQUEST_SECONDS),
                allow_redirects=False,
                server_hostname=transport.server_hostname,
            ) as response:
                self._tell_warnings(response.headers.getall("Warning", ()), response.method, response.url.path)
                if not 200 <= response.status < 300:
                    await self._fail(response)
                yield response
        except TimeoutError as error:
            raise Unreachable(f"{transport.access.server} did not answer {method} {path} in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(_unreachable(transport.access.server, error)) from error

    def _headers(self, content_type: str) -> CIMultiDict[str]:
        headers = CIMultiDict({"Accept": "application/json", **_STANDING_HEADERS})
        if content_type:
            headers["Content-Type"] = content_type
        transport = self._transport
        token = transport.token_file.token() if transport.token_file else transport.access.token
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if self._user:
            headers["Impersonate-User"] = self._user
            for group in self._groups:
                headers.add("Impersonate-Group", group)
        return headers

    def _tell_warnings(self, warnings: Sequence[str], method: str, path: str) -> None:
        """Log what the server wants its callers to know, each sentence once."""
        for text in warning_headers.texts(warnings) if warnings else ():
            if self._transport.is_news(text):
                log.warning("%s on %s %s: %s", self._transport.access.server, method, path, text)

    async def _fail(self, response: aiohttp.ClientResponse) -> None:
        body = await _read(response, MAX_EVENT)
        if response.status == 401:
            self._transport.expire_credentials()
        raise _api_error(response.status, body)


def _path_of_one(resource: ApiResource, namespace: str, name: str, subresource: str = "") -> str:
    """The path of one object, never of a collection or of something beside it; raises BadRequest as client-go does."""
    for what, part in (("name", name), ("namespace", namespace)):
        if part in (".", "..") or "/" in part or "%" in part:
            raise BadRequest(f"{part!r} may not be the {what} of a {resource.kind}: a path is made of it")
    if not name:
        raise BadRequest(f"a {resource.kind} has to be named; without a name all of them are meant")
    return resource.path(namespace, name, subresource)


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    given = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: selector for name, selector in given.items() if selector}


def _body(body: Body | Sequence[Any]) -> bytes:
    if isinstance(body, Document):
        return body.raw
    return body if isinstance(body, bytes) else _encode(body)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > limit:
            response.close()
            raise ServerError(f"the answer to {response.method} {response.url.path} is larger than {limit} bytes")
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of a watch, however they are cut into chunks; a line that never ends is refused."""
    parts: list[bytes] = []
    size = 0
    async for chunk in content.iter_any():
        head, *rest = chunk.split(b"\n")
        parts.append(head)
        size += len(head)
        if size > MAX_EVENT:
            raise ServerError(f"an event of the watch is larger than {MAX_EVENT} bytes")
        if not rest:
            continue
        line, parts, size = b"".join(parts), [rest[-1]], len(rest[-1])
        for whole in (line, *rest[:-1]):
            if whole.strip():
                yield whole
    if b"".join(parts).strip():
        raise Unreachable("the watch broke in the middle of an event")


def _watch_event(event: _Event, resource: ApiResource) -> WatchEvent | None:
    """The event; None for a type nobody knows. An ERROR event is raised."""
    if event.type == "ERROR":
        raise from_status(_decode(_status_decoder, event.object, "an error event"))
    type = _EVENT_TYPES.get(event.type)
    return None if type is None else WatchEvent(type, _with_kind(bytes(event.object), resource))


def _with_kind(raw: bytes, resource: ApiResource) -> Document:
    """List items of built-in kinds come without kind and apiVersion; everyone after us relies on them."""
    identity = _decode(_identity_decoder, raw, "an item")
    if identity.kind and identity.api_version:
        return Document(raw)
    missing = {"kind": resource.kind, "apiVersion": resource.api_version}
    if identity.kind or identity.api_version:
        return Document.of({**msgspec.json.decode(raw), **missing})
    inside = raw.strip()[1:].lstrip()
    return Document(_encode(missing)[:-1] + (b"," if inside != b"}" else b"") + inside)


def _lingering(answer: Document) -> Document | None:
    """What a DELETE answered: the object if it is only marked, None if it is gone."""
    if answer.kind == "Status":
        return None
    meta = answer.meta
    waits = meta.finalizers or (meta.deletion_grace_period_seconds or 0) > 0
    return answer if meta.deletion_timestamp and waits else None


def _decode(decoder: Any, data: bytes | msgspec.Raw, what: str) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ServerError(f"what the API server sent for {what} cannot be read: {error}") from error


def _api_error(code: int, data: bytes) -> ApiError:
    """A Status answer as its error; any other answer (a proxy's page) by its code."""
    try:
        status = _status_decoder.decode(data)
        if status.code or status.reason or status.message:
            return from_status(status if status.code else msgspec.structs.replace(status, code=code))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    text = data[:200].decode(errors="replace").strip()
    status = Status(message=f"the API server answered {code}: {text}", code=code)
    # 502 and its like come from something in between and pass.
    return ServerError(status=status) if code >= 500 and code not in (503, 504) else from_status(status)


def _unreachable(server: str, error: Exception) -> str:
    cause: Any = error
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of {server} does not verify: {cause.verify_message}; check certificate-authority"
    return f"{server} cannot be reached: {error or type(error).__name__}"
