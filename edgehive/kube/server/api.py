"""The API server's core: every verb on every resource for a given user, free of HTTP.

The REST face and the in-process client are thin layers over it. It authorizes, finds the right handler for a
subresource, and leaves reading to `reads`, writing to `writes`.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgehive.api.document import Document
from edgehive.api.meta import Status, StatusDetails
from edgehive.kit.clock import Clock
from edgehive.kube.client import PatchType, WatchEvent
from edgehive.kube.errors import Forbidden, MethodNotAllowed, NotFound, qualified
from edgehive.kube.server import subresources
from edgehive.kube.server.admission import Admission
from edgehive.kube.server.catalog import Catalog
from edgehive.kube.server.identity import Attributes, Authorizer, forbidden_text
from edgehive.kube.server.options import Call, DeleteOptions, ListOptions, Page
from edgehive.kube.server.reads import Reader
from edgehive.kube.server.reviews import Reviews
from edgehive.kube.server.rules import Rules
from edgehive.kube.server.strategy import PARTS
from edgehive.kube.server.tokens import Tokens
from edgehive.kube.server.writes import Removal, Writer, apply_patch
from edgehive.kube.store import Store

Json = dict[str, Any]
Patch = Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """One object and the HTTP code it goes with."""

    document: Document
    code: int = 200


class Api:
    """All verbs. Raises the errors of `kube.errors`."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        *,
        clock: Clock,
        authorizer: Authorizer,
        admission: Sequence[Admission],
        tokens: Tokens | None,
    ) -> None:
        self.store = store
        self.catalog = catalog
        self.authorizer = authorizer
        self.writer = Writer(store, clock, admission, Rules())
        self._reader = Reader(store)
        self._tokens = tokens
        self._reviews = Reviews(authorizer, tokens)

    async def get(self, call: Call) -> Answer:
        self.authorize(call, "get")
        if call.subresource == "scale":
            self._must_have(call)
            return Answer(Document.of(subresources.scale_of(call, self._reader.get(call).document.to_dict())))
        self._must_be_part(call, "get")
        return Answer(self._reader.get(call).document)

    async def select(self, call: Call, options: ListOptions) -> Page:
        self.authorize(call, "list")
        return await self._reader.select(call, options)

    async def watch(self, call: Call, options: ListOptions) -> AsyncGenerator[list[WatchEvent], None]:
        """Batches of events; everything that can be refused is refused before the first."""
        self.authorize(call, "watch")
        return await self._reader.open_watch(call, options)

    async def create(self, call: Call, body: Json) -> Answer:
        self.authorize(call, "create")
        if call.subresource:
            return Answer(Document.of(await self._create_below(call, body)), 201)
        if self._reviews.answers(call):
            return Answer(Document.of(self._reviews.answer(call, body)), 201)
        return Answer((await self.writer.create(call, body)).document, 201)

    async def _create_below(self, call: Call, body: Json) -> Json:
        self._must_have(call)
        place = call.served.storage, call.subresource
        if place == ("pods", "binding"):
            subresources.require_kind(body, "Binding")
            return await subresources.bind(self.writer, call, body)
        if place == ("pods", "eviction"):
            subresources.require_kind(body, "Eviction")
            return await subresources.evict(self.writer, self.store, call, body)
        if place == ("serviceaccounts", "token") and self._tokens is not None:
            subresources.require_kind(body, "TokenRequest")
            return self._tokens.request(call.namespace, call.name, body)
        raise MethodNotAllowed("the server does not allow this method on the requested resource")

    async def update(self, call: Call, body: Json) -> Answer:
        self.authorize(call, "update")
        if call.subresource == "scale":
            self._must_have(call)
            return await self._scale(call, lambda _: body)
        self._must_be_part(call, "update")
        stored, created = await self.writer.update(call, body)
        return Answer(stored.document, 201 if created else 200)

    async def patch(self, call: Call, kind: PatchType, patch: Patch) -> Answer:
        self.authorize(call, "patch")
        if call.subresource == "scale":
            self._must_have(call)
            return await self._scale(call, lambda scale: apply_patch(call, kind, scale, patch))
        self._must_be_part(call, "patch")
        return Answer((await self.writer.patch(call, kind, patch)).document)

    async def _scale(self, call: Call, change: Any) -> Answer:
        """Write a workload's replicas through its Scale view."""
        parent = Call(call.user, call.served, call.namespace, call.name, dry_run=call.dry_run)

        def rescale(old: Json) -> Json:
            version = old["metadata"]["resourceVersion"]
            new = subresources.with_scale(call, old, change(subresources.scale_of(call, old)))
            if new["metadata"]["resourceVersion"] != version:
                raise subresources.stale_scale(call)
            return new

        stored = await self.writer.modify(parent, rescale)
        return Answer(Document.of(subresources.scale_of(call, stored.to_dict())))

    async def delete(self, call: Call, options: DeleteOptions) -> Removal:
        self.authorize(call, "delete")
        if call.subresource:
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        return await self.writer.delete(call, options)

    async def delete_collection(self, call: Call, options: DeleteOptions, chosen: ListOptions) -> Page:
        """Delete what a list finds; answers what it found."""
        self.authorize(call, "deletecollection")
        page = await self._reader.select(call, chosen)
        for item in page.items:
            one = Call(call.user, call.served, item.key.namespace, item.key.name, dry_run=call.dry_run)
            try:
                await self.writer.delete(one, options)
            except NotFound:
                continue
        return page

    def authorize_path(self, attributes: Attributes) -> None:
        """For requests that name no resource; raises Forbidden."""
        decision = self.authorizer.authorize(attributes)
        if not decision.allowed:
            raise Forbidden(f"forbidden: {forbidden_text(attributes, decision)}")

    def authorize(self, call: Call, verb: str) -> None:
        """Raises Forbidden, or MethodNotAllowed for a verb the resource does not know."""
        row = call.served.resource
        if verb not in row.verbs:
            raise MethodNotAllowed("the server does not allow this method on the requested resource")
        attributes = Attributes(
            call.user,
            verb,
            row.group,
            row.plural,
            call.subresource,
            call.namespace if row.namespaced else "",
            call.name,
        )
        decision = self.authorizer.authorize(attributes)
        if decision.allowed:
            return
        name = f' "{call.name}"' if call.name else ""
        raise Forbidden(
            f"{qualified(row.plural, row.group)}{name} is forbidden: {forbidden_text(attributes, decision)}",
            details=StatusDetails(name=call.name, group=row.group, kind=row.plural),
        )

    def _must_have(self, call: Call) -> None:
        if call.subresource not in call.served.resource.subresources:
            raise NotFound("the server could not find the requested resource")

    def _must_be_part(self, call: Call, verb: str) -> None:
        """The main object, or a subresource that is a part of it; raises NotFound or MethodNotAllowed."""
        if not call.subresource:
            return
        self._must_have(call)
        if call.subresource not in PARTS or (verb == "get" and call.subresource == "finalize"):
            raise MethodNotAllowed("the server does not allow this method on the requested resource")


def success(call: Call, removal: Removal) -> Status:
    """The Status of a DELETE that left nothing."""
    row = call.served.resource
    details = StatusDetails(name=call.name, group=row.group, kind=row.plural, uid=removal.stored.document.meta.uid)
    return Status(status="Success", details=details)
