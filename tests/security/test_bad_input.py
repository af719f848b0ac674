"""What a node may say wrongly, by name: refused with a counted, logged, clear reason, and everything goes on.

Wrong tokens, CAs and certificates are in `test_joining`, depth and sizes in `test_limits`, `null` in `test_audit_rows`.
"""

import logging

import pytest

from edgehive.testing.cloud import ScriptedEdge, cloud, content_of

pytestmark = pytest.mark.looptime


async def still_served(edge: ScriptedEdge) -> bool:
    answer = content_of(await edge.request("query", f"kube-node-lease/lease/{edge.node}"))
    return set(answer) == {"Object", "Err"} and not edge.closed.is_set()


@pytest.mark.parametrize("operation", ["frobnicate", "", "INSERT", "insert ", "x" * 10_000, "null"])
async def test_unknown_operation(operation: str, caplog: pytest.LogCaptureFixture) -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        for _ in range(3):
            await edge.send(operation, "default/pod/web", {"metadata": {"name": "web"}})
        assert await still_served(edge)
    said = [record for record in caplog.records if "is not one that is served" in record.getMessage()]
    assert len(said) == 1, "said once a minute"
    assert said[0].levelno == logging.WARNING
    assert len(said[0].getMessage()) < 1000


@pytest.mark.parametrize("content", [None, "null", "[null]", [None], {"metadata": [None]}])
async def test_null_where_an_object_is_expected(content: object) -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        answer = content_of(await edge.request("update", "kube-node-lease/lease/n1", content))
        status = answer["Err"]["ErrStatus"]
        assert status["code"] in (400, 403)
        assert status["message"]
        assert await still_served(edge)
