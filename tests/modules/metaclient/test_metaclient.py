"""MetaClient against a scripted metamanager: what it asks, and how it reads every form of answer."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from edgehive.api.document import Document
from edgehive.api.registry import CONFIG_MAPS, EVENTS, LEASES, NODES, PERSISTENT_VOLUMES, PODS, SERVICE_ACCOUNTS
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.metaclient import MetaClient
from edgehive.kit.clock import FixedClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import PatchType
from edgehive.kube.errors import (
    AlreadyExists,
    Conflict,
    MethodNotAllowed,
    ServerError,
    Unreachable,
)


class Script:
    """Answers each request with the next content given; None answers nothing."""

    def __init__(self) -> None:
        self.bus = Bus()
        self.mailbox = self.bus.register("metamanager", "meta")
        self.client = MetaClient(self.bus, FixedClock(datetime(2026, 1, 1, tzinfo=UTC)))
        self.answers: list[tuple[str, Any]] = []
        self.asked: list[Message] = []

    async def run(self) -> None:
        async for message in self.mailbox:
            self.asked.append(message)
            operation, content = self.answers.pop(0) if self.answers else ("", None)
            if operation:
                self.bus.reply(message.reply(content, operation=operation, timestamp=1))

    def then(self, content: Any, operation: str = "response") -> None:
        self.answers.append((operation, content))


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    script = Script()
    task = spawn(script.run(), name="scripted metamanager")
    yield script
    await cancel_and_join(task)


async def test_a_list_is_the_rows_in_full(script):
    rows = [{"kind": "Pod", "apiVersion": "v1", "metadata": {"name": n}, "extra": {"kept": 1}} for n in "ab"]
    script.then(rows)
    listed = await script.client.list(PODS)
    assert [d.to_dict() for d in listed.items] == rows
    assert script.asked[0].route.resource == "null/pod"


async def test_an_answer_without_kind_gets_the_one_asked_for(script):
    script.then({"metadata": {"name": "l"}})
    lease = await script.client.get(LEASES, "l", "kube-node-lease")
    assert (lease.kind, lease.api_version) == ("Lease", "coordination.k8s.io/v1")


async def test_volumes_are_asked_for_in_the_namespace_the_wire_wants(script):
    script.then({"kind": "PersistentVolume", "apiVersion": "v1", "metadata": {"name": "v"}})
    await script.client.get(PERSISTENT_VOLUMES, "v")
    assert script.asked[0].route.resource == "default/persistentvolume/v"


@pytest.mark.parametrize(
    ("reason", "code", "error"),
    [("AlreadyExists", 409, AlreadyExists), ("Conflict", 409, Conflict), ("", 0, Exception),
     ("Unreachable", 0, Unreachable)],
)  # fmt: skip
async def test_errors_are_the_classes_everyone_knows(script, reason, code, error):
    script.then({"ErrStatus": {"message": "because", "reason": reason, "code": code}}, "error")
    with pytest.raises(error, match="because"):
        await script.client.create(NODES, {"metadata": {"name": "n"}})


@pytest.mark.parametrize("content", [None, "OK"])
async def test_success_without_an_object_is_no_object(script, content):
    script.then(content)
    with pytest.raises(ServerError, match="holds no object"):
        await script.client.get(CONFIG_MAPS, "c", "default")


@pytest.mark.looptime
async def test_a_silent_metamanager_is_transient():
    script = Script()
    task = spawn(script.run(), name="silent metamanager")
    with pytest.raises(Unreachable, match="did not answer") as failure:
        await script.client.get(CONFIG_MAPS, "c", "default")
    assert failure.value.transient
    assert asyncio.get_running_loop().time() == 65
    await cancel_and_join(task)


async def test_without_metamanager_everything_is_transient():
    client = MetaClient(Bus(), FixedClock(datetime(2026, 1, 1, tzinfo=UTC)))
    with pytest.raises(Unreachable, match="metamanager"):
        await client.list(PODS)
    with pytest.raises(Unreachable):
        await client.create(EVENTS, {"metadata": {"name": "e", "namespace": "default"}})


async def test_a_token_request_travels_as_a_question(script):
    script.then({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "status": {"token": "t"}})
    request = Document.of({"spec": {"audiences": ["a"]}})
    answer = await script.client.create(SERVICE_ACCOUNTS, request, "default", name="sa", subresource="token")
    assert answer.to_dict()["status"] == {"token": "t"}
    asked = script.asked[0]
    assert (asked.route.operation, asked.route.resource) == ("query", "default/serviceaccounttoken/sa")
    assert asked.read(dict) == {"spec": {"audiences": ["a"]}}


async def test_patches_of_events_carry_the_event_and_the_text(script):
    await script.client.patch(EVENTS, "e", {"count": 2}, "default", type=PatchType.STRATEGIC)
    while not script.asked:
        await asyncio.sleep(0)
    content = script.asked[0].read(dict)
    assert content["patchData"] == '{"count":2}'
    assert content["event"]["metadata"] == {"name": "e", "namespace": "default"}


@pytest.mark.parametrize("type", [PatchType.MERGE, PatchType.JSON])
async def test_only_strategic_status_patches_exist_on_this_road(script, type):
    with pytest.raises(MethodNotAllowed, match=r"patch .* of pods/status"):
        await script.client.patch(PODS, "p", {}, "default", type=type, subresource="status")
    with pytest.raises(MethodNotAllowed):
        await script.client.patch(NODES, "n", {}, type=PatchType.STRATEGIC)
