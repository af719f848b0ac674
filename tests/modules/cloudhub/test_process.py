"""The command itself: a real process, a real API over HTTP, a node that joins and gets its pod, a clean end."""

import asyncio
import contextlib
import signal
import socket
import ssl
import sys
from pathlib import Path

import aiohttp
import yaml

from edgehive.api.core import Secret
from edgehive.api.registry import PODS, SECRETS
from edgehive.kit import ssl_contexts, tls
from edgehive.kit.clock import SystemClock
from edgehive.kit.keypair import KeyPair, certificate_pem
from edgehive.kube.errors import NotFound
from edgehive.kube.server.identity import MASTERS, User
from edgehive.testing.cloud import EDGE_LABEL, ScriptedEdge, content_of
from edgehive.testing.cluster import Cluster
from edgehive.testing.ports import free_ports
from edgehive.wire import join
from edgehive.wire.ws import connect

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
}


def config(folder: Path, api: str, hub: int, https: int, monitor: int) -> Path:
    door = {"address": "127.0.0.1"}
    files = {key: str(folder / key) for key in ("tlsCAFile", "tlsCAKeyFile", "tlsCertFile", "tlsPrivateKeyFile")}
    file = folder / "cloudcore.yaml"
    cloud_hub = files | {
        "advertiseAddress": ["127.0.0.1"],
        "websocket": door | {"port": hub},
        "https": door | {"port": https},
    }
    data = {
        "commonConfig": {"monitorServer": {"bindAddress": f"127.0.0.1:{monitor}"}},
        "kubeAPIConfig": {"master": api},
        "modules": {"cloudHub": cloud_hub, "cloudStream": {"enable": False}},
    }
    file.write_text(yaml.safe_dump(data))
    return file


def api_of(cluster: Cluster):
    """The cluster over plain HTTP; whoever comes is its administrator."""
    return cluster.server.serve(host="127.0.0.1", port=0, without_credentials=User("admin", (MASTERS,)))


async def token_of(client) -> join.Token:
    async with asyncio.timeout(30):
        while True:
            try:
                secret = (await client.get(SECRETS, "tokensecret", "kubeedge")).read(Secret)
                return join.parse_token((secret.data or {})["tokendata"].decode())
            except NotFound:
                await asyncio.sleep(0.1)


async def ready(session: aiohttp.ClientSession, port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/readyz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)


async def test_cloudcore_as_a_process(tmp_path: Path) -> None:
    hub, https, monitor = free_ports(3)
    async with Cluster(clock=SystemClock()) as cluster, api_of(cluster) as address:
        file = config(tmp_path, f"http://127.0.0.1:{address[1]}", hub, https, monitor)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edgehive.cloudcore.app", "--config", str(file), stderr=asyncio.subprocess.PIPE
        )
        try:
            client = cluster.client()
            token = await token_of(client)
            async with aiohttp.ClientSession() as session:
                await ready(session, monitor)
                async with session.get(f"http://127.0.0.1:{monitor}/metrics") as response:
                    assert "edgehive_hub_sessions" in await response.text()
                ca = (await client.get(SECRETS, "casecret", "kubeedge")).read(Secret).data["cadata"]
                join.verify_ca(ca, token)
                trust = certificate_pem(ca).decode()
                key = tls.new_key()
                async with session.get(
                    f"https://127.0.0.1:{https}/edge.crt",
                    data=tls.request(key, "system:node:n1", ["system:nodes"]),
                    headers={"NodeName": "n1", "Authorization": f"Bearer {token.bearer}"},
                    ssl=ssl_contexts.client_context(trust),
                ) as response:
                    assert response.status == 200
                    pair = KeyPair(await response.read(), key)
            (tmp_path / "n.crt").write_bytes(pair.certificate_pem)
            (tmp_path / "n.key").write_bytes(pair.key_pem)
            context = ssl_contexts.client_context(trust, certificate=tmp_path / "n.crt", key=tmp_path / "n.key")
            edge = ScriptedEdge("n1", await connect(f"wss://127.0.0.1:{hub}", node="n1", ssl_context=context))
            await edge.keepalive()
            node = {"metadata": {"name": "n1", "labels": {EDGE_LABEL: ""}}}
            assert content_of(await edge.request("insert", "null/node/n1", node))["Err"] is None
            await edge.expect_object("null/node/n1")
            await client.create(PODS, POD, "default")
            await edge.expect_object("default/pod/web")
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(edge.closed.wait(), 10)
            await edge.close()
            _, errors = await asyncio.wait_for(process.communicate(), 20)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
        assert "Traceback" not in errors.decode()


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    hub, https, monitor = free_ports(3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", monitor))
        taken.listen()
        file = config(tmp_path, "http://127.0.0.1:1", hub, https, monitor)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edgehive.cloudcore.app", "--config", str(file), stderr=asyncio.subprocess.PIPE
        )
        _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert f"port {monitor} on 127.0.0.1 is in use" in errors.decode()
    assert "Traceback" not in errors.decode()


async def test_an_edited_address_is_served_by_the_running_process(tmp_path: Path) -> None:
    hub, https, monitor = free_ports(3)
    async with Cluster(clock=SystemClock()) as cluster, api_of(cluster) as address:
        file = config(tmp_path, f"http://127.0.0.1:{address[1]}", hub, https, monitor)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "edgehive.cloudcore.app", "--config", str(file), stderr=asyncio.subprocess.PIPE
        )
        try:
            await token_of(cluster.client())
            async with aiohttp.ClientSession() as session:
                await ready(session, monitor)
            before = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", hub))
            data = yaml.safe_load(file.read_text())
            data["modules"]["cloudHub"]["dnsNames"] = ["cloud.example"]
            file.write_text(yaml.safe_dump(data))
            async with asyncio.timeout(20):
                while await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", hub)) == before:
                    await asyncio.sleep(0.1)
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, errors.decode()
    assert "Traceback" not in errors.decode()
