"""Our API server answers recorded kubectl and raw requests as the real one did.

Every exchange is replayed in order over HTTP. Compared: the status code, reason, message and details of
refusals, the columns of tables, and created objects with their defaults. Differences on purpose are listed
in `ON_PURPOSE` with their reason.
"""

import base64
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from edgehive.edgesite.definitions import kubeedge_definitions
from edgehive.kit.tls import new_key
from edgehive.kube.server import tables, urls
from edgehive.kube.server.app import ServerOptions
from edgehive.kube.server.catalog import Catalog
from edgehive.kube.server.protobuf import MAGIC, decode_body
from edgehive.testing.cluster import EPOCH, Cluster

SHARED = Path(os.environ.get("EDGEHIVE_SHARED") or Path(__file__).resolve().parents[2].parent / "shared")
FILE = SHARED / "golden" / "kube-api" / "exchanges.jsonl"

pytestmark = pytest.mark.skipif(
    not FILE.exists(), reason=f"no recorded traffic: {FILE} is absent (EDGEHIVE_SHARED names the folder above golden)"
)

#: How an exchange begins (label, method, path), and why ours differs.
ON_PURPOSE = {
    "kubectl describe node goedge": "the recorded node is not here",
    "kubectl cordon": "the recorded node is not here",
    "kubectl uncordon": "the recorded node is not here",
    "kubectl taint": "the recorded node is not here",
    "kubectl -n corpus describe pods": "pods are made by controllers, and none runs here",
    "kubectl -n corpus create token": "a token and its expiry are of the moment",
    "kubectl -n corpus rollout undo deploy web PATCH": "the patch tests an annotation the controller writes",
    "kubectl -n corpus delete pod one --now GET": "nothing scheduled the pod, so it went at once",
    "kubectl -n corpus auth can-i get pods --as": "everyone may do everything on this face; no RBAC reason is given",
    "kubectl auth whoami POST": "the face has no client certificate to name",
    "kubectl replace --validate=false -f m.yaml PUT": "the recorded body pins the recorded server's resourceVersion",
    "kubectl get devices -A GET": "our definition of a device has columns",
    "raw GET /api/v1/namespaces/corpus/configmaps?limit=1&continue=bad": "the parser has its own words",
    "raw POST /api/v1/namespaces/corpus/configmaps POST /api/v1/namespaces/corpus/configmaps {bad": "as above",
    "raw GET /api/v1/namespaces/corpus/configmaps/c1": "answers are never protobuf here",
}
#: Answers that describe the server's own build.
OWN_WORDS = ("/version", "/openapi", "/healthz", "/livez", "/readyz")
GENERATED = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "selfLink")
#: What a controller, or an admission plug-in that was switched off for the recording, adds.
ADDED = ("serviceAccount", "serviceAccountName", "volumes", "clusterIP", "clusterIPs")


def exchanges() -> list[dict[str, Any]]:
    return [json.loads(line) for line in FILE.read_text().splitlines()]


def decoded(message: dict[str, Any]) -> Any:
    raw = base64.b64decode(message["body_base64"]) if "body_base64" in message else (message.get("body") or "").encode()
    if raw.startswith(MAGIC):
        return decode_body(raw)[2]
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace")


def normal(value: Any, uid: str = "") -> Any:
    """Without what is generated, empty, or added by parts that do not run."""
    if isinstance(value, dict):
        kept = {key: normal(item, uid) for key, item in value.items() if key not in (*GENERATED, *ADDED)}
        kept.pop("volumeMounts", None)
        return {key: item for key, item in kept.items() if item not in (None, {}, [], "")}
    if isinstance(value, list):
        return [normal(item, uid) for item in value]
    return "UID" if uid and value == uid else value


def columns(answer: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(item["name"], item["type"], item["format"], item["priority"]) for item in answer["columnDefinitions"]]


def differences(exchange: dict[str, Any], status: int, ours: Any) -> list[str]:
    wanted, theirs = exchange["response"]["status"], decoded(exchange["response"])
    if status != wanted:
        return [f"status {status}, not {wanted}: {str(ours)[:200]}"]
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return []
    if theirs.get("kind") == "Table":
        return [] if columns(ours) == columns(theirs) else [f"columns {columns(ours)} not {columns(theirs)}"]
    if theirs.get("kind") == "Status" and wanted >= 400:
        keys = ("reason", "message", "details", "code")
        return [f"{key} {ours.get(key)!r} not {theirs.get(key)!r}" for key in keys if ours.get(key) != theirs.get(key)]
    if exchange["request"]["method"] == "POST" and wanted == 201 and "generateName" not in theirs.get("metadata", {}):
        mine, real = (normal(item, item["metadata"].get("uid", "")) for item in (ours, theirs))
        return [] if mine == real else [f"object {mine} not {real}"]
    return []


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    options = ServerOptions(service_account_key=new_key(), definitions=kubeedge_definitions())
    async with (
        Cluster(options=options) as cluster,
        cluster.serve() as url,
        aiohttp.ClientSession(base_url=url) as opened,
    ):
        yield opened


def is_compared(exchange: dict[str, Any]) -> bool:
    path, label = exchange["request"]["path"], exchange["label"]
    if path.startswith(OWN_WORDS) or exchange["response"].get("stream") or "watch=true" in path:
        return False
    if exchange["response"]["status"] == 304 or "resourceVersion=999999999" in path:
        return False
    request = exchange["request"]
    told = f"{label} {request['method']} {path} {request.get('body', '')}"
    return not told.startswith(tuple(ON_PURPOSE))


async def test_every_recorded_exchange_is_answered_alike(session: aiohttp.ClientSession) -> None:
    found: list[str] = []
    for number, exchange in enumerate(exchanges()):
        if not is_compared(exchange):
            continue
        request = exchange["request"]
        body = base64.b64decode(request["body_base64"]) if "body_base64" in request else request.get("body")
        headers = {key: value for key, value in request.get("headers", {}).items() if key != "Accept"}
        headers["Accept"] = request.get("headers", {}).get("Accept", "application/json")
        data = body.encode() if isinstance(body, str) else body
        async with session.request(request["method"], request["path"], data=data, headers=headers) as answer:
            raw = await answer.read()
            ours = json.loads(raw) if raw[:1] in (b"{", b"[") else raw.decode(errors="replace")
            found += [f"{number} {exchange['label']} {request['method']} {request['path']}: {text}"
                      for text in differences(exchange, answer.status, ours)]  # fmt: skip
    assert not found, "\n".join(found)


# ---------------------------------------------------------------- cells

#: Cells that tell the time of the recording.
TIMES = ("Age", "Last Seen", "First Seen", "Duration", "Last Schedule")


def whole_objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every complete object somewhere in an answer."""
    if isinstance(value, dict):
        metadata = value.get("metadata")
        known = isinstance(metadata, dict) and {"uid", "resourceVersion"} <= metadata.keys()
        if known and value.get("kind") != "PartialObjectMetadata":
            yield value
        for below in value.values():
            yield from whole_objects(below)
    elif isinstance(value, list):
        for below in value:
            yield from whole_objects(below)


def answers(exchange: dict[str, Any]) -> Iterator[Any]:
    """An answer, or each event of a watch."""
    for line in (exchange["response"].get("body") or "").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def test_recorded_objects_are_shown_in_the_recorded_cells() -> None:
    catalog, objects, rows = Catalog(), {}, []
    for exchange in exchanges():
        for answer in answers(exchange):
            for whole in whole_objects(answer):
                objects[whole["metadata"]["uid"], whole["metadata"]["resourceVersion"]] = whole
            if isinstance(answer, dict) and answer.get("kind") == "Table":
                names = [column["name"] for column in answer["columnDefinitions"]]
                rows += [(exchange["request"]["path"], names, row) for row in answer["rows"]]
    compared = set()
    for path, names, row in rows:
        metadata, place = row["object"]["metadata"], urls.read(path.partition("?")[0])
        item = objects.get((metadata["uid"], metadata["resourceVersion"]))
        served = catalog.find(place.group, place.version, place.plural) if place is not None else None
        if item is None or served is None:
            continue
        ours = tables.table(served.resource, [item], EPOCH)["rows"][0]["cells"]
        theirs = row["cells"]
        shown = [(name, own, real) for name, own, real in zip(names, ours, theirs, strict=True) if name not in TIMES]
        assert [own for _, own, _ in shown] == [real for _, _, real in shown], (path, shown)
        compared.add(served.storage)
    assert compared >= {"pods", "nodes", "deployments.apps", "services", "configmaps", "secrets", "namespaces"}
