"""What a fleet is given to do, and what the API shows of it: pods and ConfigMaps by an ordinary client.

The run's label marks everything made here; `clean` removes it, and the nodes' own objects too.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import perf_counter
from typing import TypeVar

from edgehive.api.core import Pod, Secret
from edgehive.api.registry import CONFIG_MAPS, LEASES, NODES, PODS, SECRETS, ApiResource
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client
from edgehive.kube.errors import NotFound
from edgehive.kube.informer import Informer
from edgehive.testing.fleet import objects
from edgehive.testing.fleet.journal import Journal

T = TypeVar("T")
Advance = Callable[[], None]


class TokenMissing(Exception):
    """The cluster holds no join token; the text says what to do."""


async def join_token(client: Client) -> str:
    """The token cloudcore keeps in the cluster; raises TokenMissing."""
    try:
        secret = (await client.get(SECRETS, "tokensecret", "kubeedge")).read(Secret)
        return (secret.data or {})["tokendata"].decode()
    except (NotFound, KeyError):
        raise TokenMissing(
            "the cluster has no join token in Secret kubeedge/tokensecret: start cloudcore, or give --token"
        ) from None


class Workload:
    """An async context manager: while it is open it watches the pods of its run."""

    def __init__(self, client: Client, run: str, journal: Journal, *, at_once: int = 16) -> None:
        self._client = client
        self._run = run
        self._journal = journal
        self._at_once = at_once
        self._tasks: list[asyncio.Task[None]] = []
        #: When the creation of a pod was asked for, by name; and when the API first showed it Running or gone.
        self.created: dict[str, float] = {}
        self.running: dict[str, float] = {}
        self.gone: dict[str, float] = {}

    async def __aenter__(self) -> "Workload":
        selector = f"{objects.LABEL}={self._run}"
        informer = Informer(self._client, PODS, objects.NAMESPACE, label_selector=selector)
        self._tasks = [
            spawn(informer.run(), name="fleet's pods"),
            spawn(self._follow(informer), name="fleet's pods followed"),
        ]
        await informer.wait_synced()
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel_and_join(*self._tasks)

    async def _follow(self, informer: Informer) -> None:
        async with informer.changes() as changes:
            async for change in changes:
                pod = change.document.read(Pod)
                name = pod.metadata.name
                if change.new is None:
                    self.gone.setdefault(name, perf_counter())
                    self._journal.count("pods gone from the API")
                elif pod.status.phase == "Running" and name not in self.running:
                    self.running[name] = perf_counter()
                    self._journal.count("pods seen Running")

    async def create_pods(self, pods: Sequence[tuple[str, str]], advance: Advance, config_map: str = "") -> None:
        """Names and nodes."""

        async def create(pod: tuple[str, str]) -> None:
            name, node = pod
            self.created[name] = perf_counter()
            body = objects.pod(name, node, self._run, config_map)
            await self._client.create(PODS, body, objects.NAMESPACE)

        await each(pods, create, self._at_once, advance)

    async def delete_pods(self, names: Sequence[str], advance: Advance) -> None:
        """Gracefully: their nodes are asked first."""

        async def delete(name: str) -> None:
            with contextlib.suppress(NotFound):
                await self._client.delete(PODS, name, objects.NAMESPACE, grace_period_seconds=1)

        await each(names, delete, self._at_once, advance)

    def forget(self, names: Iterable[str]) -> None:
        """They are to be created anew."""
        for name in names:
            for seen in (self.created, self.running, self.gone, self._journal.delivered, self._journal.gone):
                seen.pop(name, None)

    async def write_config_map(self, name: str, revision: int) -> int:
        """Create or replace; gives its version."""
        body = objects.config_map(name, self._run, revision)
        try:
            written = await self._client.update(CONFIG_MAPS, body, objects.NAMESPACE)
        except NotFound:
            written = await self._client.create(CONFIG_MAPS, body, objects.NAMESPACE)
        return int(written.meta.resource_version)

    async def nodes_left_alone(self, seconds: float, patience: float) -> bool:
        """Wait until no Node has been written for so long; False when that does not come."""
        before: list[str] = []
        for _ in range(int(patience / seconds)):
            now = [node.meta.resource_version for node in (await self._client.list(NODES)).items]
            if now == before:
                return True
            before = now
            await asyncio.sleep(seconds)
        return False

    async def clean(self, nodes: Sequence[str], advance: Advance) -> None:
        """Remove the run's pods and ConfigMaps, then the nodes and their leases."""
        selector = f"{objects.LABEL}={self._run}"
        found = [
            (resource, item.meta.name)
            for resource in (PODS, CONFIG_MAPS)
            for item in (await self._client.list(resource, objects.NAMESPACE, label_selector=selector)).items
        ]

        async def remove(one: tuple[ApiResource, str]) -> None:
            with contextlib.suppress(NotFound):
                await self._client.delete(*one, objects.NAMESPACE, grace_period_seconds=0)

        await each(found, remove, self._at_once, advance)

        async def remove_node(name: str) -> None:
            with contextlib.suppress(NotFound):
                await self._client.delete(NODES, name)
            with contextlib.suppress(NotFound):
                await self._client.delete(LEASES, name, objects.LEASE_NAMESPACE)

        await each(nodes, remove_node, self._at_once, advance)


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]], at_once: int, advance: Advance) -> None:
    """Do the work on every item, `at_once` at a time; the first error ends it."""
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)
            advance()

    workers = [spawn(worker(), name=f"fleet worker {number}") for number in range(at_once)]
    try:
        await asyncio.gather(*workers)
    finally:
        await cancel_and_join(*workers)
