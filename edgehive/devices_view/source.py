"""Where `edgehive devices` has its objects from: listed once, or followed by list and watch.

The API may go away meanwhile: what was known is kept, and `Followed.trouble` says since when and why. It never writes.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from edgehive.api.document import Document
from edgehive.api.registry import DEVICE_MODELS, DEVICE_STATUSES, DEVICES, ApiResource
from edgehive.devices_view.choice import Scope, Unusable
from edgehive.devices_view.rows import Kinds
from edgehive.edgesite.layout import DEFAULT_DATA, Layout
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import Clock
from edgehive.kube import kubeconfig
from edgehive.kube.client import DocumentList, Reader, WatchEvent
from edgehive.kube.errors import ApiError, Gone, NotFound, qualified
from edgehive.kube.informer import Informer

#: Where a site on this machine keeps the way to its API.
SITE_KUBECONFIG = Layout(DEFAULT_DATA).kubeconfig
#: No object has this name: a list of nothing shows that the API answers.
_NOBODY = "metadata.name=edgehive-probe"


class Trouble(NamedTuple):
    """The API does not answer."""

    since: datetime
    reason: str


def access(path: str) -> kubeconfig.ClusterAccess:
    """As other tools find the API; where nobody says anything, the site on this machine. Raises KubeconfigError."""
    try:
        return kubeconfig.load(path)
    except kubeconfig.NothingConfigured as error:
        if os.access(SITE_KUBECONFIG, os.F_OK):
            return kubeconfig.load(SITE_KUBECONFIG)
        raise kubeconfig.NothingConfigured(f"{error}; `edgesite up` makes a cluster on this machine") from None


# Once


@dataclass(frozen=True, slots=True)
class Listed:
    """Objects of one kind as they were."""

    documents: dict[tuple[str, str], Document]

    @classmethod
    def of(cls, documents: list[Document]) -> "Listed":
        return cls({(document.meta.namespace, document.meta.name): document for document in documents})

    def get(self, name: str, namespace: str = "") -> Document | None:
        return self.documents.get((namespace, name))

    def items(self, namespace: str = "") -> list[Document]:
        return [document for key, document in self.documents.items() if namespace in ("", key[0])]


async def listed(client: Reader, scope: Scope) -> Kinds:
    """Everything as it is now; raises Unusable."""
    return Kinds(
        devices=await _list(client, DEVICES, scope.namespace, scope.selector),
        models=await _list(client, DEVICE_MODELS, scope.namespace),
        statuses=await _list(client, DEVICE_STATUSES, scope.namespace),
    )


async def _list(client: Reader, resource: ApiResource, namespace: str, selector: str = "") -> Listed:
    try:
        return Listed.of((await client.list(resource, namespace, label_selector=selector)).items)
    except NotFound:
        kind = f"{qualified(resource.plural, resource.group)} ({resource.version})"
        raise Unusable(
            f"this API does not serve {kind}: edgehive's cloudcore and edgesite define it when they start; "
            "beside a stock cloudcore apply KubeEdge's build/crds/devices"
        ) from None
    except ApiError as error:
        raise Unusable(f"cannot list {resource.plural}: {error}") from None


# On and on


class Followed:
    """Entering follows the API until it is left; `kinds` is what is known."""

    def __init__(self, client: Reader, scope: Scope, clock: Clock) -> None:
        self._noticing = _Noticing(client, clock)
        self._devices = self._informer(DEVICES, scope.namespace, scope.selector)
        self._models = self._informer(DEVICE_MODELS, scope.namespace)
        self._statuses = self._informer(DEVICE_STATUSES, scope.namespace)
        self._informers = (self._devices, self._models, self._statuses)
        self._group = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []
        self.kinds = Kinds(self._devices, self._models, self._statuses)

    @property
    def trouble(self) -> Trouble | None:
        return self._noticing.trouble

    @property
    def synced(self) -> bool:
        """Whether `kinds` is complete."""
        return all(informer.synced for informer in self._informers)

    @property
    def versions(self) -> tuple[str, ...]:
        """Others after every change."""
        return tuple(informer.resource_version for informer in self._informers)

    async def __aenter__(self) -> "Followed":
        await self._group.__aenter__()
        for one in self._informers:
            self._tasks.append(self._group.create_task(one.run(), name=f"informer {one.resource.plural}"))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        # Given the error, the group would wrap it; so it goes on to the caller as it is.
        await self._group.__aexit__(None, None, None)

    def _informer(self, resource: ApiResource, namespace: str, selector: str = "") -> Informer:
        # Somebody is looking at it: a server that is back is to be seen soon.
        backoff = Backoff(first=0.5, factor=2.0, limit=4.0, jitter=0.3)
        return Informer(self._noticing, resource, namespace, label_selector=selector, backoff=backoff)


class _Noticing:
    """A client that remembers since when it gets no answers."""

    def __init__(self, client: Reader, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._failing: dict[ApiResource, Trouble] = {}

    @property
    def trouble(self) -> Trouble | None:
        return min(self._failing.values(), default=None)

    async def list(
        self,
        resource: ApiResource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
    ) -> DocumentList:
        with self._noticed(resource):
            answer = await self._client.list(
                resource,
                namespace,
                label_selector=label_selector,
                field_selector=field_selector,
                resource_version=resource_version,
            )
            self._failing.pop(resource, None)
            return answer

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
        if resource in self._failing:
            # A watch that says nothing may be one of a server that is back, or not.
            await self.list(resource, namespace, field_selector=_NOBODY)
        with self._noticed(resource):
            async for event in self._client.watch(
                resource,
                namespace,
                resource_version=resource_version,
                label_selector=label_selector,
                field_selector=field_selector,
                timeout=timeout,
            ):
                yield event

    @contextlib.contextmanager
    def _noticed(self, resource: ApiResource) -> Iterator[None]:
        try:
            yield
        except Gone:
            raise
        except ApiError as error:
            earlier = self._failing.get(resource)
            self._failing[resource] = Trouble(earlier.since if earlier else self._clock.now(), str(error))
            raise
