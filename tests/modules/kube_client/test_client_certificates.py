"""A client certificate that somebody replaces on disk is shown to the API without a new start."""

from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from edgehive.api.registry import NODES
from edgehive.kit import tls
from edgehive.kit.clock import SystemClock
from edgehive.kit.http import serve, subject_of
from edgehive.kit.keypair import KeyPair
from edgehive.kit.ssl_contexts import server_context
from edgehive.kube.errors import Unauthorized
from edgehive.kube.http_client import HttpClient
from edgehive.kube.kubeconfig import load

NOW, DAY = SystemClock().now(), timedelta(days=1)


def put(folder: Path, pair: KeyPair) -> None:
    (folder / "client.crt").write_bytes(pair.certificate_pem)
    (folder / "client.key").write_bytes(pair.key_pem)


def kubeconfig(folder: Path, port: int) -> Path:
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": "ca.crt"}
    user = {"client-certificate": "client.crt", "client-key": "client.key"}
    file = folder / "config"
    file.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": user}],
            }
        )
    )
    return file


async def test_a_replaced_certificate_is_shown_after_the_old_one_was_refused(tmp_path: Path) -> None:
    ca = tls.self_signed_ca("ca", NOW, DAY)
    server = tls.issue(ca, common_name="s", names=["127.0.0.1"], usages=[tls.SERVER_AUTH], now=NOW, lifetime=DAY)
    for name, content in (
        ("ca.crt", ca.certificate_pem), ("s.crt", server.certificate_pem), ("s.key", server.key_pem)
    ):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    put(tmp_path, tls.issue(ca, common_name="old", now=NOW, lifetime=DAY))
    refused: set[str] = set()

    async def node(request: web.Request) -> web.Response:
        name, _ = subject_of(request)
        return web.json_response({"metadata": {"name": name}}, status=401 if name in refused else 200)

    app = web.Application()
    app.router.add_get("/{path:.*}", node)
    context = server_context(tmp_path / "s.crt", tmp_path / "s.key", client_ca=tmp_path / "ca.crt")
    async with (
        serve(app, host="127.0.0.1", port=0, ssl_context=context) as (_, port),
        HttpClient(load(str(kubeconfig(tmp_path, port)))) as client,
    ):
        assert (await client.get(NODES, "n")).meta.name == "old"
        put(tmp_path, tls.issue(ca, common_name="new", now=NOW, lifetime=DAY))
        (tmp_path / "client.key").write_bytes(b"half")
        refused.add("old")
        for _ in range(2):
            with pytest.raises(Unauthorized):
                await client.get(NODES, "n")
        put(tmp_path, tls.issue(ca, common_name="new", now=NOW, lifetime=DAY))
        assert (await client.get(NODES, "n")).meta.name == "new"
