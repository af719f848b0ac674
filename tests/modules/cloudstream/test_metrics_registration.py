"""metrics.k8s.io is cloudcore's while nobody else in the cluster serves it, and never longer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from edgehive.api.registry import API_SERVICES, CLUSTER_ROLES, ENDPOINTS, KUBEEDGE, LEASES, NAMESPACES, SERVICES
from edgehive.cloudcore.cloudstream import metrics_registration
from edgehive.cloudcore.cloudstream.metrics_objects import API_SERVICE, NAMESPACE, SERVICE
from edgehive.cloudcore.cloudstream.metrics_registration import NotAggregating, Registration
from edgehive.cloudcore.replicas.presence import Presence
from edgehive.cloudcore.replicas.standing import Standing
from edgehive.kit.clock import FixedClock, SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import NotFound
from edgehive.kube.server.app import ServerOptions
from edgehive.testing.cluster import Cluster

CA = b"-----BEGIN CERTIFICATE-----\n"
ELSEWHERE = {"namespace": "kube-system", "name": "metrics-server", "port": 443}


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    options = ServerOptions(extra_resources=(*KUBEEDGE, API_SERVICES))
    async with Cluster(options=options) as cluster:
        yield cluster.client()


def registration(client: Client, address: str = "192.0.2.1", port: int = 10003) -> Registration:
    return Registration(client, address, port, CA)


async def spec(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(API_SERVICES, API_SERVICE)).to_dict()["spec"]
    return found


async def there(client: Client) -> set[str]:
    """Which of our objects there are."""
    found = set()
    for resource, name, namespace in (
        (API_SERVICES, API_SERVICE, ""), (SERVICES, SERVICE, NAMESPACE), (ENDPOINTS, SERVICE, NAMESPACE),
    ):  # fmt: skip
        try:
            await client.get(resource, name, namespace)
            found.add(resource.kind)
        except NotFound:
            pass
    return found


async def addresses(client: Client) -> list[tuple[str, int]]:
    found = (await client.get(ENDPOINTS, SERVICE, NAMESPACE)).to_dict()
    return [(item["ip"], subset["ports"][0]["port"]) for subset in found["subsets"] for item in subset["addresses"]]


async def test_where_nobody_serves_metrics_cloudcore_is_named(client: Client) -> None:
    await registration(client).check()
    found = await spec(client)
    assert found["service"] == {"namespace": NAMESPACE, "name": SERVICE, "port": 10003}
    assert found["caBundle"] and not found.get("insecureSkipTLSVerify")
    service = (await client.get(SERVICES, SERVICE, NAMESPACE)).to_dict()["spec"]
    assert "selector" not in service and service["ports"][0]["port"] == 10003
    assert await addresses(client) == [("192.0.2.1", 10003)]
    (role,) = [item for item in (await client.list(CLUSTER_ROLES)).items if "aggregated-metrics" in item.meta.name]
    assert (role.meta.labels or {})["rbac.authorization.k8s.io/aggregate-to-view"] == "true"


async def test_what_somebody_changed_in_it_is_mended(client: Client) -> None:
    one = registration(client)
    await one.check()
    await client.patch(API_SERVICES, API_SERVICE, {"spec": {"caBundle": "eA=="}}, type=PatchType.MERGE)
    await client.delete(SERVICES, SERVICE, NAMESPACE)
    await one.check()
    assert (await spec(client))["caBundle"] != "eA=="
    assert await there(client) == {"APIService", "Service", "Endpoints"}


async def test_another_s_registration_is_not_touched(client: Client) -> None:
    meta = {"name": API_SERVICE}
    body = {"metadata": meta, "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "service": ELSEWHERE}}
    await client.create(API_SERVICES, body)
    one = registration(client)
    for _ in range(2):
        await one.check()
    assert await there(client) == {"APIService"}
    assert (await spec(client))["service"] == ELSEWHERE
    await one.withdraw()
    assert (await spec(client))["service"] == ELSEWHERE


async def test_whoever_writes_himself_into_it_has_it_from_then_on(client: Client) -> None:
    """`kubectl apply` leaves our label where it is."""
    one = registration(client)
    await one.check()
    await client.patch(API_SERVICES, API_SERVICE, {"spec": {"service": ELSEWHERE}}, type=PatchType.MERGE)
    await one.check()
    assert await there(client) == {"APIService"}
    await client.delete(API_SERVICES, API_SERVICE)
    await one.check()
    assert await there(client) == {"APIService", "Service", "Endpoints"}


@pytest.mark.parametrize("label", ["k8s-app", "app.kubernetes.io/name"])
async def test_it_makes_way_for_a_metrics_server_that_cannot_register_yet(client: Client, label: str) -> None:
    one = registration(client)
    await one.check()
    await client.create(NAMESPACES, {"metadata": {"name": "monitoring"}})
    meta = {"name": "metrics-server", "labels": {label: "metrics-server"}}
    body = {"metadata": meta, "spec": {"ports": [{"port": 443}]}}
    await client.create(SERVICES, body, "monitoring")
    await one.check()
    assert await there(client) == set()


async def unreached(client: Client, *registrations: Registration) -> None:
    """As many rounds as it takes, in which the API server says that it does not get through."""
    for _ in range(metrics_registration.MISSED + 1):
        for one in registrations:
            await one.check()
        if "APIService" in await there(client):
            condition = {"type": "Available", "status": "False", "message": "no route to host"}
            status = {"status": {"conditions": [condition]}}
            await client.patch(API_SERVICES, API_SERVICE, status, type=PatchType.MERGE, subresource="status")


async def reached(client: Client) -> None:
    status = {"status": {"conditions": [{"type": "Available", "status": "True"}]}}
    await client.patch(API_SERVICES, API_SERVICE, status, type=PatchType.MERGE, subresource="status")


async def alias(client: Client) -> str:
    spec = (await client.get(SERVICES, SERVICE, NAMESPACE)).to_dict()["spec"]
    return str(spec.get("externalName", "")) if spec["type"] == "ExternalName" else ""


async def test_an_api_server_without_kube_proxy_is_given_the_address_itself(client: Client) -> None:
    one = registration(client)
    await one.check()
    assert one.unsettled
    await unreached(client, one)
    assert await alias(client) == "192.0.2.1"
    await reached(client)
    await one.check()
    assert not one.unsettled
    again = registration(client)  # after a crash
    await again.check()
    assert await alias(client) == "192.0.2.1"
    await again.withdraw()
    assert await there(client) == set()


async def test_one_address_answers_for_all_cloudcores_and_the_next_takes_over(client: Client) -> None:
    first, second = registration(client), registration(client, "192.0.2.2")
    await first.check()
    await unreached(client, first)
    await reached(client)
    await second.check()
    await first.check()
    assert await alias(client) == "192.0.2.1"
    await second.withdraw()
    assert await alias(client) == "192.0.2.1"
    await second.check()
    await first.withdraw()
    await second.check()
    assert await alias(client) == "192.0.2.2"


async def test_one_that_was_reached_is_given_time(client: Client) -> None:
    one = registration(client)
    await one.check()
    await reached(client)
    await one.check()
    await unreached(client, one)
    assert await alias(client) == ""


async def test_it_goes_where_the_api_server_cannot_reach_it_and_tries_again_later(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_registration, "REST", 3)
    one = registration(client)
    await unreached(client, one)
    assert await alias(client) == "192.0.2.1"
    for _ in range(metrics_registration.MISSED - 1):
        await one.check()
    assert await there(client) == {"APIService", "Service"}
    await one.check()
    assert await there(client) == set()
    for _ in range(3):
        await one.check()
        assert await there(client) == set()
    await one.check()
    assert await there(client) == {"APIService", "Service", "Endpoints"}


async def test_the_last_cloudcore_that_stops_takes_everything_with_it(client: Client) -> None:
    first, second = registration(client), registration(client, "192.0.2.2", 20003)
    await first.check()
    await second.check()
    await first.check()
    assert sorted(await addresses(client)) == [("192.0.2.1", 10003), ("192.0.2.2", 20003)]
    await first.withdraw()
    assert await addresses(client) == [("192.0.2.2", 20003)]
    assert await there(client) == {"APIService", "Service", "Endpoints"}
    await second.withdraw()
    assert await there(client) == set()


@asynccontextmanager
async def siblings(client: Client, count: int) -> AsyncIterator[list[Registration]]:
    """Cloudcores at one address, as workers of a machine or replicas behind a balancer are."""
    clock = SystemClock()
    presences = [Presence(client, clock, Standing(name=f"cloud-{number}"), "life") for number in range(count)]
    running = [spawn(presence.run(), name="register") for presence in presences]
    try:
        yield [Registration(client, "192.0.2.1", 10003, CA, holders=presence) for presence in presences]
    finally:
        await cancel_and_join(*running)


async def test_an_address_that_others_share_stays_until_the_last_of_them_goes(client: Client) -> None:
    async with siblings(client, 3) as them:
        for one in them:
            await one.check()
        for one in them[:2]:
            await one.withdraw()
            assert await addresses(client) == [("192.0.2.1", 10003)]
            assert await there(client) == {"APIService", "Service", "Endpoints"}
        await them[2].withdraw()
        assert await there(client) == set()


async def test_of_all_that_go_at_once_somebody_is_the_last(client: Client) -> None:
    async with siblings(client, 3) as them:
        for one in them:
            await one.check()
        await asyncio.gather(*(one.withdraw() for one in them))
        assert await there(client) == set()


async def test_one_that_shares_its_address_leaves_those_of_others_alone(client: Client) -> None:
    elsewhere = registration(client, "192.0.2.2")
    await elsewhere.check()
    async with siblings(client, 2) as them:
        for one in them:
            await one.check()
        await them[0].withdraw()
        assert sorted(await addresses(client)) == [("192.0.2.1", 10003), ("192.0.2.2", 10003)]
        await them[1].withdraw()
        assert await addresses(client) == [("192.0.2.2", 10003)]


async def test_one_that_was_killed_holds_no_address_for_ever(client: Client) -> None:
    long_ago = SystemClock().now() - timedelta(minutes=5)
    killed = Presence(client, FixedClock(long_ago), Standing(name="killed"), "life")
    running = spawn(killed.run(), name="register")
    await Registration(client, "192.0.2.1", 10003, CA, holders=killed).check()
    async with siblings(client, 1) as (one,):
        await one.check()
        assert len((await client.list(LEASES, "kubeedge")).items) == 2
        await one.withdraw()
        assert await there(client) == set()
    await cancel_and_join(running)


async def test_an_api_server_that_aggregates_nothing_is_left_alone() -> None:
    async with Cluster() as cluster:
        with pytest.raises(NotAggregating):
            await registration(cluster.client()).check()
        assert (await cluster.client().list(SERVICES)).items == []
