"""Answers `query`: from a row known to be current, else from the cloud, else from whatever row there is.

A row counts as current while the link that confirmed it (by an answer or a push) lasts and no new pod came to
its namespace: the cloud pushes changes only of what a pod here uses. Identical questions in flight are asked
once. Offline, any row is good, expired tokens too; a stored token is only ever replaced by a fresh one.

Go: edge/pkg/metamanager/process.go (processRemoteQuery)
"""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import by_edge_type
from edgehive.beehive.message import Message
from edgehive.edgecore.metamanager import tokens
from edgehive.edgecore.metamanager.cloud import Cloud
from edgehive.edgecore.metamanager.envelope import BadObject, answered_object
from edgehive.edgecore.metamanager.metastore import Metastore
from edgehive.kit.clock import Clock
from edgehive.kit.sqlite import DatabaseError
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube import errors
from edgehive.kube.errors import ApiError, NotFound, ServerError, Unreachable
from edgehive.wire.names import ResourceType
from edgehive.wire.payloads import read_reply
from edgehive.wire.resource import Resource

log = logging.getLogger("edgehive.metamanager")

Keep = Callable[[Resource, Document], Awaitable[None]]

#: Kinds of which "not stored and no link" means "not there": a pod may do without an optional one.
_ABSENT_OFFLINE = frozenset(
    {
        ResourceType.CONFIG_MAP,
        ResourceType.SECRET,
        ResourceType.PERSISTENT_VOLUME,
        ResourceType.PERSISTENT_VOLUME_CLAIM,
    }
)
#: Answers of these are never stored: they are only worth something fresh, and would wear the disk.
_NEVER_STORED = frozenset({ResourceType.LEASE, ResourceType.CERTIFICATE_SIGNING_REQUEST})
#: Nobody pushes changes of these, so a row is second choice while there is a link.
_NEVER_PUSHED = frozenset(
    {ResourceType.VOLUME_ATTACHMENT, ResourceType.PERSISTENT_VOLUME, ResourceType.PERSISTENT_VOLUME_CLAIM}
)


class Questions:
    """One per metamanager; `keep` stores an object that came as an answer."""

    def __init__(self, store: Metastore, keep: Keep, cloud: Cloud, clock: Clock) -> None:
        self._store = store
        self._keep_object = keep
        self._cloud = cloud
        self._clock = clock
        self._current: set[str] = set()
        self._asking: dict[tuple[str, bytes], asyncio.Task[Document]] = {}

    async def answer(self, message: Message, resource: Resource) -> Document:
        """The object asked for; raises ApiError."""
        key = row_key(message, resource)
        stored = await self._store.get(key)
        if stored is not None and self._serves(key, resource, stored):
            return stored
        try:
            return await self._ask_once(key, message, resource)
        except NotFound:
            await self._forget(resource, stored)
            raise
        except ApiError as error:
            if not error.transient:
                raise
            return _or_raise(stored, resource, error)

    def confirm(self, resource: Resource) -> None:
        """This row came from the cloud over the present link."""
        if resource.type not in _NEVER_PUSHED:
            self._current.add(str(resource))

    def doubt(self, namespace: str = "") -> None:
        """Rows of this namespace (or all) may have changed unseen."""
        if not namespace:
            self._current.clear()
            return
        self._current = {key for key in self._current if not key.startswith(f"{namespace}/")}

    async def close(self) -> None:
        await cancel_and_join(*self._asking.values())

    def _serves(self, key: str, resource: Resource, stored: Document) -> bool:
        if resource.type == ResourceType.SERVICE_ACCOUNT_TOKEN:
            return not tokens.is_due(stored, self._clock.now())
        return resource.type == ResourceType.NODE or key in self._current

    async def _ask_once(self, key: str, message: Message, resource: Resource) -> Document:
        """Join a question already in flight, or ask; a waiter that gives up does not end it for the others."""
        same = (str(resource), bytes(message.content))
        task = self._asking.get(same)
        if task is None:
            task = spawn(self._ask(key, message, resource), name=f"query {resource}")
            self._asking[same] = task
            task.add_done_callback(lambda ended: self._asked(same, ended))
        return await asyncio.shield(task)

    def _asked(self, same: tuple[str, bytes], task: "asyncio.Task[Document]") -> None:
        self._asking.pop(same, None)
        if not task.cancelled():
            task.exception()

    async def _ask(self, key: str, message: Message, resource: Resource) -> Document:
        reply = await self._cloud.call(message)
        answer = read_reply(reply)
        if answer.error is not None:
            # Acknowledged all the same, and never stored: an error is no object (wire.md B2).
            await self._cloud.acknowledge(reply)
            raise errors.from_status(answer.error)
        if answer.object is None:
            raise _not_found(resource)
        try:
            document = answered_object(answer.object, resource)
        except BadObject as error:
            raise ServerError(f"the cloud's answer for {resource} is of no use: {error}") from error
        if await self._keep(key, document, resource):
            await self._cloud.acknowledge(reply)
        return document

    async def _keep(self, key: str, document: Document, resource: Resource) -> bool:
        """Store an answer; a disk that refuses costs the cache and the acknowledgement, not the answer."""
        try:
            if resource.type == ResourceType.SERVICE_ACCOUNT_TOKEN:
                if not tokens.is_usable(document):
                    raise ServerError(f"the cloud answered {resource} with an empty token")
                await self._store.save_token(key, document)
                self.confirm(resource)
            elif resource.type not in _NEVER_STORED:
                await self._keep_object(resource, document)
        except (DatabaseError, sqlite3.Error) as error:
            log.error("the answer for %s could not be stored: %s", resource, error)
            return False
        return True

    async def _forget(self, resource: Resource, stored: Document | None) -> None:
        """The API server says there is none: the row of the deleted one goes."""
        if stored is not None and resource.type != ResourceType.SERVICE_ACCOUNT_TOKEN:
            await self._store.remove(resource, stored.meta.uid)


def row_key(message: Message, resource: Resource) -> str:
    """Where an answer is stored; raises BadRequest for a token request that cannot be read."""
    if resource.type != ResourceType.SERVICE_ACCOUNT_TOKEN:
        return str(resource)
    try:
        request = message.read(tokens.TokenRequest)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise errors.BadRequest(f"the token request for {resource} cannot be read: {error}") from error
    return tokens.token_key(resource.name, resource.namespace, request.spec)


def _or_raise(stored: Document | None, resource: Resource, error: ApiError) -> Document:
    if stored is not None:
        return stored
    if isinstance(error, Unreachable) and resource.type in _ABSENT_OFFLINE:
        raise _not_found(resource) from error
    raise error


def _not_found(resource: Resource) -> NotFound:
    kind = by_edge_type(resource.type)
    return errors.not_found(kind.plural if kind else resource.type, kind.group if kind else "", resource.name)
