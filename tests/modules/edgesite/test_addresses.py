"""Services get addresses and node ports of their own, keep them, and never share them."""

from typing import Any

import pytest

from edgehive.api.registry import SERVICES
from edgehive.edgesite.addresses import ServiceAddresses
from edgehive.kit.tls import new_key
from edgehive.kube.errors import AlreadyExists, Invalid, ServerError
from edgehive.kube.server.app import ServerOptions
from edgehive.testing.cluster import Cluster


def cluster(subnet: str = "10.96.0.0/16") -> Cluster:
    step = (lambda store: ServiceAddresses(store, subnet),)
    return Cluster(options=ServerOptions(service_account_key=new_key(), extra_admission=step))


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


async def test_every_service_gets_an_address_and_keeps_it() -> None:
    async with cluster() as site:
        client = site.client()
        made = [(await client.create(SERVICES, service(f"s{n}"), "default")).to_dict() for n in range(20)]
        addresses = [item["spec"]["clusterIP"] for item in made]
        assert len(set(addresses)) == 20
        assert all(address.startswith("10.96.") and address != "10.96.0.1" for address in addresses)
        assert made[0]["spec"]["clusterIPs"] == [addresses[0]]
        body = service("s0", ports=[{"port": 81}])
        updated = (await client.update(SERVICES, body, "default")).to_dict()
        assert updated["spec"]["clusterIP"] == addresses[0]


async def test_headless_and_external_services_get_none() -> None:
    async with cluster() as site:
        client = site.client()
        headless = (await client.create(SERVICES, service("a", clusterIP="None"), "default")).to_dict()
        assert headless["spec"]["clusterIP"] == "None"
        external = service("b", type="ExternalName", externalName="example.com")
        assert not (await client.create(SERVICES, external, "default")).to_dict()["spec"].get("clusterIP")


async def test_an_address_of_another_service_is_refused() -> None:
    async with cluster() as site:
        client = site.client()
        await client.create(SERVICES, service("a", clusterIP="10.96.0.9"), "default")
        with pytest.raises(Invalid, match="already allocated"):
            await client.create(SERVICES, service("b", clusterIP="10.96.0.9"), "default")
        with pytest.raises(AlreadyExists):
            await client.create(SERVICES, service("a", clusterIP="10.96.0.9"), "default")


async def test_a_full_range_is_told() -> None:
    async with cluster("10.96.0.0/30") as site:
        client = site.client()
        await client.create(SERVICES, service("a"), "default")
        with pytest.raises(ServerError, match=r"no address is left in 10\.96\.0\.0/30"):
            await client.create(SERVICES, service("b"), "default")


async def test_node_ports_are_unique() -> None:
    async with cluster() as site:
        client = site.client()
        bodies = [service(f"s{n}", type="NodePort") for n in range(10)]
        made = [(await client.create(SERVICES, body, "default")).to_dict() for body in bodies]
        ports = [item["spec"]["ports"][0]["nodePort"] for item in made]
        assert len(set(ports)) == 10
        assert all(30000 <= port < 32768 for port in ports)


async def test_an_address_or_node_port_out_of_range_or_taken_is_refused() -> None:
    async with cluster() as site:
        client = site.client()
        with pytest.raises(Invalid, match=r"1\.2\.3\.4\) is not in the valid range.*10\.96\.0\.0/16"):
            await client.create(SERVICES, service("a", clusterIP="1.2.3.4"), "default")
        await client.create(SERVICES, service("a", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]), "default")
        for port, why in ((30080, "already allocated"), (80, "not in the valid range.*30000-32767")):
            body = service("b", type="NodePort", ports=[{"port": 80, "nodePort": port}])
            with pytest.raises(Invalid, match=rf"spec\.ports\[0\]\.nodePort: Invalid value: {port}: .*{why}"):
                await client.create(SERVICES, body, "default")


async def test_a_replaced_service_keeps_its_node_port() -> None:
    async with cluster() as site:
        client = site.client()
        made = (await client.create(SERVICES, service("a", type="NodePort"), "default")).to_dict()
        body = service("a", type="NodePort", ports=[{"port": 81}])
        updated = (await client.update(SERVICES, body, "default")).to_dict()
        assert updated["spec"]["ports"][0]["nodePort"] == made["spec"]["ports"][0]["nodePort"]


async def test_what_another_type_has_no_use_for_is_given_back() -> None:
    async with cluster() as site:
        client = site.client()
        made = (await client.create(SERVICES, service("a", type="NodePort"), "default")).to_dict()
        made["spec"]["type"] = "ClusterIP"
        plain = (await client.update(SERVICES, made, "default")).to_dict()
        assert "nodePort" not in plain["spec"]["ports"][0]
        plain["spec"] |= {"type": "ExternalName", "externalName": "example.com"}
        external = (await client.update(SERVICES, plain, "default")).to_dict()
        assert not external["spec"].get("clusterIP")
        assert "ipFamilies" not in external["spec"]
