"""metrics.k8s.io/v1beta1 as an aggregated API: `kubectl top` and autoscalers ask the API server, which asks here.

Whom the front proxy names must be allowed to ask, which the API says (delegated authorization). Read only, JSON only.

Go: sigs.k8s.io/metrics-server/pkg/api, k8s.io/apiserver/pkg/endpoints/discovery
"""

import logging
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry

from edgehive.cloudcore.cloudstream.callers import Caller, Callers, Refused
from edgehive.cloudcore.cloudstream.cluster_metrics import ClusterMetrics, Wanted
from edgehive.cloudcore.cloudstream.front_proxy import FrontProxy
from edgehive.kit import metrics
from edgehive.kube.errors import (
    ApiError,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    ServiceUnavailable,
    not_found,
)
from edgehive.kube.usage import GROUP, NODE_METRICS, POD_METRICS

log = logging.getLogger("edgehive.cloudstream")

Json = dict[str, Any]

VERSION: Final = NODE_METRICS.version
_ROOT: Final = f"/apis/{GROUP}/{VERSION}"
_ABOUT_THE_REQUEST: Final = (BadRequest, NotFound, MethodNotAllowed, NotAcceptable)


class OfMetrics(NamedTuple):
    """May the caller read these metrics?"""

    verb: str
    resource: str
    namespace: str
    name: str

    @property
    def attributes(self) -> Json:
        said = self._asdict() | {"group": GROUP, "version": VERSION}
        return {"resourceAttributes": {key: value for key, value in said.items() if value}}

    @property
    def mend(self) -> str:
        return f"bind it to a role with {self.verb} on {self.resource} of {GROUP}"

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}.{GROUP}" + (f" in namespace {self.namespace}" if self.namespace else "")


class MetricsFace:
    """Answers what comes over the front proxy's connections."""

    def __init__(
        self, front: FrontProxy, callers: Callers, cluster: ClusterMetrics, registry: CollectorRegistry | None = None
    ) -> None:
        self.front = front
        self._callers = callers
        self._cluster = cluster
        self._asked = metrics.counter(
            "edgehive_metrics_requests", "Requests for metrics.k8s.io.", ["outcome"], registry=registry
        )

    async def answer(self, request: web.Request) -> web.Response:
        """Always an answer: what is wrong becomes a Status."""
        try:
            body = await self._answer(request, self.front.caller(request))
        except Refused as refused:
            return self._failure(request, refused.error)
        except _ABOUT_THE_REQUEST as error:
            return self._failure(request, error)
        except (ApiError, TimeoutError) as error:
            text = f"the API server does not answer cloudcore: {error or 'no answer in time'}"
            return self._failure(request, ServiceUnavailable(text))
        self._asked.labels("answered").inc()
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    def _failure(self, request: web.Request, error: ApiError) -> web.Response:
        self._asked.labels("refused").inc()
        log.log(
            logging.DEBUG if isinstance(error, _ABOUT_THE_REQUEST) else logging.WARNING,
            "%s %s: %s", request.method, request.path, error,
        )  # fmt: skip
        return web.json_response(error.to_dict(), status=error.code)

    async def _answer(self, request: web.Request, caller: Caller) -> Json:
        if request.method != "GET" or request.query.get("watch", "").lower() in ("1", "true"):
            raise MethodNotAllowed("metrics are only read, and not watched")
        told = _discovery(request)
        if told is not None:
            return told  # the same for everybody, and nobody's secret
        wanted = _wanted(request)
        if wanted is None:
            raise NotFound(f"{request.path} is nothing that {GROUP} has")
        verb = "get" if wanted.name else "list"
        question = OfMetrics(verb, wanted.resource.plural, wanted.namespace, wanted.name)
        await self._callers.demand(caller, question)
        found = await self._cluster.select(wanted)
        if not wanted.name:
            kind = wanted.resource.list_kind_name
            return {"kind": kind, "apiVersion": wanted.resource.api_version, "metadata": {}, "items": found}
        if not found:
            raise not_found(wanted.resource.plural, GROUP, wanted.name)
        return found[0]


def _wanted(request: web.Request) -> Wanted | None:
    """What a path under the group's root means."""
    path = request.path.removeprefix(f"{_ROOT}/")
    selectors = {"labels": request.query.get("labelSelector", ""), "fields": request.query.get("fieldSelector", "")}
    match path.split("/") if path != request.path else []:
        case ["nodes"]:
            return Wanted(NODE_METRICS, **selectors)
        case ["nodes", name] if name:
            return Wanted(NODE_METRICS, name=name)
        case ["pods"]:
            return Wanted(POD_METRICS, **selectors)
        case ["namespaces", namespace, "pods"] if namespace:
            return Wanted(POD_METRICS, namespace, **selectors)
        case ["namespaces", namespace, "pods", name] if namespace and name:
            return Wanted(POD_METRICS, namespace, name)
    return None


_GROUP_VERSION: Final = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
_API_GROUP: Final = {"name": GROUP, "versions": [_GROUP_VERSION], "preferredVersion": _GROUP_VERSION}


def _discovery(request: web.Request) -> Json | None:
    """What the API says of itself, None for other paths; raises NotAcceptable."""
    match request.path.rstrip("/"):
        case "/apis":
            accepted = [item.strip() for item in request.headers.get("Accept", "*/*").split(",")]
            if all("as=APIGroupDiscoveryList" in item for item in accepted):
                # The API server then asks for the old form.
                raise NotAcceptable("only the unaggregated form of discovery is served")
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_API_GROUP]}
        case path if path == f"/apis/{GROUP}":
            return {"kind": "APIGroup", "apiVersion": "v1"} | _API_GROUP
        case path if path == _ROOT:
            return {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{GROUP}/{VERSION}",
                "resources": [
                    {"name": row.plural, "singularName": "", "namespaced": row.namespaced, "kind": row.kind,
                     "verbs": list(row.verbs)}
                    for row in (NODE_METRICS, POD_METRICS)
                ],
            }  # fmt: skip
    return None
