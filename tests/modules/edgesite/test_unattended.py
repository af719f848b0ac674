"""Kinds a site only keeps: their creation is accepted with a warning that kubectl prints."""

from typing import Any

import aiohttp
import pytest

from edgehive.edgesite.unattended import UNATTENDED, Unattended
from edgehive.kit.tls import new_key
from edgehive.kube import warning_headers
from edgehive.kube.server.app import ServerOptions
from edgehive.kube.server.catalog import Catalog
from edgehive.testing.cluster import Cluster


async def warned(path: str, body: dict[str, Any]) -> list[str]:
    options = ServerOptions(service_account_key=new_key(), extra_admission=(lambda _: Unattended(),))
    async with (
        Cluster(options=options) as site,
        site.serve() as url,
        aiohttp.ClientSession() as session,
        session.post(url + path, json=body) as made,
    ):
        assert made.status == 201, await made.text()
        return warning_headers.texts(made.headers.getall("Warning", ()))


@pytest.mark.parametrize(
    ("path", "spec", "sentence"),
    [
        ("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
         {"scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}, "maxReplicas": 3},
         'HorizontalPodAutoscaler "web" is kept, but nothing on this site scales anything by it: use kubectl scale'),
        ("/api/v1/namespaces/default/resourcequotas", {"hard": {"pods": "3"}},
         'ResourceQuota "web" is kept, but nothing on this site counts or enforces it: set limits on the pods'),
    ],
)  # fmt: skip
async def test_a_kind_nobody_acts_on_is_told_at_its_creation(path: str, spec: dict[str, Any], sentence: str) -> None:
    assert await warned(path, {"metadata": {"name": "web"}, "spec": spec}) == [sentence]


async def test_other_kinds_are_created_in_silence() -> None:
    assert await warned("/api/v1/namespaces/default/configmaps", {"metadata": {"name": "web"}}) == []


def test_every_kind_named_is_one_the_server_has() -> None:
    assert UNATTENDED.keys() <= {served.storage for served in Catalog().all()}
