"""A pod's life as `kubectl describe` tells it: events, hooks, last words, and what a start waits for."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from node_rig import Rig, node, until

from edgehive.api.registry import CONFIG_MAPS, PODS
from edgehive.protos import cri_pb2 as cri

pytestmark = pytest.mark.looptime
IMAGE = "localhost/busybox:1"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with node(tmp_path) as rig:
        yield rig


def container(**more: Any) -> dict[str, Any]:
    return {"name": "c", "image": IMAGE, **more}


def first(status: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (status.get("containerStatuses") or [{}])[0]
    return found


def waits(reason: str) -> Any:
    return lambda status: first(status).get("state", {}).get("waiting", {}).get("reason") == reason


async def told(rig: Rig, reason: str, *, at_least: int = 1) -> list[dict[str, Any]]:
    """The events of this reason, once there are some: they are sent beside everything else."""
    found: list[dict[str, Any]] = []
    for _ in range(1000):
        found = await rig.events(reason)
        if len(found) >= at_least:
            return found
        await rig.after(0.01)
    raise AssertionError(f"no {reason} among {[item['reason'] for item in await rig.events()]}")


async def messages(rig: Rig, reason: str) -> list[str]:
    return [item["message"] for item in await told(rig, reason)]


async def test_a_start_is_told_step_by_step(rig: Rig) -> None:
    await rig.boot()
    made = await rig.start("web")
    (started,) = await told(rig, "Started")
    assert [item["reason"] for item in await rig.events()] == ["Pulled", "Created", "Started"]
    assert [item["message"] for item in await rig.events()] == [
        f'Container image "{IMAGE}" already present on machine',
        "Created container: c",
        "Started container c",
    ]
    assert started["type"] == "Normal"
    assert started["source"] == {"component": "kubelet", "host": "edge-1"}
    about = started["involvedObject"]
    assert (about["name"], about["uid"], about["fieldPath"]) == ("web", made["metadata"]["uid"], "spec.containers{c}")


async def test_an_init_container_is_named_as_one(rig: Rig) -> None:
    await rig.boot()
    rig.runtime.script("setup", [0])
    await rig.start("web", initContainers=[container() | {"name": "setup"}])
    paths = [item["involvedObject"]["fieldPath"] for item in await told(rig, "Started", at_least=2)]
    assert paths == ["spec.initContainers{setup}", "spec.containers{c}"]


async def test_a_pull_is_told_and_so_is_its_failure(rig: Rig) -> None:
    await rig.boot()
    rig.runtime.registry.add("docker.io/library/app:1")
    await rig.start("web", containers=[container() | {"image": "app:1"}])
    assert await messages(rig, "Pulling") == ['Pulling image "app:1"']
    assert (await messages(rig, "Pulled"))[0].startswith('Successfully pulled image "app:1" in ')
    made = await rig.create("lost", containers=[container() | {"image": "nowhere:1"}])
    await rig.tell("insert", "default/pod/lost", made)
    await rig.until("lost", waits("ErrImagePull"))
    await rig.until("lost", waits("ImagePullBackOff"))
    failed = await messages(rig, "Failed")
    assert any(text.startswith('Failed to pull image "nowhere:1": failed to pull and unpack') for text in failed)
    assert "Error: ErrImagePull" in failed
    assert await messages(rig, "BackOff") == ['Back-off pulling image "nowhere:1"']


async def test_a_missing_configmap_holds_the_pod_until_it_comes(rig: Rig) -> None:
    await rig.boot()
    variable = {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "x"}}}
    made = await rig.create("env", containers=[container(env=[variable])])
    await rig.tell("insert", "default/pod/env", made)
    status = await rig.until("env", waits("CreateContainerConfigError"))
    assert first(status)["state"]["waiting"]["message"] == 'configmap "late" not found'
    assert await messages(rig, "Failed") == ['Error: configmap "late" not found']
    mounted = await rig.create(
        "mount", containers=[container()], volumes=[{"name": "v", "configMap": {"name": "late"}}]
    )
    await rig.tell("insert", "default/pod/mount", mounted)
    (text,) = await messages(rig, "FailedMount")
    assert text == 'MountVolume.SetUp failed for volume "v" : configmap "late" not found'
    late = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "late"}, "data": {"x": "1"}}
    created = await rig.api.create(CONFIG_MAPS, late, "default")
    await rig.tell("insert", "default/configmap/late", created.to_dict())
    for name in ("env", "mount"):
        await rig.until(name, lambda status: status.get("phase") == "Running")


async def test_a_sandbox_that_cannot_be_made_is_told_and_tried_again(rig: Rig) -> None:
    await rig.boot()
    rig.runtime.fail("RunPodSandbox", "UNKNOWN", "failed to setup network", times=2)
    await rig.start("web")
    (event,) = await told(rig, "FailedCreatePodSandBox")
    assert event["type"] == "Warning"
    assert "failed to setup network" in event["message"]


@pytest.mark.parametrize(("call", "reason"), [
    ("CreateContainer", "CreateContainerError"), ("StartContainer", "RunContainerError"),
])  # fmt: skip
async def test_a_container_the_runtime_refuses_waits_with_the_runtimes_words(rig: Rig, call: str, reason: str) -> None:
    await rig.boot()
    rig.runtime.fail(call, "UNKNOWN", "exec: no such file")
    made = await rig.create("web")
    await rig.tell("insert", "default/pod/web", made)
    status = await rig.until("web", waits(reason))
    assert first(status)["state"]["waiting"]["message"] == "exec: no such file"
    assert await messages(rig, "Failed") == ["Error: exec: no such file"]
    await rig.until("web", lambda status: status.get("phase") == "Running")


# --- last words ---


def last_words(rig: Rig, container_id: str) -> Path:
    """The file that is /dev/termination-log inside."""
    mounts = rig.runtime.container_configs[container_id].mounts
    (place,) = (item.host_path for item in mounts if item.container_path == "/dev/termination-log")
    return Path(place)


async def ended(rig: Rig, name: str = "web") -> dict[str, Any]:
    status = await rig.until(name, lambda status: "terminated" in first(status).get("state", {}))
    found: dict[str, Any] = first(status)["state"]["terminated"]
    return found


async def test_last_words_are_read_from_their_file(rig: Rig) -> None:
    await rig.boot()
    await rig.start("web", restartPolicy="Never")
    (running,) = rig.runtime.running("c")
    last_words(rig, running).write_text("disk is full")
    rig.runtime.write_log(running, "not this")
    rig.runtime.exit(running, 3)
    found = await ended(rig)
    assert (found["exitCode"], found["reason"], found["message"]) == (3, "Error", "disk is full")
    assert found["containerID"] == f"containerd://{running}"
    assert found["startedAt"] <= found["finishedAt"]


async def test_without_a_file_the_log_speaks_where_the_pod_says_so(rig: Rig) -> None:
    await rig.boot()
    for name, code in (("failed", 1), ("fine", 0)):
        pod = container(terminationMessagePolicy="FallbackToLogsOnError") | {"name": name}
        await rig.start(name, containers=[pod], restartPolicy="Never")
        (running,) = rig.runtime.running(name)
        rig.runtime.write_log(running, f"the end of {name}")
        rig.runtime.exit(running, code)
    assert (await ended(rig, "failed"))["message"] == "the end of failed\n"
    assert "message" not in await ended(rig, "fine")


async def test_killed_by_the_kernel_is_said(rig: Rig) -> None:
    await rig.boot()
    await rig.start("web", restartPolicy="Never")
    rig.runtime.out_of_memory(rig.runtime.running("c")[0])
    assert (await ended(rig))["reason"] == "OOMKilled"


# --- hooks ---


def hooked(**handlers: dict[str, Any]) -> list[dict[str, Any]]:
    return [container(lifecycle=handlers)]


async def test_a_pre_stop_hook_runs_first_and_spends_the_grace(rig: Rig) -> None:
    await rig.boot()
    made = await rig.start("web", containers=hooked(preStop={"exec": {"command": ["bye"]}}))
    (running,) = rig.runtime.running("c")
    rig.runtime.delay("ExecSync", 8)
    await rig.delete(made, grace=20)
    await rig.gone("web")
    calls = rig.runtime.calls
    assert calls.index("ExecSync") < calls.index("StopContainer")
    assert rig.runtime.stops[running] == 12
    assert await messages(rig, "Killing") == ["Stopping container c"]


async def test_a_hook_that_takes_all_the_grace_leaves_the_container_a_moment(rig: Rig) -> None:
    await rig.boot()
    made = await rig.start("web", containers=hooked(preStop={"sleep": {"seconds": 100}}))
    (running,) = rig.runtime.running("c")
    await rig.delete(made, grace=5)
    await rig.gone("web")
    assert rig.runtime.stops[running] == 2
    assert await messages(rig, "FailedPreStopHook") == ["PreStopHook failed: it did not end within 5s"]


async def test_a_hook_that_fails_is_told_and_stops_nothing_from_stopping(rig: Rig) -> None:
    await rig.boot()
    rig.runtime.command = lambda *_: (1, b"cannot say goodbye")
    made = await rig.start("web", containers=hooked(preStop={"exec": {"command": ["bye"]}}))
    await rig.delete(made)
    await rig.gone("web")
    assert await messages(rig, "FailedPreStopHook") == ["PreStopHook failed: cannot say goodbye"]


async def test_a_failing_post_start_hook_ends_the_container(rig: Rig) -> None:
    await rig.boot()
    rig.runtime.command = lambda *_: (1, b"no licence")
    made = await rig.create("web", containers=hooked(postStart={"exec": {"command": ["check"]}}))
    await rig.tell("insert", "default/pod/web", made)
    await until(lambda: rig.runtime.stops)
    assert await messages(rig, "FailedPostStartHook") == ["PostStartHook failed: no licence"]
    rig.runtime.command = lambda *_: (0, b"")
    status = await rig.until("web", lambda status: "running" in first(status).get("state", {}))
    assert first(status)["restartCount"] >= 1


# --- ephemeral containers ---


async def debugged(rig: Rig, made: dict[str, Any], **debug: Any) -> None:
    """As `kubectl debug` does."""
    spec = made["spec"] | {"ephemeralContainers": [{"name": "debug", "image": IMAGE, **debug}]}
    changed = await rig.api.update(
        PODS, made | {"spec": spec}, "default", name=made["metadata"]["name"], subresource="ephemeralcontainers"
    )
    await rig.tell("update", f"default/pod/{made['metadata']['name']}", changed.to_dict())


def debug_state(status: dict[str, Any]) -> dict[str, Any]:
    (found,) = status.get("ephemeralContainerStatuses") or [{}]
    state: dict[str, Any] = found.get("state", {})
    return state


async def test_a_debugger_is_put_into_a_running_pod_and_ends_without_a_trace_of_harm(rig: Rig) -> None:
    await rig.boot()
    await rig.start("web")
    (main,) = rig.runtime.running("c")
    made = (await rig.api.get(PODS, "web", "default")).to_dict()
    await debugged(rig, made, targetContainerName="c", tty=True, stdin=True)
    status = await rig.until("web", lambda status: "running" in debug_state(status))
    assert status["ephemeralContainerStatuses"][0]["ready"] is False
    (debugger,) = rig.runtime.running("debug")
    config = rig.runtime.container_configs[debugger]
    namespaces = config.linux.security_context.namespace_options
    assert (namespaces.pid, namespaces.target_id) == (cri.TARGET, main)
    assert (config.tty, config.stdin) == (True, True)
    paths = {item["involvedObject"]["fieldPath"] for item in await told(rig, "Started", at_least=2)}
    assert "spec.ephemeralContainers{debug}" in paths
    rig.runtime.exit(debugger, 1)
    status = await rig.until("web", lambda status: "terminated" in debug_state(status))
    assert status["phase"] == "Running"
    assert first(status)["ready"] is True
    await rig.after(600)
    assert rig.runtime.running() == [main]


async def test_a_debugger_of_a_container_that_does_not_run_waits_and_says_so(rig: Rig) -> None:
    await rig.boot()
    await rig.start("web")
    made = (await rig.api.get(PODS, "web", "default")).to_dict()
    await debugged(rig, made, targetContainerName="other")
    status = await rig.until("web", lambda status: "message" in debug_state(status).get("waiting", {}))
    assert debug_state(status)["waiting"] == {
        "reason": "CreateContainerConfigError",
        "message": 'unable to find target container "other"',
    }


async def test_a_disk_that_takes_no_note_keeps_no_pod_from_being_stopped(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.boot()
    made = await rig.start("web")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "touch", full)
    await rig.delete(made)
    await rig.gone("web")
    await rig.tell("delete", "default/pod/web", made)
    await until(lambda: not rig.runtime.sandboxes)
    (said,) = (item.getMessage() for item in caplog.records if "the end of a pod is not noted" in item.getMessage())
    assert said.endswith("No space left on device")
