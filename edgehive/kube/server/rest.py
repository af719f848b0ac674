"""The HTTP face of the API server: one door for every path, over the core in `api`.

Go: k8s.io/apiserver/pkg/server/handler.go, .../endpoints/handlers
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from edgehive.api.meta import Status, StatusDetails
from edgehive.kit.clock import Clock
from edgehive.kit.http import MAX_BODY
from edgehive.kube import usage
from edgehive.kube.client import PatchType
from edgehive.kube.errors import ApiError, MethodNotAllowed, NotFound, ServerError
from edgehive.kube.server import answers, bodies, discovery, negotiation, swagger, urls
from edgehive.kube.server.answers import Renderer
from edgehive.kube.server.api import Api, success
from edgehive.kube.server.auth import Authenticator, impersonated
from edgehive.kube.server.connect import CONNECTED, Connect
from edgehive.kube.server.identity import Attributes, User
from edgehive.kube.server.metrics_api import MetricsApi
from edgehive.kube.server.negotiation import Representation, View
from edgehive.kube.server.openapi import OpenApi
from edgehive.kube.server.options import Call
from edgehive.kube.server.urls import ResourcePath

log = logging.getLogger("edgehive.kube.server")

VERSION: Mapping[str, str] = {
    "major": "1",
    "minor": "32",
    "gitVersion": "v1.32.10",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "",
    "compiler": "python",
    "platform": "linux",
}
_OBJECT_VIEWS = frozenset({View.TABLE, View.METADATA})
_LIST_VIEWS = frozenset({View.TABLE, View.METADATA_LIST})
_WATCH_VIEWS = frozenset({View.TABLE, View.METADATA, View.METADATA_LIST})
_PATHS = ("/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz",
          "/version")  # fmt: skip
_HEALTH = ("/healthz", "/livez", "/readyz")
_JSON_HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
#: Kinds whose DELETE answers with the object even when it is gone.
_RETURN_DELETED = frozenset({
    "pods", "services", "podtemplates", "serviceaccounts", "persistentvolumeclaims", "persistentvolumes",
    "resourcequotas",
})  # fmt: skip

Handler = Callable[[web.Request, Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class RestParts:
    """What the face is made of."""

    api: Api
    authenticator: Authenticator
    connect: Connect
    usage: MetricsApi
    clock: Clock
    metrics: CollectorRegistry
    ready: Callable[[], bool]
    #: What is said of a resource that is not served, where that is more than that.
    absent: Callable[[ResourcePath], ApiError] | None = None


class Rest:
    """Build `application` once per server."""

    def __init__(self, parts: RestParts) -> None:
        self._parts = parts
        self._api = parts.api
        self._openapi = OpenApi(parts.api.catalog)
        self._streams: set[asyncio.Task[Any]] = set()
        self._on_collection: Mapping[str, Handler] = {
            "GET": self._list_or_watch, "POST": self._create, "DELETE": self._delete_collection,
        }  # fmt: skip
        self._on_object: Mapping[str, Handler] = {
            "GET": self._get, "PUT": self._update, "PATCH": self._patch, "DELETE": self._delete,
            "POST": self._create,
        }  # fmt: skip

    def application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_BODY)
        application.on_shutdown.append(self._end_streams)
        application.router.add_route("*", "/{path:.*}", self._handle)
        return application

    async def _end_streams(self, _: web.Application) -> None:
        """Watches and connections that pass through would otherwise hold up the server's end as long as it may take."""
        for task in self._streams:
            task.cancel()

    @contextmanager
    def _streaming(self) -> Iterator[None]:
        """The request is answered until somebody leaves."""
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            yield
        finally:
            self._streams.discard(task)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        """Every request; whatever goes wrong becomes a Status."""
        try:
            user = impersonated(self._parts.authenticator.authenticate(request), request, self._api.authorizer)
            response = await self._route(request, user)
        except ApiError as error:
            return _failure(error.status)
        except ConnectionResetError:
            raise
        except Exception:
            log.exception("a request failed", extra={"path": request.path})
            return _failure(ServerError("Internal error occurred: see the server's log").status)
        return response

    async def _route(self, request: web.Request, user: User) -> web.StreamResponse:
        place = urls.read(request.path)
        if place is None:
            return self._non_resource(request, user)
        served = self._api.catalog.find(place.group, place.version, place.plural)
        if served is None:
            raise _no_such_resource() if self._parts.absent is None else self._parts.absent(place)
        call = Call(user, served, place.namespace, place.name, place.subresource)
        if place.namespace and not served.resource.namespaced and served.storage != "namespaces":
            raise _no_such_resource()
        response = await self._dispatch(request, call, place)
        if not response.prepared:
            for warning in dict.fromkeys(call.warnings):
                response.headers.add("Warning", f"299 - {_quoted(warning)}")
            response.headers["Audit-Id"] = str(uuid.uuid4())
        return response

    async def _dispatch(self, request: web.Request, call: Call, place: ResourcePath) -> web.StreamResponse:
        if call.subresource in CONNECTED:
            with self._streaming():
                return await self._parts.connect.answer(request, call)
        if call.served.resource.group == usage.GROUP:
            return await self._used(request, call)
        if place.watch or (
            call.name and not call.subresource and bodies.wants_watch(request) and request.method == "GET"
        ):
            return await self._watch(request, call)
        handler = (self._on_object if call.name else self._on_collection).get(request.method)
        if handler is None:
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        return await handler(request, call)

    # ------------------------------------------------------------------ resources

    async def _get(self, request: web.Request, call: Call) -> web.StreamResponse:
        wanted = _accepted(request, _OBJECT_VIEWS)
        answer = await self._api.get(call)
        return _answer(self._renderer(request, call, wanted).one(answer.document), wanted)

    async def _list_or_watch(self, request: web.Request, call: Call) -> web.StreamResponse:
        if bodies.wants_watch(request):
            return await self._watch(request, call)
        wanted = _accepted(request, _LIST_VIEWS)
        page = await self._api.select(call, bodies.list_options(request))
        return _answer(self._renderer(request, call, wanted).page(page), wanted)

    async def _used(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Metrics: read alone, and never watched."""
        if request.method != "GET" or call.subresource or bodies.wants_watch(request):
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        self._api.authorize(call, "get" if call.name else "list")
        wanted = _accepted(request, _OBJECT_VIEWS if call.name else _LIST_VIEWS)
        renderer = self._renderer(request, call, wanted)
        if call.name:
            return _answer(renderer.one(await self._parts.usage.get(call)), wanted)
        return _answer(renderer.page(await self._parts.usage.select(call, bodies.list_options(request))), wanted)

    async def _watch(self, request: web.Request, call: Call) -> web.StreamResponse:
        wanted = _accepted(request, _WATCH_VIEWS)
        renderer = self._renderer(request, call, wanted)
        try:
            stream = await self._api.watch(call, bodies.list_options(request))
        except ApiError as error:
            if error.code != 410:
                raise
            return web.Response(body=answers.error_line(error.to_dict()), headers=_JSON_HEADERS)
        response = web.StreamResponse(headers=_JSON_HEADERS)
        await response.prepare(request)
        try:
            async with aclosing(stream):
                with self._streaming():
                    async for batch in stream:
                        await response.write(b"".join(renderer.event(event) for event in batch))
        except ApiError as error:
            await response.write(answers.error_line(error.to_dict()))
        await response.write_eof()
        return response

    async def _create(self, request: web.Request, call: Call) -> web.StreamResponse:
        wanted = _accepted(request, _OBJECT_VIEWS)
        if call.name and not call.subresource:
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        _take_write_options(request, call)
        answer = await self._api.create(call, await bodies.read_object(request, call))
        return _answer(self._renderer(request, call, wanted).one(answer.document), wanted, answer.code)

    async def _update(self, request: web.Request, call: Call) -> web.StreamResponse:
        wanted = _accepted(request, _OBJECT_VIEWS)
        _take_write_options(request, call)
        answer = await self._api.update(call, await bodies.read_object(request, call))
        return _answer(self._renderer(request, call, wanted).one(answer.document), wanted, answer.code)

    async def _patch(self, request: web.Request, call: Call) -> web.StreamResponse:
        wanted = _accepted(request, _OBJECT_VIEWS)
        language = negotiation.patch_type(request.headers.get("Content-Type", ""))
        if language is PatchType.APPLY:
            raise negotiation.no_server_side_apply()
        _take_write_options(request, call)
        patch = await bodies.read_patch(request, call.served.resource.kind)
        answer = await self._api.patch(call, language, patch)
        return _answer(self._renderer(request, call, wanted).one(answer.document), wanted, answer.code)

    async def _delete(self, request: web.Request, call: Call) -> web.StreamResponse:
        wanted = _accepted(request, frozenset())
        options, call.dry_run = await bodies.delete_options(request)
        removal = await self._api.delete(call, options)
        if removal.gone and call.served.storage not in _RETURN_DELETED:
            return _answer(answers.render(success(call, removal).to_dict(), wanted), wanted)
        return _answer(self._renderer(request, call, wanted).one(removal.stored.document), wanted)

    async def _delete_collection(self, request: web.Request, call: Call) -> web.StreamResponse:
        wanted = _accepted(request, frozenset())
        options, call.dry_run = await bodies.delete_options(request)
        page = await self._api.delete_collection(call, options, bodies.list_options(request))
        return _answer(self._renderer(request, call, wanted).page(page), wanted)

    def _renderer(self, request: web.Request, call: Call, wanted: Representation) -> Renderer:
        return Renderer(call.served, wanted, self._parts.clock.now(), request.query.get("includeObject", ""))

    # ------------------------------------------------------------------ everything else

    def _non_resource(self, request: web.Request, user: User) -> web.Response:
        path = request.path.rstrip("/") or "/"
        self._api.authorize_path(Attributes(user, request.method.lower(), path=path))
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        if path.startswith(_HEALTH):
            return self._health(request, path)
        if path == "/metrics":
            return web.Response(body=generate_latest(self._parts.metrics), content_type="text/plain")
        if path == "/openapi/v2":
            return self._swagger(request)
        if path.startswith("/openapi/v3"):
            return self._open_api(path.removeprefix("/openapi/v3").strip("/"))
        value = self._described(request, path)
        if isinstance(value, web.Response):
            return value
        if value is None:
            raise _no_such_resource()
        return _answer(answers.render(value, Representation()), Representation())

    def _health(self, request: web.Request, path: str) -> web.Response:
        ready = self._parts.ready()
        name = path.split("/")[1]
        if not ready and name == "readyz":
            return web.Response(status=500, text="[-]store failed: the server is starting\nreadyz check failed\n")
        if "verbose" in request.query:
            return web.Response(text=f"[+]ping ok\n[+]store ok\n{name} check passed\n")
        return web.Response(text="ok")

    def _swagger(self, request: web.Request) -> web.Response:
        accepted = request.headers.get("Accept", "")
        if any(name in accepted for name in swagger.ASKED_FOR):
            return web.Response(body=swagger.protobuf(VERSION["gitVersion"]), content_type=swagger.PROTOBUF)
        return _answer(answers.render(swagger.document(VERSION["gitVersion"]), Representation()), Representation())

    def _open_api(self, path: str) -> web.Response:
        if not path:
            return _answer(answers.render(self._openapi.index(), Representation()), Representation())
        document = self._openapi.document(path)
        if document is None:
            raise _no_such_resource()
        return _answer(document, Representation())

    def _described(self, request: web.Request, path: str) -> Any:
        """Version and discovery documents; None for an unknown path."""
        catalog, parts = self._api.catalog, path.strip("/").split("/")
        if path == "/version":
            return VERSION
        if path in ("/api", "/apis"):
            return self._roots(request, core=path == "/api")
        if path == "/":
            return {"paths": list(_PATHS)}
        if parts[0] == "api" and len(parts) == 2:
            return self._resources("", parts[1])
        if parts[0] == "apis" and len(parts) == 2:
            return discovery.group(catalog, parts[1])
        if parts[0] == "apis" and len(parts) == 3:
            return self._resources(parts[1], parts[2])
        return None

    def _roots(self, request: web.Request, *, core: bool) -> Any:
        wanted = _accepted(request, frozenset({View.DISCOVERY}))
        if wanted.view is View.DISCOVERY:
            body = discovery.aggregated(self._api.catalog, core=core, version=wanted.version)
            return _answer(answers.render(body, wanted), wanted)
        return discovery.core_versions(request.host) if core else discovery.group_list(self._api.catalog)

    def _resources(self, group: str, version: str) -> Any:
        served = self._api.catalog.groups().get(group, {}).get(version)
        return discovery.resource_list(group, version, served) if served else None


def _accepted(request: web.Request, views: frozenset[View]) -> Representation:
    return negotiation.accepted(request.headers.get("Accept", ""), views=views)


def _take_write_options(request: web.Request, call: Call) -> None:
    """Raises Invalid."""
    bodies.check_write(request)
    call.dry_run = bodies.is_dry_run(request)
    call.field_validation = bodies.field_validation(request)
    agent = request.headers.get("User-Agent", "").partition("/")[0]
    call.field_manager = request.query.get("fieldManager") or agent


def _answer(body: bytes, wanted: Representation, code: int = 200) -> web.Response:
    return web.Response(
        body=body, status=code, headers={"Content-Type": wanted.content_type, "Cache-Control": "no-cache, private"}
    )


def _failure(status: Status) -> web.Response:
    headers = dict(_JSON_HEADERS)
    if status.details is not None and status.details.retry_after_seconds:
        headers["Retry-After"] = str(status.details.retry_after_seconds)
    body = answers.render(status.to_dict(), Representation())
    return web.Response(body=body, status=status.code or 500, headers=headers)


def _no_such_resource() -> NotFound:
    return NotFound("the server could not find the requested resource", details=StatusDetails())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'
