"""Requests that reach through the API server: logs, exec, attach, port-forward, and the proxies.

Each finds what stands behind it, asks for authorization first, and leaves the bytes to `backends`.

Go: pkg/registry/core/pod/rest/{log,subresources}.go, pkg/registry/core/{node,service}/rest
"""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from aiohttp import web
from prometheus_client import CollectorRegistry

from edgehive.kit import metrics
from edgehive.kit.relay import is_upgrade
from edgehive.kube.errors import ApiError, BadRequest, MethodNotAllowed, NotFound, TooManyRequests
from edgehive.kube.server import pod_streams, urls
from edgehive.kube.server.backends import Backend, Backends
from edgehive.kube.server.kubelets import Kubelets
from edgehive.kube.server.options import Call

#: Subresources that are answered from behind the server.
CONNECTED: Final = frozenset({"log", "exec", "attach", "portforward", "proxy"})
_VERBS: Final = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
#: Connections passed through at once; one whose reader stands still holds 1.2 MiB.
_MAX_OPEN: Final = 256

Authorize = Callable[[Call, str], None]


class Connect:
    """Answers what `CONNECTED` names."""

    def __init__(
        self, kubelets: Kubelets, backends: Backends, authorize: Authorize, registry: CollectorRegistry
    ) -> None:
        self._kubelets = kubelets
        self._backends = backends
        self._authorize = authorize
        labels = ("resource", "subresource")
        self._open = metrics.gauge(
            "edgehive_apiserver_connections", "Connections passed through now", labels, registry=registry
        )
        self._answered = metrics.counter(
            "edgehive_apiserver_connect_total", "Requests passed through", (*labels, "code"), registry=registry
        )
        self._count = 0

    async def answer(self, request: web.Request, call: Call) -> web.StreamResponse:
        """Raises every ApiError."""
        if call.subresource not in call.served.resource.subresources:
            raise NotFound("the server could not find the requested resource")
        self._check(request, call)
        if self._count >= _MAX_OPEN:
            raise TooManyRequests(f"{_MAX_OPEN} connections are passed through already; try again later")
        labels = call.served.resource.plural, call.subresource
        self._count += 1
        self._open.labels(*labels).inc()
        code = 500
        try:
            response = await self._find(call)(request, call)
            code = response.status
            return response
        except ApiError as error:
            code = error.status.code
            raise
        finally:
            self._count -= 1
            self._open.labels(*labels).dec()
            self._answered.labels(*labels, str(code)).inc()

    def _check(self, request: web.Request, call: Call) -> None:
        """Streams into containers need `create`, whatever the method: a WebSocket can only be asked for by GET."""
        streams = call.subresource in ("exec", "attach", "portforward")
        allowed = ("GET",) if call.subresource == "log" else ("GET", "POST") if streams else tuple(_VERBS)
        if request.method not in allowed:
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        self._authorize(call, _VERBS[request.method])
        if streams and request.method == "GET":
            self._authorize(call, "create")

    def _find(self, call: Call) -> Callable[[web.Request, Call], Coroutine[Any, Any, web.StreamResponse]]:
        if call.subresource == "proxy":
            return self._proxy
        return self._log if call.subresource == "log" else self._stream

    async def _log(self, request: web.Request, call: Call) -> web.StreamResponse:
        pod = self._kubelets.pod(call.namespace, call.name)
        target = pod_streams.log_target(pod, list(request.query.items()))
        return await self._backends.pass_on(request, self._kubelets.of_pod(pod), target, raw=False)

    async def _stream(self, request: web.Request, call: Call) -> web.StreamResponse:
        pod = self._kubelets.pod(call.namespace, call.name)
        target = pod_streams.stream_target(call.subresource, pod, list(request.query.items()))
        backend = self._kubelets.of_pod(pod)
        if not is_upgrade(request):
            raise BadRequest("Upgrade request required")
        protocols = request.headers.getall("Sec-WebSocket-Protocol", ())
        pod_streams.check_protocols(request.headers.get("Upgrade", ""), protocols)
        return await self._backends.upgrade(request, backend, target)

    async def _proxy(self, request: web.Request, call: Call) -> web.StreamResponse:
        prefix, target = urls.split_behind(request.raw_path, 7 if call.served.resource.namespaced else 5)
        backend = self._proxied(call)
        if not target.startswith("/") and request.method in ("GET", "HEAD"):
            # Relative links of the page below would otherwise miss the last part.
            return web.Response(status=301, headers={"Location": f"{prefix}/{target}"})
        if not target.startswith("/"):
            target = f"/{target}"
        if is_upgrade(request):
            return await self._backends.upgrade(request, backend, target)
        return await self._backends.pass_on(request, backend, target, prefix=prefix)

    def _proxied(self, call: Call) -> Backend:
        match call.served.storage:
            case "nodes":
                return self._kubelets.proxied_node(call.name)
            case "pods":
                return self._kubelets.proxied_pod(call.namespace, call.name)
        return self._kubelets.proxied_service(call.namespace, call.name)
