"""Images pulled from a real registry by a real containerd: policies, secrets, refusals and recoveries."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pod_site import Site, container, first, named, running, until
from registry import Registry, fresh_image, pull_secret

from edgehive.api.registry import EVENTS, PODS, SECRETS
from edgehive.edgecore.edged import images

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(120)]


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    registry = Registry()
    async with registry.serve():
        yield registry


@pytest.fixture(autouse=True)
def short_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_FIRST_WAIT", 1.0)


def of(image: str, policy: str = "IfNotPresent") -> dict[str, Any]:
    return container("cat /marker; trap 'exit 0' TERM; while true; do sleep 0.1; done") | {
        "image": image,
        "imagePullPolicy": policy,
    }


def waits(reason: str) -> Any:
    def check(status: dict[str, Any]) -> bool:
        return bool(first(status).get("state", {}).get("waiting", {}).get("reason") == reason)

    return check


def message(status: dict[str, Any]) -> str:
    text: str = first(status)["state"]["waiting"].get("message", "")
    return text


async def told(site: Site, reason: str) -> list[str]:
    events = [item.to_dict() for item in (await site.api.list(EVENTS, "default")).items]
    return [item["message"] for item in events if item["reason"] == reason]


async def test_policies_decide_whether_the_registry_is_asked(site: Site, registry: Registry) -> None:
    image = registry.push("team/app", "1", fresh_image("one"))
    async with site.edged():
        await site.create("first", containers=[of(image)])
        status = await site.status("first", running)
        await until(lambda: site.log("first") == "one")
        assert first(status)["image"] == image
        assert first(status)["imageID"].startswith(f"{registry.host}/team/app@sha256:")
        assert registry.blobs_sent
        asked, sent = len(registry.pulled), registry.blobs_sent
        await site.create("second", containers=[of(image)])
        await site.status("second", running)
        assert len(registry.pulled) == asked
        registry.push("team/app", "1", fresh_image("two"))
        await site.create("third", containers=[of(image, "Always")])
        await site.status("third", running)
        await until(lambda: site.log("third") == "two")
        assert registry.blobs_sent > sent
        assert any(text.startswith(f'Successfully pulled image "{image}" in') for text in await told(site, "Pulled"))


async def test_a_digest_names_one_image_for_ever(site: Site, registry: Registry) -> None:
    old = fresh_image("old")
    registry.push("app", "1", old)
    registry.push("app", "1", fresh_image("new"))
    async with site.edged():
        await site.create("fixed", containers=[of(f"{registry.host}/app@{old.manifest.digest}")])
        await site.status("fixed", running)
        await until(lambda: site.log("fixed") == "old")


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_a_secret_opens_a_private_registry(site: Site, registry: Registry, auth: str) -> None:
    registry.auth = auth
    image = registry.push("private/app", "1", fresh_image("secret"))
    async with site.edged():
        await site.create("stranger", containers=[of(image)])
        status = await site.status("stranger", waits("ErrImagePull"))
        assert "401 Unauthorized" in message(status)
        await site.api.create(SECRETS, named("Secret", "pull", **pull_secret(registry)), "default")
        await site.create("friend", containers=[of(image)], imagePullSecrets=[{"name": "pull"}])
        await site.status("friend", running)
        await until(lambda: site.log("friend") == "secret")


async def test_the_nodes_own_credentials_serve_every_pod(site: Site, registry: Registry) -> None:
    registry.auth = "basic"
    image = registry.push("private/app", "1", fresh_image("ours"))
    text = base64.b64decode(pull_secret(registry)["data"][".dockerconfigjson"])
    (site.root / "config.json").write_bytes(text)
    async with site.edged():
        await site.create("app", containers=[of(image)])
        await site.status("app", running)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
async def test_a_wrong_secret_is_said_and_a_mended_one_is_used(site: Site, registry: Registry, auth: str) -> None:
    registry.auth = auth
    image = registry.push("private/app", "1", fresh_image("mended"))
    wrong = named("Secret", "pull", **pull_secret(registry, password="wrong"))
    async with site.edged():
        await site.api.create(SECRETS, wrong, "default")
        await site.create("app", containers=[of(image)], imagePullSecrets=[{"name": "pull"}])
        status = await site.status("app", waits("ErrImagePull"))
        assert "401 Unauthorized" in message(status)
        status = await site.status("app", waits("ImagePullBackOff"))
        assert message(status).startswith(f'Back-off pulling image "{image}"')
        await site.api.patch(SECRETS, "pull", {"data": pull_secret(registry)["data"]}, "default")
        await site.status("app", running)
        assert {"Error: ErrImagePull"} <= set(await told(site, "Failed"))
        assert f'Back-off pulling image "{image}"' in await told(site, "BackOff")


async def test_an_unknown_image_is_named(site: Site, registry: Registry) -> None:
    async with site.edged():
        await site.create("app", containers=[of(f"{registry.host}/nobody/has:this")])
        status = await site.status("app", waits("ErrImagePull"))
        assert f"{registry.host}/nobody/has:this" in message(status)
        assert "not found" in message(status)
        await site.api.delete(PODS, "app", "default")
        await site.gone("app")


async def test_a_registry_that_comes_back_is_used(site: Site) -> None:
    registry = Registry()
    async with registry.serve():
        image = registry.push("app", "1", fresh_image("back"))
    async with site.edged():
        await site.create("app", containers=[of(image)])
        status = await site.status("app", waits("ErrImagePull"))
        assert "connection refused" in message(status)
        await site.status("app", waits("ImagePullBackOff"))
        async with registry.serve():
            await site.status("app", running)
        await until(lambda: site.log("app") == "back")
