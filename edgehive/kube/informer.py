"""A local copy of one kind of object, kept true by list and watch; controllers, flows and hubs read it.

It holds every object as the bytes it came in and hands out `Change`s: first everything there is, then what
happens. Each reader has its own line and a slow one sees the newest state, never a growing queue. An answer
that failed or came in part never deletes anything; only a whole, successful list does. It never writes.

Go: k8s.io/client-go/tools/cache (reflector and shared informer)
"""

import asyncio
import logging
import random
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import ApiResource
from edgehive.kit.backoff import Backoff
from edgehive.kube.client import EventType, Reader, WatchEvent
from edgehive.kube.errors import ApiError, Gone, Timeout

log = logging.getLogger("edgehive.kube.informer")

Key = tuple[str, str]
Indexer = Callable[[Document], Iterable[str]]

#: A watch that ends sooner than this without an event is a server in trouble, so it is not asked again at once.
SHORT_WATCH = 1.0
WATCH_SECONDS = (300.0, 600.0)


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one object: created (old is None), changed, or deleted (new is None, old its last state)."""

    old: Document | None
    new: Document | None

    @property
    def document(self) -> Document:
        """The state to act on: the new one, or the last one of a deleted object."""
        chosen = self.new or self.old
        if chosen is None:
            raise ValueError("a Change holds at least one document")
        return chosen

    @property
    def key(self) -> Key:
        meta = self.document.meta
        return meta.namespace, meta.name


class _Meta(msgspec.Struct, rename="camel", frozen=True):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Identity(msgspec.Struct, frozen=True):
    metadata: _Meta


_identity_decoder = msgspec.json.Decoder(_Identity)


class _Item(NamedTuple):
    """A held object with the two facts every comparison needs, so its bytes are not parsed again."""

    document: Document
    uid: str
    version: str


class Changes:
    """One reader's line of changes: `async for change in informer.changes()`; also a context manager.

    At most two changes wait per object: the end of one and the birth of the next under the same name.
    """

    def __init__(self, informer: "Informer") -> None:
        # The informer knows its readers weakly: a loop that is simply left costs nothing afterwards.
        self._informer = informer
        self._waiting: dict[Key, list[Change]] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def __aiter__(self) -> "Changes":
        return self

    async def __anext__(self) -> Change:
        while not self._waiting:
            self._wake.clear()
            await self._wake.wait()
        key = next(iter(self._waiting))
        line = self._waiting[key]
        change = line.pop(0)
        if not line:
            del self._waiting[key]
        return change

    async def __aenter__(self) -> "Changes":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop receiving; what waits is forgotten."""
        self._informer._readers.pop(self, None)
        self._waiting.clear()

    def add(self, key: Key, change: Change) -> None:
        """Join a change to what waits for the same object."""
        line = self._waiting.setdefault(key, [])
        if not line or line[-1].new is None:
            line.append(change)
        elif change.new is not None:
            line[-1] = Change(line[-1].old, change.new)
        elif line[-1].old is not None:
            line[-1] = change
        else:
            # Born and gone before the reader looked: there is nothing to tell.
            line.pop()
        if not line:
            del self._waiting[key]
        self._wake.set()


class Informer:
    """Lists, then watches, one resource in one namespace ("" for all) under fixed selectors."""

    def __init__(
        self,
        client: Reader,
        resource: ApiResource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        indexers: Mapping[str, Indexer] | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.resource = resource
        self.namespace = namespace
        self._client = client
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._indexers: dict[str, Indexer] = {}
        self._index: dict[str, dict[str, dict[Key, None]]] = {}
        self._items: dict[Key, _Item] = {}
        self._version = ""
        self._synced = asyncio.Event()
        #: In the order they came, so that runs can be repeated.
        self._readers: weakref.WeakKeyDictionary[Changes, None] = weakref.WeakKeyDictionary()
        self._backoff = backoff or Backoff(first=0.8, factor=2.0, limit=30.0, jitter=0.5)
        for name, indexer in (indexers or {}).items():
            self.add_indexer(name, indexer)

    # Reading

    async def wait_synced(self) -> None:
        """Return once the first complete list is in."""
        await self._synced.wait()

    @property
    def synced(self) -> bool:
        return self._synced.is_set()

    @property
    def resource_version(self) -> str:
        """How far this copy is; "" before the first list."""
        return self._version

    def get(self, name: str, namespace: str = "") -> Document | None:
        item = self._items.get((namespace, name))
        return item.document if item else None

    def items(self, namespace: str = "") -> list[Document]:
        """All objects, or those of one namespace."""
        return [item.document for (item_namespace, _), item in self._items.items() if namespace in ("", item_namespace)]

    def __len__(self) -> int:
        return len(self._items)

    def by_index(self, index: str, value: str) -> list[Document]:
        """The objects for which the indexer of that name yielded `value`."""
        return [self._items[key].document for key in self._index[index].get(value, ())]

    def add_indexer(self, name: str, indexer: Indexer) -> None:
        """Add an index (over what is already held too); a second one of the same name changes nothing."""
        if name in self._indexers:
            return
        self._indexers[name] = indexer
        self._index[name] = {}
        for key, item in self._items.items():
            self._enter(name, key, item.document)

    def changes(self) -> Changes:
        """A new reader: every current object as `Change(None, document)`, then what happens."""
        reader = Changes(self)
        for key, item in self._items.items():
            reader.add(key, Change(None, item.document))
        self._readers[reader] = None
        return reader

    # Keeping true

    async def run(self) -> None:
        """List and watch until cancelled; every error of the API is waited out and tried again."""
        loop = asyncio.get_running_loop()
        failures = 0
        must_list = True
        while True:
            started = loop.time()
            try:
                if must_list:
                    await self._list()
                    must_list = False
                failures = 0 if await self._watch() else failures + 1
            except ApiError as error:
                must_list = must_list or not _resumable(error)
                failures = 1 if loop.time() - started > self._backoff.limit else failures + 1
                # The first 410 is the ordinary end of a long absence: list again at once.
                if isinstance(error, Gone) and failures == 1:
                    continue
                self._report(error, failures)
            if failures:
                await asyncio.sleep(self._backoff.delay(failures - 1))

    def _report(self, error: ApiError, failures: int) -> None:
        level = logging.WARNING if failures in (1, 5) or failures % 20 == 0 else logging.DEBUG
        log.log(level, "cannot follow %s (attempt %d): %s", self.resource.plural, failures, error)

    async def _list(self) -> None:
        answer = await self._client.list(
            self.resource,
            self.namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        fresh: dict[Key, _Item] = {}
        for document in answer.items:
            if identified := _identify(document, self.resource):
                fresh[identified[0]] = identified[1]
        for key in [key for key in self._items if key not in fresh]:
            self._remove(key, None)
        for key, item in fresh.items():
            self._store(key, item)
        self._version = answer.resource_version
        self._synced.set()

    async def _watch(self) -> bool:
        """Follow one watch to its clean end; False when it was suspiciously short and empty."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        seen = False
        async for event in self._client.watch(
            self.resource,
            self.namespace,
            resource_version=self._version,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            timeout=random.uniform(*WATCH_SECONDS),  # noqa: S311
        ):
            seen = True
            self._apply(event)
        return seen or loop.time() - started >= SHORT_WATCH

    def _apply(self, event: WatchEvent) -> None:
        identified = _identify(event.object, self.resource, nameless=event.type is EventType.BOOKMARK)
        if identified is None:
            return
        key, item = identified
        if event.type is EventType.DELETED:
            self._remove(key, item.document)
        elif event.type is not EventType.BOOKMARK:
            self._store(key, item)
        self._version = item.version or self._version

    def _store(self, key: Key, item: _Item) -> None:
        old = self._items.get(key)
        if old is not None and old.uid != item.uid:
            # Deleted and created again while we looked away: two lives, so two changes.
            self._remove(key, None)
            old = None
        if old is not None and old.version == item.version and item.version:
            return
        if old is not None:
            self._leave(key, old.document)
        self._items[key] = item
        for name in self._indexers:
            self._enter(name, key, item.document)
        self._tell(key, Change(old.document if old else None, item.document))

    def _remove(self, key: Key, final: Document | None) -> None:
        old = self._items.pop(key, None)
        if old is None:
            return
        self._leave(key, old.document)
        self._tell(key, Change(final or old.document, None))

    def _tell(self, key: Key, change: Change) -> None:
        for reader in self._readers:
            reader.add(key, change)

    def _enter(self, name: str, key: Key, document: Document) -> None:
        for value in self._values(name, document):
            self._index[name].setdefault(value, {})[key] = None

    def _values(self, name: str, document: Document) -> list[str]:
        try:
            return list(self._indexers[name](document))
        except msgspec.ValidationError as error:
            log.warning("%s is not in the index %s: %s", document, name, error)
            return []

    def _leave(self, key: Key, document: Document) -> None:
        for name, index in self._index.items():
            for value in self._values(name, document):
                members = index.get(value, {})
                members.pop(key, None)
                if not members:
                    index.pop(value, None)


def _identify(document: Document, resource: ApiResource, *, nameless: bool = False) -> tuple[Key, _Item] | None:
    """Key and item of a document; None (and a warning) for one that has no usable metadata."""
    try:
        meta = _identity_decoder.decode(document.raw).metadata
    except msgspec.DecodeError as error:
        log.warning("ignored one of %s whose metadata cannot be read: %s", resource.plural, error)
        return None
    if not meta.name and not nameless:
        log.warning("ignored one of %s that has no metadata.name", resource.plural)
        return None
    return (meta.namespace, meta.name), _Item(document, meta.uid, meta.resource_version)


def _resumable(error: ApiError) -> bool:
    """Whether the watch may go on from the version we hold; otherwise the list must be read again."""
    if isinstance(error, Gone):
        return False
    if isinstance(error, Timeout):
        causes = (error.status.details.causes if error.status.details else None) or ()
        return not any(cause.reason == "ResourceVersionTooLarge" for cause in causes)
    return error.transient


class Informers:
    """The informers of one process, each (resource, namespace, selectors) once; entering runs them all."""

    def __init__(self, client: Reader) -> None:
        self._client = client
        self._informers: dict[tuple[ApiResource, str, str, str], Informer] = {}
        self._group: asyncio.TaskGroup | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def of(
        self,
        resource: ApiResource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        indexers: Mapping[str, Indexer] | None = None,
    ) -> Informer:
        """The shared informer for these selectors, started at once when the context is already entered."""
        key = (resource, namespace, label_selector, field_selector)
        informer = self._informers.get(key)
        if informer is None:
            informer = Informer(
                self._client, resource, namespace, label_selector=label_selector, field_selector=field_selector
            )
            self._informers[key] = informer
            self._start(informer)
        for name, indexer in (indexers or {}).items():
            informer.add_indexer(name, indexer)
        return informer

    async def wait_synced(self) -> None:
        """Return once every informer asked for so far has its first list."""
        for informer in list(self._informers.values()):
            await informer.wait_synced()

    async def __aenter__(self) -> "Informers":
        self._group = await asyncio.TaskGroup().__aenter__()
        for informer in self._informers.values():
            self._start(informer)
        return self

    async def __aexit__(self, *_: object) -> None:
        group, self._group = self._group, None
        for task in self._tasks:
            task.cancel()
        if group is not None:
            # Given the error, the group would wrap it; so it goes on to the caller as it is.
            await group.__aexit__(None, None, None)

    def _start(self, informer: Informer) -> None:
        if self._group is not None:
            name = f"informer {informer.resource.plural}"
            self._tasks.append(self._group.create_task(informer.run(), name=name))
