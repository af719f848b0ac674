"""The rounds in which cloudcore looks whether it may serve metrics.k8s.io, and what it leaves when it stops."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from edgehive.api.registry import API_SERVICES, CONFIG_MAPS, KUBEEDGE, SERVICES
from edgehive.cloudcore.cloudstream.front_proxy import FrontProxy
from edgehive.cloudcore.cloudstream.metrics_door import AUTHENTICATION, ROUND_SECONDS, MetricsDoor
from edgehive.cloudcore.cloudstream.metrics_face import MetricsFace
from edgehive.cloudcore.cloudstream.metrics_objects import API_SERVICE, SERVER_NAME
from edgehive.cloudcore.cloudstream.metrics_registration import Registration
from edgehive.kit import tls
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import Forbidden, NotFound
from edgehive.kube.server.app import ServerOptions
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.looptime

DAY = timedelta(days=1)
CA = tls.self_signed_ca("proxies", SystemClock().now(), DAY).certificate_pem.decode()
PUBLISHED = {
    "requestheader-client-ca-file": CA,
    "requestheader-allowed-names": "[]",
    "requestheader-username-headers": '["X-Remote-User"]',
}


class Rig:
    def __init__(self, client: Client) -> None:
        self.client = client
        now = SystemClock().now()
        hub = tls.self_signed_ca("hub", now, DAY)
        pair = tls.issue(hub, common_name="x", names=[SERVER_NAME], usages=(tls.SERVER_AUTH,), now=now, lifetime=DAY)
        self.front = FrontProxy(SERVER_NAME, pair)
        face = MetricsFace(self.front, None, None)  # type: ignore[arg-type]
        registration = Registration(client, "192.0.2.1", 10003, hub.certificate_pem)
        self.door = MetricsDoor(client, face, registration)

    async def publish(self, **data: str) -> None:
        name, namespace = AUTHENTICATION
        body = {"metadata": {"name": name, "namespace": namespace}, "data": data}
        try:
            await self.client.create(CONFIG_MAPS, body, namespace)
        except Exception:
            await self.client.patch(CONFIG_MAPS, name, {"data": data}, namespace, type=PatchType.MERGE)

    async def registered(self) -> bool:
        try:
            await self.client.get(API_SERVICES, API_SERVICE)
        except NotFound:
            return False
        return True


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with Cluster(options=ServerOptions(extra_resources=(*KUBEEDGE, API_SERVICES))) as cluster:
        yield Rig(cluster.client())


async def rounds(count: int = 1) -> None:
    await asyncio.sleep(count * ROUND_SECONDS + 1)


async def test_it_serves_as_soon_as_the_front_proxy_is_known_and_leaves_nothing_behind(rig: Rig) -> None:
    keeping = spawn(rig.door.keep(), name="metrics")
    await rounds()
    assert not await rig.registered()
    await rig.publish(**PUBLISHED)
    await rounds()
    assert await rig.registered()
    await rig.publish(**{"requestheader-client-ca-file": ""})
    await rounds()
    assert not await rig.registered()
    await rig.publish(**PUBLISHED)
    await rounds()
    assert await rig.registered()
    await cancel_and_join(keeping)
    assert not await rig.registered()
    assert (await rig.client.list(SERVICES)).items == []


@pytest.mark.parametrize("ca", ["no certificate", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----"])
async def test_a_ca_that_is_none_is_said_and_lived_with(rig: Rig, ca: str, caplog: pytest.LogCaptureFixture) -> None:
    await rig.publish(**PUBLISHED | {"requestheader-client-ca-file": ca})
    with caplog.at_level(logging.INFO, "edgehive.cloudstream"):
        keeping = spawn(rig.door.keep(), name="metrics")
        await rounds(3)
        assert not keeping.done()
        assert [record.message.split(":")[0] for record in caplog.records] == [
            "metrics.k8s.io is not served to this cluster"
        ]
        await rig.publish(**PUBLISHED)
        await rounds()
        assert await rig.registered()
        await cancel_and_join(keeping)


async def test_an_account_without_the_rights_is_told_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    await rig.publish(**PUBLISHED)

    async def create(*_: Any, **__: Any) -> Any:
        raise Forbidden('apiservices is forbidden: User "cloudcore" cannot create resource "apiservices"')

    rig.client.create = create  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO, "edgehive.cloudstream"):
        keeping = spawn(rig.door.keep(), name="metrics")
        await rounds(4)
        assert [record.message for record in caplog.records] == [
            'metrics.k8s.io is not served to this cluster: apiservices is forbidden: User "cloudcore" cannot create '
            'resource "apiservices"'
        ]
        await cancel_and_join(keeping)
