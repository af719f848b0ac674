"""A node whose date is set forth and back, and clouds with wrong dates: certificates are renewed once and no oftener,
and whatever a wrong date spoils is well again when the date is right.
"""

import asyncio
from datetime import datetime, timedelta

import pytest
from aiohttp import web

from edgehive.edgecore.edgehub import identity as identities
from edgehive.kit import tls
from edgehive.kit.clock import FixedClock, SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire.link import EndedUnanswered, JoinRefused
from tests.modules.edgehub.test_identity import DAY, cloud_at, make


class AskedClock(FixedClock):
    """Tells when it was asked."""

    def __init__(self, start: datetime) -> None:
        super().__init__(start)
        self.asked = asyncio.Event()

    def now(self) -> datetime:
        self.asked.set()
        return super().now()


class Node:
    """A node with a certificate of 365 days, the date of which the test sets by days."""

    def __init__(self, cloud, folder, **given):
        self.began = SystemClock().now()
        self.clock = AskedClock(self.began)
        self.identity = make(cloud, folder, token=cloud.token(), clock=self.clock, **given)
        self._request = self.identity._request_certificate
        self.identity._request_certificate = self._count_request
        self.requests = 0

    async def _count_request(self, **given):
        self.requests += 1
        await self._request(**given)

    def turn(self, days: float) -> None:
        self.clock.set(self.began + days * DAY)

    @property
    def certificate(self) -> bytes:
        return self.identity.credentials.certificate.read_bytes()

    def hold(self, cloud, *, starts: timedelta, lifetime: timedelta) -> None:
        pair = tls.issue(
            cloud.authority.ca, common_name="system:node:edge-1", organizations=["system:nodes"],
            now=self.began + starts, lifetime=lifetime,
        )  # fmt: skip
        self.identity.credentials.store(pair.certificate, pair.key_pem.decode())

    async def renews(self) -> bool:
        """Whether it asks for a new certificate now instead of waiting."""
        before = self.requests
        self.clock.asked.clear()
        waiting = spawn(self.identity.renewed(), name="renewal")
        await self.clock.asked.wait()
        await asyncio.sleep(0)
        if self.requests > before:
            await waiting
        await cancel_and_join(waiting)
        return self.requests > before

    async def connects(self) -> None:
        link = await self.identity.dial()
        await link.close()


@pytest.fixture
async def cloud():
    async with cloud_at("127.0.0.1") as running:
        yield running


@pytest.fixture
async def node(cloud, tmp_path):
    made = Node(cloud, tmp_path)
    await made.identity.prepare()
    return made


async def test_a_date_set_forth_beyond_half_the_life_renews_once(node):
    first = node.certificate
    node.turn(+220)
    assert await node.renews()
    second = node.certificate
    assert second != first
    assert not await node.renews()
    await node.connects()
    node.turn(0)
    assert not await node.renews()
    await node.connects()
    assert node.certificate == second


async def test_a_jump_is_noticed_while_the_node_waits_for_the_half_of_the_life(node, monkeypatch):
    monkeypatch.setattr(identities, "LONGEST_SLEEP", 0.01)
    waiting = spawn(node.identity.renewed(), name="renewal")
    await asyncio.sleep(0)
    node.turn(+220)
    async with asyncio.timeout(20):
        await waiting


async def test_a_date_set_forth_beyond_the_expiry_comes_back_once(node):
    first = node.certificate
    node.turn(+400)
    await node.connects()
    second = node.certificate
    assert second != first
    await node.connects()
    assert not await node.renews()
    node.turn(0)
    await node.connects()
    assert not await node.renews()
    assert node.certificate == second


@pytest.mark.parametrize("days", [-30, +30])
async def test_a_month_forth_or_back_changes_nothing(node, days):
    first = node.certificate
    for turned in (days, 0, -days):
        node.turn(turned)
        await node.connects()
        assert not await node.renews()
    assert node.certificate == first


async def test_short_certificates_are_not_renewed_in_a_loop_by_a_node_a_month_ahead(tmp_path):
    async with cloud_at("127.0.0.1", days=20) as cloud:
        node = Node(cloud, tmp_path)
        await node.identity.prepare()
        first = node.certificate
        node.turn(+30)
        await node.connects()
        second = node.certificate
        assert second != first
        for _ in range(3):
            await node.connects()
            assert not await node.renews()
        assert node.certificate == second


async def test_where_there_is_no_way_back_a_node_that_is_ahead_goes_on_with_its_certificate(tmp_path):
    """A Go cloud knows none, and it is not needed: by the cloud's date nothing has expired."""
    async with cloud_at("127.0.0.1", app=web.Application()) as go:
        node = Node(go, tmp_path)
        node.identity._token = ""
        node.identity.credentials.store_ca(go.authority.ca.certificate)
        node.hold(go, starts=timedelta(), lifetime=20 * DAY)
        first = node.certificate
        node.turn(+30)
        await node.connects()
        assert node.certificate == first


async def test_a_cloud_that_is_ahead_is_refused_with_a_word_about_dates_until_both_agree(cloud, node, tmp_path):
    async with cloud_at("127.0.0.1", ca=cloud.authority.ca, ahead=30 * DAY) as ahead:
        wrong = make(ahead, tmp_path)
        with pytest.raises(JoinRefused, match="not yet valid; compare the dates of both machines"):
            await wrong.dial()
    await node.connects()


async def test_a_certificate_the_cloud_does_not_take_yet_is_kept_and_tried_again(cloud, node):
    """The cloud's date was set back: nothing has expired, so there is nothing to be renewed."""
    node.hold(cloud, starts=30 * DAY, lifetime=365 * DAY)
    first = node.certificate
    for _ in range(2):
        with pytest.raises(EndedUnanswered):
            await node.identity.dial()
    assert node.certificate == first
    node.hold(cloud, starts=timedelta(), lifetime=365 * DAY)
    await node.connects()
