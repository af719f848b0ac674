"""The way from the API to a node's kubelet: container logs.

Which address a node answers at is told by a function given from outside (a site dials its edge node, a cluster
its tunnel). Streams into containers (exec, attach, port-forward) are refused with a clear answer.

Go: pkg/registry/core/pod/strategy.go (LogLocation), k8s.io/apiserver/pkg/registry/generic/rest/streamer.go
"""

from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
from aiohttp import web

from edgehive.api.document import Document
from edgehive.api.meta import Status, StatusDetails
from edgehive.kube.errors import ApiError, BadRequest, ServerError, ServiceUnavailable, not_found
from edgehive.kube.server.options import Call
from edgehive.kube.store import Key, Store

#: The base URL of a node's kubelet, None where there is no way.
KubeletAddress = Callable[[Document], str | None]

_PASSED_ON = ("follow", "previous", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "timestamps", "stream")
_CHUNK = 64 * 1024
_CONNECT_TIMEOUT = 10


def not_offered(call: Call) -> ApiError:
    """501 for what is not built yet."""
    return ApiError(
        status=Status(
            message=f"this server does not offer {call.served.resource.plural}/{call.subresource}",
            reason="NotImplemented",
            code=501,
            details=StatusDetails(name=call.name, kind=call.served.resource.plural),
        )
    )


def log_container(pod: Mapping[str, Any], asked: str) -> str:
    """The container whose log is meant; raises BadRequest."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    groups = ("containers", "initContainers", "ephemeralContainers")
    known = [item["name"] for group in groups for item in spec.get(group) or ()]
    if asked:
        if asked not in known:
            raise BadRequest(f"container {asked} is not valid for pod {name}")
        return asked
    annotated = (pod["metadata"].get("annotations") or {}).get("kubectl.kubernetes.io/default-container")
    if annotated in known:
        return str(annotated)
    if len(spec.get("containers") or ()) == 1:
        return str(spec["containers"][0]["name"])
    listed = " ".join(item["name"] for item in spec.get("containers") or ())
    raise BadRequest(f"a container name must be specified for pod {name}, choose one of: [{listed}]")


class KubeletProxy:
    """Streams a pod's log from the kubelet of its node."""

    def __init__(self, store: Store, address: KubeletAddress | None) -> None:
        self._store = store
        self._address = address

    async def log(self, call: Call, request: web.Request) -> web.StreamResponse:
        """`pods/NAME/log`; raises NotFound, BadRequest, ServiceUnavailable."""
        stored = self._store.get(Key("pods", call.namespace, call.name))
        if stored is None:
            raise not_found("pods", "", call.name)
        pod = stored.to_dict()
        container = log_container(pod, request.query.get("container", ""))
        node = pod["spec"].get("nodeName")
        if not node:
            raise BadRequest(f'pod "{call.name}" is not assigned to a node yet, so it has no log')
        query = [(key, request.query[key]) for key in _PASSED_ON if key in request.query]
        base = self._base(node)
        return await _relay(request, f"{base}/containerLogs/{call.namespace}/{call.name}/{container}", query)

    def _base(self, node: str) -> str:
        stored = self._store.get(Key("nodes", "", node))
        base = self._address(stored.document) if stored is not None and self._address is not None else None
        if base is None:
            raise ServiceUnavailable(f'there is no way to the kubelet of node "{node}" from here')
        return base.rstrip("/")


async def _relay(request: web.Request, url: str, query: list[tuple[str, str]]) -> web.StreamResponse:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(url, params=query) as upstream,
        ):
            if upstream.status != 200:
                text = (await upstream.content.read(_CHUNK)).decode(errors="replace").strip()
                raise BadRequest(text) if upstream.status < 500 else ServerError(text)
            response = web.StreamResponse(headers={"Content-Type": "text/plain"})
            await response.prepare(request)
            async for chunk in upstream.content.iter_chunked(_CHUNK):
                await response.write(chunk)
            await response.write_eof()
            return response
    except aiohttp.ClientConnectionError as error:
        raise ServiceUnavailable(f"the kubelet at {url} does not answer: {error}") from error
