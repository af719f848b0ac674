"""The way back while the cloud's own date is set forth and back: challenges stay short-lived and single-use, and
none that was answered stands in the way of others for longer than minutes.
"""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from edgehive.cloudcore.cloudhub import recovery
from edgehive.cloudcore.cloudhub.recovery import Recovery
from edgehive.kit import tls
from edgehive.kit.clock import FixedClock
from edgehive.wire import join
from edgehive.wire.link import JoinRefused

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MONTH = timedelta(days=30)
pytestmark = pytest.mark.looptime


class Believing:
    """A signer to whom every proof is good."""

    async def ask(self, _: object) -> None:
        return None


async def is_known(_: str) -> bool:
    return True


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
def way_back(clock: FixedClock) -> Recovery:
    ca = tls.self_signed_ca("KubeEdge", NOW, timedelta(days=3650))
    return Recovery(ca, Believing(), clock, is_known, grace=MONTH)  # type: ignore[arg-type]


async def come_back(way_back: Recovery, challenge: str) -> None:
    headers = {join.CHALLENGE_HEADER: challenge, join.EXPIRED_CERTIFICATE_HEADER: "", join.PROOF_HEADER: ""}
    await way_back.verify(headers, "n1", b"request")


async def test_nodes_come_back_whatever_the_date_was_before(
    way_back: Recovery, clock: FixedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "REMEMBERED", 1)
    clock.set(NOW + MONTH)
    await come_back(way_back, way_back.challenge("n1"))
    clock.set(NOW)
    with pytest.raises(JoinRefused, match="try again in some minutes"):
        await come_back(way_back, way_back.challenge("n1"))
    await asyncio.sleep(600)
    await come_back(way_back, way_back.challenge("n1"))


async def test_a_challenge_of_another_month_is_refused(way_back: Recovery, clock: FixedClock) -> None:
    for then, now in ((NOW + MONTH, NOW), (NOW, NOW + MONTH)):
        clock.set(then)
        challenge = way_back.challenge("n1")
        clock.set(now)
        with pytest.raises(JoinRefused, match="not of these minutes"):
            await come_back(way_back, challenge)


async def test_a_challenge_is_answered_once(way_back: Recovery) -> None:
    challenge = way_back.challenge("n1")
    await come_back(way_back, challenge)
    with pytest.raises(JoinRefused, match="answered already"):
        await come_back(way_back, challenge)
