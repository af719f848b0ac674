"""Pulling by policy with back-off and credentials; collecting unused images."""

import base64
import json
from typing import Any

import msgspec
import pytest

from edgehive.api.core import Pod, Secret
from edgehive.edgecore.edged.images import DiskUse, ImageCollector, ImageError, ImagePuller, LocalImage
from edgehive.edgecore.edged.registry_auth import InvalidImageName, credentials, image_reference
from edgehive.testing.cri import FakeRuntime

pytestmark = pytest.mark.looptime


def pod(image: str, policy: str = "", uid: str = "u1") -> Pod:
    container = {"name": "c", "image": image, "imagePullPolicy": policy}
    return msgspec.convert({"metadata": {"uid": uid}, "spec": {"containers": [container]}}, Pod)


async def ensure(puller: ImagePuller, made: Pod, events: list[str] | None = None) -> LocalImage:
    def report(type: str, reason: str, message: str) -> None:
        if events is not None:
            events.append(f"{reason}: {message}")

    return await puller.ensure(made, made.spec.containers[0], report=report)


async def refused(puller: ImagePuller, made: Pod, events: list[str] | None = None) -> ImageError:
    with pytest.raises(ImageError) as caught:
        await ensure(puller, made, events)
    return caught.value


async def test_a_present_image_is_not_pulled() -> None:
    runtime = FakeRuntime(images=["localhost/app:1"])
    events: list[str] = []
    for policy in ("", "IfNotPresent", "Never"):
        assert (await ensure(ImagePuller(runtime.client()), pod("localhost/app:1", policy), events)).reference
    assert "PullImage" not in runtime.calls
    assert set(events) == {'Pulled: Container image "localhost/app:1" already present on machine'}


async def test_an_absent_image_is_pulled_by_its_full_name() -> None:
    runtime = FakeRuntime()
    runtime.registry.add("docker.io/library/busybox:latest")
    events: list[str] = []
    found = await ensure(ImagePuller(runtime.client()), pod("busybox"), events)
    assert found.reference == "docker.io/library/busybox:latest"
    assert [event.partition(":")[0] for event in events] == ["Pulling", "Pulled"]


async def test_latest_is_pulled_every_time() -> None:
    runtime = FakeRuntime(images=["docker.io/library/busybox:latest"])
    runtime.registry.add("docker.io/library/busybox:latest")
    await ensure(ImagePuller(runtime.client()), pod("busybox"))
    assert runtime.calls.count("PullImage") == 1


async def test_never_means_never() -> None:
    runtime = FakeRuntime()
    error = await refused(ImagePuller(runtime.client()), pod("x:1", "Never"))
    assert (error.reason, error.message) == (
        "ErrImageNeverPull", 'Container image "x:1" is not present with pull policy of Never',
    )  # fmt: skip
    assert "PullImage" not in runtime.calls


async def test_failures_back_off_and_recover() -> None:
    import asyncio

    runtime = FakeRuntime()
    puller = ImagePuller(runtime.client())
    events: list[str] = []
    first = await refused(puller, pod("x:1"), events)
    assert (first.reason, first.retry_after) == ("ErrImagePull", 5)
    assert "not found" in first.message
    await asyncio.sleep(first.retry_after)
    second = await refused(puller, pod("x:1"), events)
    assert (second.reason, second.retry_after) == ("ImagePullBackOff", 5)
    assert second.message.startswith('Back-off pulling image "x:1": ErrImagePull: failed to pull')
    assert runtime.calls.count("PullImage") == 1
    await asyncio.sleep(second.retry_after)
    assert (await refused(puller, pod("x:1"))).reason == "ErrImagePull"
    assert (await refused(puller, pod("x:1"))).retry_after == 20
    runtime.registry.add("docker.io/library/x:1")
    await asyncio.sleep(20)
    await ensure(puller, pod("x:1"))
    assert events[-1] == 'BackOff: Back-off pulling image "x:1"'


async def test_one_pods_back_off_does_not_hold_another() -> None:
    runtime = FakeRuntime()
    puller = ImagePuller(runtime.client())
    await refused(puller, pod("x:1"))
    runtime.registry.add("docker.io/library/x:1")
    await ensure(puller, pod("x:1", uid="u2"))


async def test_an_impossible_name_is_said_so() -> None:
    events: list[str] = []
    error = await refused(ImagePuller(FakeRuntime().client()), pod("Bad/Image:1"), events)
    assert error.reason == "InvalidImageName"
    assert events == [f"InspectFailed: {error.message}", "Failed: Error: InvalidImageName"]
    assert 'couldn\'t parse image name "Bad/Image:1": invalid reference format' in error.message


@pytest.mark.parametrize(("name", "reference"), [
    ("busybox", "docker.io/library/busybox:latest"), ("a/b:1", "docker.io/a/b:1"), ("localhost/x:1", "localhost/x:1"),
    ("r.io:5000/a/b", "r.io:5000/a/b:latest"), ("index.docker.io/x", "docker.io/library/x:latest"),
    ("x@sha256:" + "a" * 64, "docker.io/library/x@sha256:" + "a" * 64),
    ("x:1@sha256:" + "a" * 64, "docker.io/library/x:1@sha256:" + "a" * 64),
])  # fmt: skip
async def test_names_are_normalised(name: str, reference: str) -> None:
    assert image_reference(name) == reference


@pytest.mark.parametrize("name", ["", "UPPER", "a b", "x:", "x@sha256:1", "/x", "x//y", "-x", "x:" + "t" * 129])
async def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidImageName, match="invalid reference format"):
        image_reference(name)


def config_secret(**servers: dict[str, Any]) -> Secret:
    text = json.dumps({"auths": servers}).encode()
    return msgspec.convert({"data": {".dockerconfigjson": base64.b64encode(text).decode()}}, Secret)


async def test_credentials_most_specific_first() -> None:
    auth = base64.b64encode(b"deep:pw:with:colons").decode()
    secret = config_secret(**{
        "https://r.io/v1/": {"username": "host", "password": "p"}, "r.io/team": {"auth": auth},
        "*.io": {"username": "star"}, "other.io": {"username": "no"}, "r.io/tea": {"username": "no"},
    })  # fmt: skip
    found = credentials("r.io/team/app:1", [secret])
    assert [(item.username, item.password) for item in found] == [
        ("deep", "pw:with:colons"), ("host", "p"), ("star", ""),
    ]  # fmt: skip


async def test_credentials_of_docker_hub_in_the_old_format() -> None:
    text = json.dumps({"https://index.docker.io/v1/": {"username": "u", "password": "p"}}).encode()
    secret = msgspec.convert({"data": {".dockercfg": base64.b64encode(text).decode()}}, Secret)
    assert [item.username for item in credentials("docker.io/library/busybox:latest", [secret])] == ["u"]


async def test_a_damaged_secret_holds_nothing() -> None:
    broken = msgspec.convert({"data": {".dockerconfigjson": base64.b64encode(b"{").decode()}}, Secret)
    assert credentials("r.io/a:1", [broken]) == []


# --- collecting ---


async def test_only_unused_images_go_and_only_until_the_low_mark() -> None:
    import asyncio

    runtime = FakeRuntime(images=["old:1", "used:1", "pause:1", "new:1"])
    runtime.add_image("pinned:1", pinned=True)
    collector = ImageCollector(runtime.client(), high=80, low=40, keep=("pause:1",))
    disk = DiskUse(capacity=10_000_000, available=1_000_000)
    assert await collector.collect({"used:1"}, disk) == 0, "too young"
    await asyncio.sleep(60)
    await collector.collect({"used:1", "new:1"}, disk)
    await asyncio.sleep(100)
    assert await collector.collect({"used:1"}, DiskUse(10_000_000, 3_000_000)) == 0, "below the high mark"
    freed = await collector.collect({"used:1"}, DiskUse(capacity=2_000_000, available=300_000))
    assert freed == 1_000_000
    assert "old:1" not in runtime.images
    assert "new:1" in runtime.images
    await collector.collect({"used:1"}, disk)
    assert set(runtime.images) == {"used:1", "pause:1", "pinned:1"}
