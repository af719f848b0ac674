"""Takes what was written at an edge into Devices and DeviceModels, and answers with the object as it is then.

Each edit is held against the object as the API has it at that moment, and written under that version: nothing is
overwritten unseen. One that comes again is answered and changes nothing, since the object says which was the last.
What loses is shown on the Device. Who may write what is `edit_rules.py`'s affair.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import DEVICE_MODELS, DEVICES, ApiResource
from edgehive.beehive.message import Message
from edgehive.cloudcore.devicecontroller import edit_rules
from edgehive.cloudcore.devicecontroller.conditions import Conditions, ConditionType, Finding
from edgehive.cloudcore.placement import BY_MODEL, BY_NODE, node_of
from edgehive.cloudcore.replicas.standing import Standing
from edgehive.kit.clock import Clock, unix_millis
from edgehive.kit.mailbox import Mailbox, Policy
from edgehive.kube.client import Client
from edgehive.kube.errors import (
    AlreadyExists,
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    NotFound,
    RequestTooLarge,
    Unreachable,
)
from edgehive.kube.informer import Informer
from edgehive.wire import device_edits
from edgehive.wire import resource as paths
from edgehive.wire.device_edits import CREATOR_ANNOTATION, Edit, Lost
from edgehive.wire.names import OK, Group, Operation, ResourceType, Source
from edgehive.wire.payloads import error_content
from edgehive.wire.resource import Resource

log = logging.getLogger("edgehive.devicecontroller")

#: Edits in work at a time, and waiting; more are dropped and come again.
WORKERS, WAITING = 8, 1024
WORK_SECONDS = 20.0
#: How often an edit is held against a newer object because somebody was quicker.
ATTEMPTS = 5
REMEMBERED = 10_000
#: Bytes of an edit, which has two objects, of which the API takes 1.5 MiB each; an edge makes none above 512 KiB.
SIZE_LIMIT = 3 * 1024 * 1024
#: Name of the index of models by the node they were made at.
BY_CREATOR = "creator"
_KINDS: dict[str, ApiResource] = {ResourceType.DEVICE: DEVICES, ResourceType.DEVICE_MODEL: DEVICE_MODELS}

Send = Callable[[Message], Awaitable[None]]


def by_creator(model: Document) -> list[str]:
    """The indexer."""
    node = (model.meta.annotations or {}).get(CREATOR_ANNOTATION, "")
    return [node] if node else []


class EdgeEdits:
    """`run` it; `take` returns at once. `models` have the index `BY_CREATOR`."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        conditions: Conditions,
        standing: Standing,
        *,
        devices: Informer,
        models: Informer,
    ) -> None:
        self._client = client
        self._clock = clock
        self._conditions = conditions
        self._standing = standing
        self._devices = devices
        self._models = models
        self._waiting: Mailbox[Message] = Mailbox("edits of the edge", size=WAITING, policy=Policy.DROP_OLDEST)
        #: The version a Device got by what was written here, by its uid.
        self._written: OrderedDict[str, str] = OrderedDict()

    @staticmethod
    def is_edit(message: Message) -> bool:
        return message.route.source == Source.META_SERVER and message.route.operation == Operation.PATCH

    def take(self, message: Message) -> None:
        self._waiting.put_nowait(message)

    async def run(self, send: Send) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(WORKERS):
                group.create_task(self._work(send), name=f"edits of the edge {number}")

    async def _work(self, send: Send) -> None:
        while True:
            message = await self._waiting.get()
            try:
                async with asyncio.timeout(WORK_SECONDS):
                    answer = await self._answer(message)
            except TimeoutError:
                log.warning("%s was not written in time; the edge says it again", message.route.resource)
                continue
            if answer is not None:
                await send(answer)

    async def _answer(self, message: Message) -> Message | None:
        """None: the edge says it again, here or to another cloudcore."""
        node, path = paths.strip_node(message.route.resource)
        if not self._standing.owns(node):
            return None
        if len(bytes(message.content)) > SIZE_LIMIT:
            too_large = RequestTooLarge(f"an edit has at most {SIZE_LIMIT} bytes; make the object smaller")
            return self._reply(message, error_content(too_large.status))
        try:
            resource = Resource.parse(path)
            kind = _KINDS[resource.type]
            now = await self._settle(node, kind, resource, message.read(Edit))
        except (msgspec.MsgspecError, ValueError, KeyError, AttributeError, TypeError) as error:
            return self._reply(message, error_content(BadRequest(f"the edit cannot be read: {error!r}").status))
        except Unreachable:
            return None
        except ApiError as error:
            log.info("node %s: %s was not written: %s", node, path, error)
            return self._reply(message, error_content(error.status))
        if now is None:
            return self._reply(message, OK)
        return self._reply(message, msgspec.Raw(now.raw), now.meta.resource_version)

    def _reply(self, message: Message, content: object, version: str = "") -> Message:
        return message.reply(
            content,
            timestamp=unix_millis(self._clock.now()),
            source=Source.DEVICE_CONTROLLER,
            group=Group.RESOURCE,
            resource_version=version,
        )

    # Deciding

    async def _settle(self, node: str, kind: ApiResource, resource: Resource, edit: Edit) -> Document | None:
        """Write what stands of it; gives the object as it is then, None where there is none. Raises ApiError."""
        edit_rules.check_wanted(kind, node, edit)
        for _ in range(ATTEMPTS):
            try:
                current = await self._client.get(kind, resource.name, resource.namespace)
            except NotFound:
                current = None
            try:
                if current is None:
                    return await self._create(node, kind, resource, edit)
                return await self._change(node, kind, resource, edit, current)
            except Conflict:
                continue
            except AlreadyExists:
                if current is not None:
                    raise
        raise Conflict(f"somebody else keeps writing {resource}")

    async def _create(self, node: str, kind: ApiResource, resource: Resource, edit: Edit) -> Document | None:
        if edit.local is None or edit.base is not None:
            return None  # gone on both sides; or deleted in the cloud, which stands
        if kind is DEVICES and len(self._devices.by_index(BY_NODE, node)) >= edit_rules.DEVICE_LIMIT:
            raise Forbidden(f"node {node} has {edit_rules.DEVICE_LIMIT} devices already")
        if kind is DEVICE_MODELS and len(self._models.by_index(BY_CREATOR, node)) >= edit_rules.MODEL_LIMIT:
            raise Forbidden(f"{edit_rules.MODEL_LIMIT} models were made at node {node} already; take some away")
        body = edit_rules.new_object(kind, node, resource.namespace, resource.name, edit)
        made = await self._client.create(kind, body, resource.namespace)
        log.info("%s %s/%s was made at node %s", kind.kind, resource.namespace, resource.name, node)
        self._remember(made)
        return made

    async def _change(
        self, node: str, kind: ApiResource, resource: Resource, edit: Edit, current: Document
    ) -> Document | None:
        said = current.to_dict()
        same = edit_rules.is_same_life(edit, said)
        done = same and device_edits.number_of(said) >= edit.number
        if not same and edit.base is not None:
            # It was about an earlier life; of the one there is now the node hears where it is concerned.
            return current if self._is_concerned(node, kind, current) else None
        if kind is DEVICE_MODELS and edit.local is not None and device_edits.same_definition(edit.local, said):
            return current
        if kind is DEVICES:
            edit_rules.check_device(node, edit, said)
        else:
            used_elsewhere = not done and bool(self._nodes_with(current) - {node})
            edit_rules.check_model(node, edit, said, used_elsewhere=used_elsewhere)
        if done:
            return current
        if edit.local is None:
            return await self._delete(kind, resource, edit, current)
        body, lost = edit_rules.with_edit(edit, edit.local, said)
        written = await self._client.update(kind, body, resource.namespace, name=resource.name)
        self._remember(written)
        self._tell(kind, written, lost)
        return written

    async def _delete(self, kind: ApiResource, resource: Resource, edit: Edit, current: Document) -> Document | None:
        said = current.to_dict()
        if device_edits.untouched(edit.base, said):
            await self._client.delete(kind, resource.name, resource.namespace, uid=current.meta.uid)
            log.info("%s %s/%s was deleted at the edge", kind.kind, resource.namespace, resource.name)
            return None
        marked = device_edits.with_annotations(said, {device_edits.NUMBER_ANNOTATION: str(edit.number)})
        kept = await self._client.update(kind, marked, resource.namespace, name=resource.name)
        self._remember(kept)
        self._say(kind, kept, "DeletionConflict", edit_rules.KEPT_TEXT)
        return kept

    def _is_concerned(self, node: str, kind: ApiResource, current: Document) -> bool:
        """Whether the object is one of those the node is told of anyway."""
        return node == node_of(current) if kind is DEVICES else node in self._nodes_with(current)

    def _nodes_with(self, model: Document) -> set[str]:
        users = self._devices.by_index(BY_MODEL, f"{model.meta.namespace}/{model.meta.name}")
        return {node_of(device) for device in users} - {""}

    # Telling

    def _tell(self, kind: ApiResource, document: Document, lost: list[Lost]) -> None:
        if lost:
            self._say(kind, document, "DefinitionConflict", edit_rules.lost_text(lost))

    def _say(self, kind: ApiResource, document: Document, reason: str, text: str) -> None:
        log.warning("%s %s/%s: %s", kind.kind, document.meta.namespace, document.meta.name, text)
        if kind is DEVICES:
            self._conditions.find(document, Finding(ConditionType.DEFINITION_AGREED, False, reason, text))

    def settle(self, old: Document, new: Document) -> None:
        """The definition of a Device was changed; by somebody else than us that ends a conflict there was."""
        before, after = old.to_dict(), new.to_dict()
        if device_edits.same_definition(before, after) or self._written.get(new.meta.uid) == new.meta.resource_version:
            return
        settled = Finding(ConditionType.DEFINITION_AGREED, True, "Settled", "the Device was changed since")
        self._conditions.find(new, settled)

    def forget(self, device: Document) -> None:
        self._written.pop(device.meta.uid, None)

    def _remember(self, document: Document) -> None:
        self._written[document.meta.uid] = document.meta.resource_version
        self._written.move_to_end(document.meta.uid)
        if len(self._written) > REMEMBERED:
            self._written.popitem(last=False)


def edits_first(
    edits: EdgeEdits, reports: Callable[[Message], Awaitable[None]]
) -> Callable[[Message], Awaitable[None]]:
    """What comes up from nodes: edits are set aside, everything else is a report or a question."""

    async def take(message: Message) -> None:
        if edits.is_edit(message):
            edits.take(message)
        else:
            await reports(message)

    return take
