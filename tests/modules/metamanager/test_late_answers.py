"""Answers that come when nobody waits for them any more, and work that is given up before it begins."""

import asyncio

from edgehive.beehive.message import Message


async def test_an_answer_nobody_waits_for_any_more_is_no_error(node, pod, caplog):
    caplog.set_level("INFO", "edgehive.metamanager")
    late = Message.of(
        source="dynamiccontroller",
        group="resource",
        operation="response",
        resource="default/configmap/x/applicationResponse",
        content={"kind": "Application"},
        timestamp=1,
        parent_id="long ago",
    )
    for message in (late, late.with_route(source="edgecontroller", resource="default/pod/web")):
        await node.bus.send("metamanager", message)
    update = await node.push("update", "default/pod/web", pod(version=12))
    await node.hub.wait_for_ack(update)
    assert [record.levelname for record in caplog.records if record.levelno > 20] == []
    assert not any(message.route.operation == "error" for message in node.hub.sent)


async def test_work_that_is_cancelled_before_it_begins_gives_its_place_back(node):
    for _ in range(3):
        node.module._requests += 1
        tasks = asyncio.get_running_loop()
        work = tasks.create_task(node.module._from_edge(None))
        work.add_done_callback(node.module._request_ended)
        work.cancel()
        await asyncio.wait([work])
    assert node.module._requests == 0
