"""Who may ask: the API's own judgement, kept for a while, and what is said to those who may not."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from edgehive.api.document import Document
from edgehive.cloudcore.cloudstream.callers import Callers, OfNode, Refused
from edgehive.kube.errors import Forbidden

EXEC = OfNode("create", "n1", "proxy")
pytestmark = pytest.mark.looptime


class Api:
    """Answers reviews: `allowed` users may do everything, `tokens` are good ones."""

    def __init__(self) -> None:
        self.allowed = {"api"}
        self.tokens = {"good": "api"}
        self.asked: list[dict[str, Any]] = []
        self.forbids = False

    async def create(self, resource: Any, body: Any, namespace: str = "", **_: Any) -> Document:
        self.asked.append(body)
        if self.forbids:
            raise Forbidden("cloudcore may not create subjectaccessreviews")
        spec = body["spec"]
        if resource.kind == "TokenReview":
            user = self.tokens.get(spec["token"])
            status: dict[str, Any] = {"authenticated": user is not None, "user": {"username": user, "groups": ["g"]}}
        else:
            status = {"allowed": spec["user"] in self.allowed}
        return Document.of({"apiVersion": resource.api_version, "kind": resource.kind, "status": status})


def request(common_name: str = "", organizations: tuple[str, ...] = (), token: str = "") -> web.Request:
    made = make_mocked_request("GET", "/", headers={"Authorization": f"Bearer {token}"} if token else {})
    subject = [(("commonName", common_name),), *((("organizationName", name),) for name in organizations)]
    certificate = {"subject": subject} if common_name else None
    made.transport.get_extra_info = lambda name, default=None: certificate if name == "peercert" else default
    made._transport_peername = None
    return made


async def ask(callers: Callers, asked: web.Request) -> None:
    await callers.demand(await callers.identify(asked), EXEC)


async def test_the_api_is_asked_as_a_kubelet_asks_it() -> None:
    api = Api()
    await ask(Callers(api), request("api", ("system:masters",)))  # type: ignore[arg-type]
    spec = api.asked[0]["spec"]
    assert (spec["user"], spec["groups"]) == ("api", ["system:masters", "system:authenticated"])
    assert spec["resourceAttributes"] == {
        "verb": "create", "version": "v1", "resource": "nodes", "subresource": "proxy", "name": "n1",
    }  # fmt: skip


async def test_answers_are_kept_as_long_as_a_kubelet_keeps_them() -> None:
    api = Api()
    callers = Callers(api)  # type: ignore[arg-type]
    for _ in range(3):
        await ask(callers, request("api"))
    assert len(api.asked) == 1
    api.allowed.clear()
    await asyncio.sleep(301)
    for _ in range(3):
        with pytest.raises(Refused, match="api may not create nodes/proxy of n1"):
            await ask(callers, request("api"))
    assert len(api.asked) == 2
    api.allowed.add("api")
    await asyncio.sleep(31)
    await ask(callers, request("api"))


async def test_the_agent_of_another_node_may_not_reach_into_pods_here() -> None:
    with pytest.raises(Refused, match="system:node:n2 may not create nodes/proxy of n1") as refused:
        await ask(Callers(Api()), request("system:node:n2", ("system:nodes",)))  # type: ignore[arg-type]
    assert refused.value.error.code == 403


async def test_a_bearer_token_is_reviewed_once() -> None:
    api = Api()
    callers = Callers(api)  # type: ignore[arg-type]
    for _ in range(2):
        await ask(callers, request(token="good"))
    assert [body["kind"] for body in api.asked] == ["TokenReview", "SubjectAccessReview"]
    with pytest.raises(Refused, match="bearer token is none of this cluster") as refused:
        await ask(callers, request(token="bad"))
    assert refused.value.error.code == 401


async def test_where_cloudcore_may_not_ask_only_administrators_and_the_api_server_are_served() -> None:
    api = Api()
    api.forbids = True
    callers = Callers(api)  # type: ignore[arg-type]
    await ask(callers, request("api", ("system:masters",)))
    await ask(callers, request("kube-apiserver-kubelet-client", ("kubeadm:cluster-admins",)))
    with pytest.raises(Refused, match="whether api may create nodes/proxy of n1 cannot be asked"):
        await ask(callers, request("api"))


async def test_in_audit_mode_everybody_is_served_and_the_log_says_who() -> None:
    callers = Callers(Api(), enforce=False)  # type: ignore[arg-type]
    await ask(callers, request())
    await ask(callers, request("nobody"))
