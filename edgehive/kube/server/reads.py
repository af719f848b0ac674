"""get, list and watch over a store: consistent pages, revisions, bookmarks.

Go: k8s.io/apiserver/pkg/storage/etcd3/store.go, .../storage/cacher
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from edgehive.api.document import Document
from edgehive.api.meta import Status
from edgehive.kube.client import EventType, WatchEvent
from edgehive.kube.errors import ApiError, Gone, not_found
from edgehive.kube.server import listing, schema, versions
from edgehive.kube.server.catalog import Served
from edgehive.kube.server.listing import Filter
from edgehive.kube.server.options import Call, ListOptions, Page
from edgehive.kube.store import Expired, Key, Store, Stored, Watch

_REVISION_PATIENCE = 3.0
_BOOKMARK_INTERVAL = 60.0
#: A timer may end this much early; a mark this near is due, or the rest of the wait would be too short to pass.
_CLOCK_STEP = 0.001
_LAST_BOOKMARK = 2.0
_SHORTEST_WATCH, _LONGEST_WATCH = 1800, 3600
_INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}


def key_of(call: Call) -> Key:
    return Key(call.served.storage, call.namespace if call.served.resource.namespaced else "", call.name)


class Reader:
    """The read verbs."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, call: Call) -> Stored:
        """The current object; raises NotFound."""
        stored = self._store.get(key_of(call))
        if stored is None:
            row = call.served.resource
            raise not_found(row.plural, row.group, call.name)
        return in_version(call.served, stored)

    async def select(self, call: Call, options: ListOptions) -> Page:
        """One page; raises Gone, Timeout, BadRequest, Invalid."""
        listing.check_options(options, watch=False)
        chosen = Filter(call.served, call.namespace, call.name, options)
        items, revision, after = await self._snapshot(call, options)
        matching = [item for item in items if chosen.matches(item)]
        if after is not None:
            matching = [item for item in matching if (item.key.namespace, item.key.name) > after]
        limit = 0 if options.resource_version == "0" and not options.continue_token else options.limit
        page, rest = (matching[:limit], len(matching) - limit) if limit else (matching, 0)
        page = [in_version(call.served, item) for item in page]
        if rest <= 0:
            return Page(page, revision)
        token = listing.write_continue(revision, page[-1])
        return Page(page, revision, token, None if chosen.selects else rest)

    async def _snapshot(self, call: Call, options: ListOptions) -> tuple[list[Stored], int, tuple[str, str] | None]:
        """The candidates, the revision they are of, and where to go on."""
        storage = call.served.storage
        if options.continue_token:
            revision, after = listing.read_continue(options.continue_token)
            if revision < 0:
                return self._store.items(storage, call.namespace), self._store.revision, after
            return await self._at(call, revision, after), revision, after
        asked = listing.parse_revision(options.resource_version)
        await self._reach(asked)
        if options.resource_version_match == "Exact":
            return await self._at(call, asked, None), asked, None
        return self._store.items(storage, call.namespace), self._store.revision, None

    async def _at(self, call: Call, revision: int, after: tuple[str, str] | None) -> list[Stored]:
        try:
            return await self._store.items_at(call.served.storage, call.namespace, revision)
        except Expired as error:
            if after is None:
                raise listing.gone(error) from error
            raise _page_expired(call, after) from error

    async def _reach(self, revision: int) -> None:
        if revision > self._store.revision and not await self._store.reached(revision, _REVISION_PATIENCE):
            raise listing.too_large(revision, self._store.revision)

    async def open_watch(self, call: Call, options: ListOptions) -> AsyncGenerator[list[WatchEvent], None]:
        """Check the request and take the start position; the answer then streams batches of events."""
        listing.check_options(options, watch=True)
        chosen = Filter(call.served, call.namespace, call.name, options)
        asked = listing.parse_revision(options.resource_version)
        await self._reach(asked)
        initial: list[Stored] = []
        since = asked
        if asked == 0 or options.send_initial_events:
            since = self._store.revision
            if options.send_initial_events is not False:
                initial = [
                    item for item in self._store.items(call.served.storage, call.namespace) if chosen.matches(item)
                ]
        try:
            watch = await self._store.watch(call.served.storage, since)
        except Expired as error:
            raise listing.gone(error) from error
        return self._stream(call.served, chosen, options, initial, watch)

    async def _stream(
        self, served: Served, chosen: Filter, options: ListOptions, initial: list[Stored], watch: Watch
    ) -> AsyncGenerator[list[WatchEvent], None]:
        loop = asyncio.get_running_loop()
        seconds = options.timeout_seconds
        deadline = loop.time() + (random.randint(_SHORTEST_WATCH, _LONGEST_WATCH) if seconds is None else seconds)  # noqa: S311
        with watch:
            first = [WatchEvent(EventType.ADDED, in_version(served, item).document) for item in initial]
            if options.send_initial_events and options.bookmarks:
                first.append(_bookmark(served, watch.revision, _INITIAL_EVENTS_END))
            if first:
                yield first
            next_mark = _next_bookmark(loop.time(), deadline)
            while (now := loop.time()) < deadline - _CLOCK_STEP:
                try:
                    batch = await watch.batch(max(0.0, min(next_mark, deadline) - now))
                except Expired as error:
                    raise listing.gone(error) from error
                events = [
                    WatchEvent(change.type, in_version(served, change.stored).document)
                    for event in batch
                    if (change := chosen.change(event)) is not None
                ]
                if not batch and next_mark - _CLOCK_STEP <= loop.time() < deadline:
                    next_mark = _next_bookmark(loop.time(), deadline)
                    if options.bookmarks:
                        events = [_bookmark(served, self._store.revision)]
                if events:
                    yield events


def _next_bookmark(now: float, deadline: float) -> float:
    last = deadline - _LAST_BOOKMARK
    return min(now + _BOOKMARK_INTERVAL, last) if now < last else deadline


def _bookmark(served: Served, revision: int, annotations: dict[str, str] | None = None) -> WatchEvent:
    metadata: dict[str, Any] = {"resourceVersion": str(revision), "creationTimestamp": None}
    if annotations:
        metadata["annotations"] = annotations
    row = served.resource
    return WatchEvent(
        EventType.BOOKMARK, Document.of({"kind": row.kind, "apiVersion": row.api_version, "metadata": metadata})
    )


def _page_expired(call: Call, after: tuple[str, str]) -> ApiError:
    """410 with a token that goes on from here at the newest revision, for clients that prefer that to nothing."""
    place = Stored(Key(call.served.storage, *after), 0, b"")
    return Gone(
        status=Status(
            message="The provided continue parameter is too old to display a consistent list result. You can start a "
            "new list without the continue parameter, or use the continue token in this response to retrieve the "
            "remainder of the results. Continuing with the provided token results in an inconsistent list - objects "
            "that were created, modified, or deleted between the time the first chunk was returned and now may show "
            "up in the list.",
            reason="Expired",
            code=410,
            metadata={"continue": listing.write_continue(-1, place)},
        )
    )


def in_version(served: Served, stored: Stored) -> Stored:
    """The object as whoever asks for it gets it: under their apiVersion, and by the schema of today."""
    if served.custom is None and not versions.converts(served.storage):
        return stored
    version = served.resource.api_version
    is_current = served.custom is None or stored.revision > served.custom.since
    if is_current and stored.document.api_version == version:
        return stored
    value = versions.converted(served.storage, stored.to_dict(), version)
    if served.custom is not None and served.custom.schema:
        schema.prune(served.custom.schema, value)
        schema.default(served.custom.schema, value)
    return Stored(stored.key, stored.revision, msgspec.json.encode(value))
