"""Replicas know of one another by Leases: one leads, whatever their clocks say, and the dead are forgotten.

Issue 4, "Several cloudcores".
"""

import asyncio
from datetime import timedelta

import pytest

from edgehive.api.registry import LEASES, NODES
from edgehive.cloudcore.replicas.election import NAME, Election
from edgehive.cloudcore.replicas.leases import NAMESPACE
from edgehive.cloudcore.replicas.membership import member
from edgehive.cloudcore.replicas.presence import NameTaken, Presence, lease_name
from edgehive.cloudcore.replicas.standing import Standing
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.errors import Forbidden
from edgehive.kube.informer import Informer
from edgehive.testing.cluster import Cluster
from edgehive.testing.replicas import Replicas, SkewedClock, name_of, replicas

pytestmark = pytest.mark.looptime


async def leader(them: Replicas) -> str:
    lease = await them.client.get(LEASES, NAME, NAMESPACE)
    return str(lease.to_dict()["spec"].get("holderIdentity", ""))


async def entries(them: Replicas) -> set[str]:
    names = {lease.meta.name for lease in (await them.client.list(LEASES, NAMESPACE)).items}
    return {name_of(number) for number in range(3) if lease_name(name_of(number)) in names}


@pytest.mark.parametrize("days", [0, 30, -30])
async def test_a_killed_leader_is_followed_by_one_other_whatever_the_clocks_say(days: int) -> None:
    async with replicas(skews=[timedelta(), timedelta(days=days), timedelta(days=-days)]) as them:
        await asyncio.sleep(60)
        assert await leader(them) == name_of(0)
        assert len(them.writes(kind="Lease", replica=1)) < 10
        began = asyncio.get_running_loop().time()
        await them.kill(0)
        while (now := await leader(them)) == name_of(0):
            await asyncio.sleep(0.5)
        assert 10 <= asyncio.get_running_loop().time() - began <= 20
        await asyncio.sleep(120)
        assert await leader(them) == now


async def test_a_leader_that_is_stopped_is_followed_at_once() -> None:
    async with replicas() as them:
        await asyncio.sleep(30)
        await them.stop(0)
        await asyncio.sleep(3)
        assert await leader(them) in (name_of(1), name_of(2))
        assert await entries(them) == {name_of(1), name_of(2)}


async def test_a_leader_without_an_api_stops_leading_before_another_begins() -> None:
    async with Cluster() as cluster:
        clock = SkewedClock(timedelta())
        standings = [Standing(Informer(cluster.client(), NODES), name) for name in "ab"]
        clients = [Cut(cluster.client()) for _ in standings]
        running = []
        for client, standing in zip(clients, standings, strict=True):
            running.append(spawn(Election(client, clock, standing).run(), name="election"))  # type: ignore[arg-type]
            await asyncio.sleep(1)
        assert [standing.leads for standing in standings] == [True, False]
        clients[0].cut = True
        for _ in range(300):
            await asyncio.sleep(0.1)
            assert not all(standing.leads for standing in standings)
        assert [standing.leads for standing in standings] == [False, True]
        clients[0].cut = False
        await asyncio.sleep(30)
        assert [standing.leads for standing in standings] == [False, True]
        await cancel_and_join(*running)


class Cut:
    """A client whose requests get no answer while it is cut."""

    def __init__(self, client: object) -> None:
        self._client = client
        self.cut = False

    def __getattr__(self, verb: str) -> object:
        method = getattr(self._client, verb)

        async def ask(*args: object, **options: object) -> object:
            if self.cut:
                await asyncio.Event().wait()
            return await method(*args, **options)

        return ask


async def test_the_leader_forgets_the_dead() -> None:
    async with replicas() as them:
        await asyncio.sleep(30)
        assert await entries(them) == {name_of(0), name_of(1), name_of(2)}
        await them.kill(2)
        await asyncio.sleep(240)
        assert await entries(them) == {name_of(0), name_of(1)}


async def test_a_replica_that_was_forgotten_enters_itself_again() -> None:
    async with replicas() as them:
        await asyncio.sleep(30)
        await them.client.delete(LEASES, lease_name(name_of(1)), NAMESPACE)
        await asyncio.sleep(15)
        assert name_of(1) in await entries(them)


async def test_a_replica_that_comes_back_under_its_name_takes_its_entry() -> None:
    async with replicas() as them:
        await asyncio.sleep(20)
        await them.kill(1)
        them.start(1)
        await asyncio.sleep(40)
        assert await entries(them) == {name_of(0), name_of(1), name_of(2)}


async def test_two_of_one_name_end_with_the_mend() -> None:
    async with Cluster() as cluster:
        clock = SkewedClock(timedelta())
        both = [
            spawn(Presence(cluster.client(), clock, Standing(None, "same:10000"), nonce).run(), name=nonce)
            for nonce in ("one", "two")
        ]
        done, _ = await asyncio.wait(both, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(NameTaken, match=r"commonConfig\.replica\.name"):
            done.pop().result()
        await cancel_and_join(*both)


class NoLeases:
    """A client whose account may keep none."""

    def __init__(self, client: object) -> None:
        self._client = client

    def __getattr__(self, verb: str) -> object:
        method = getattr(self._client, verb)

        async def ask(resource: object, *args: object, **options: object) -> object:
            if resource is LEASES:
                raise Forbidden("leases.coordination.k8s.io is forbidden")
            return await method(resource, *args, **options)

        return ask


async def test_where_no_lease_may_be_kept_it_acts_as_the_only_one_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Cluster() as cluster:
        client, clock = NoLeases(cluster.client()), SkewedClock(timedelta())
        standing = Standing(Informer(cluster.client(), NODES), "a")
        async with member(client, clock, standing) as presence:  # type: ignore[arg-type]
            await asyncio.sleep(120)
            assert standing.leads
            assert await presence.others() == []
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([text for text in said if "acts as if it were the only one" in text]) == 1
    assert len([text for text in said if "do not find this one" in text]) == 1


async def test_at_rest_a_cloudcore_writes_leases_only_and_few() -> None:
    async with replicas(1) as them:
        await them.connect("n1")
        await asyncio.sleep(30)
        marked = len(them.journal)
        await asyncio.sleep(600)
        written = them.journal[marked:]
        assert {write.kind for write in written} == {"Lease"}
        # One renewal of the office in five seconds, one of the entry in ten.
        assert len(written) <= 600 / 5 + 600 / 10 + 2
