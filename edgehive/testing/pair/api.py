"""The API as one life of cloudcore reaches it: it may be away, refuse, break its watches, or see cloudcore die.

A write is carried out or not, and its answer never arrives: that is what a crash between two writes looks like.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from edgehive.api.document import Document
from edgehive.api.registry import ApiResource
from edgehive.kube.client import Body, Client, DocumentList, WatchEvent
from edgehive.kube.errors import ApiError, Unreachable
from edgehive.testing.pair.runtime import Life
from edgehive.testing.pair.story import Story


class ApiWeather:
    """What happens to requests of any life of cloudcore."""

    def __init__(self) -> None:
        self.away = False
        #: Of the next writes: fail with these.
        self.errors: list[ApiError] = []
        #: Seconds each request takes.
        self.latency = 0.0
        self.requests = 0
        self.watches = asyncio.Event()
        self._left: int | None = None
        self._performed = False

    def crash_after(self, writes: int, *, performed: bool) -> None:
        self._left, self._performed = writes, performed

    def break_watches(self) -> None:
        self.watches.set()
        self.watches = asyncio.Event()

    def heal(self) -> None:
        self.away, self.latency, self._left = False, 0.0, None
        self.errors.clear()

    def deadly(self) -> str:
        """Whether this write is the last: "before", "after" or ""."""
        if self._left is None:
            return ""
        self._left -= 1
        if self._left >= 0:
            return ""
        self._left = None
        return "after" if self._performed else "before"


class CloudsClient:
    """A `Client` for one life of cloudcore."""

    def __init__(
        self,
        client: Client,
        weather: ApiWeather,
        life: Life,
        story: Story,
        chance: random.Random,
        crash: Callable[[], None],
    ) -> None:
        self._client = client
        self._weather = weather
        self._life = life
        self._story = story
        self._chance = chance
        self._crash = crash

    async def get(self, resource: ApiResource, *arguments: Any, **options: Any) -> Document:
        await self._on_the_way()
        found: Document = await self._client.get(resource, *arguments, **options)
        return found

    async def list(self, resource: ApiResource, *arguments: Any, **options: Any) -> DocumentList:
        await self._on_the_way()
        found: DocumentList = await self._client.list(resource, *arguments, **options)
        return found

    async def watch(self, resource: ApiResource, *arguments: Any, **options: Any) -> AsyncIterator[WatchEvent]:
        await self._on_the_way()
        broken = self._weather.watches
        async with aclosing(self._client.watch(resource, *arguments, **options)) as stream:  # type: ignore[type-var]
            async for event in stream:
                if broken.is_set() or not self._life.alive:
                    raise Unreachable("the watch broke")
                yield event

    async def create(self, resource: ApiResource, body: Body, *arguments: Any, **options: Any) -> Document:
        made: Document = await self._write(
            "create", resource, _name(body) or options.get("name", ""),
            lambda: self._client.create(resource, body, *arguments, **options),
        )  # fmt: skip
        return made

    async def update(self, resource: ApiResource, body: Body, *arguments: Any, **options: Any) -> Document:
        made: Document = await self._write(
            "update", resource, _name(body), lambda: self._client.update(resource, body, *arguments, **options)
        )
        return made

    async def patch(self, resource: ApiResource, name: str, *arguments: Any, **options: Any) -> Document:
        made: Document = await self._write(
            "patch", resource, name, lambda: self._client.patch(resource, name, *arguments, **options)
        )
        return made

    async def delete(self, resource: ApiResource, name: str, *arguments: Any, **options: Any) -> Document | None:
        left: Document | None = await self._write(
            "delete", resource, name, lambda: self._client.delete(resource, name, *arguments, **options)
        )
        return left

    async def _write(self, verb: str, resource: ApiResource, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        await self._on_the_way()
        if self._weather.errors:
            raise self._weather.errors.pop()
        deadly = self._weather.deadly()
        if deadly:
            self._story.tell("api", f"cloudcore dies {deadly} {verb} of {resource.kind} {name}")
        if deadly == "before":
            await self._die()
        try:
            answer = await work()
        except ApiError as error:
            self._story.tell("api", f"{verb} {resource.kind} {name}: {error}", name)
            raise
        self._story.tell("api", f"{verb} {resource.kind} {name}", name)
        if deadly:
            await self._die()
        return answer

    async def _on_the_way(self) -> None:
        weather = self._weather
        weather.requests += 1
        await asyncio.sleep(weather.latency * self._chance.random())
        if weather.away or not self._life.alive:
            raise Unreachable("the API server does not answer")

    async def _die(self) -> None:
        self._crash()
        await asyncio.Event().wait()


def _name(body: Body) -> str:
    if isinstance(body, Document):
        return body.meta.name
    if isinstance(body, bytes):
        return Document(body).meta.name
    return str((body.get("metadata") or {}).get("name", ""))
