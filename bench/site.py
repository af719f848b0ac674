"""An edge site with real containers: start, pod latency, memory, and a reboot without the cloud.

Needs root and containerd. Runs inside a network namespace of its own, so that nothing of the host (its ports,
bridges, another site) is touched or disturbs the figures.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.pod_latency import latencies, pod
from bench.report import Figure, at_most, resident_mib
from edgehive.api.core import Pod
from edgehive.api.registry import PODS
from edgehive.edgecore.edged.cri import CriClient
from edgehive.edgesite.containerd import PrivateContainerd
from edgehive.kube import kubeconfig
from edgehive.kube.http_client import HttpClient
from edgehive.testing.fleet.journal import quantile
from edgehive.testing.hosts import below_shims

LATENCY_PODS = 30
REBOOT_PODS = 20
IDLE_SECONDS = 20


def run() -> list[Figure]:
    if os.geteuid() != 0 or shutil.which("containerd") is None:
        print("the site benchmark needs root and containerd; skipped", file=sys.stderr)
        return []
    if "EDGEHIVE_BENCH_NAMESPACE" not in os.environ:
        return _inside_namespace()
    data = Path(tempfile.mkdtemp(prefix="eh-bench-"))
    try:
        return asyncio.run(_measure(data))
    finally:
        subprocess.run([*_edgesite("down"), "--data", str(data), "--purge"], check=False, capture_output=True)
        shutil.rmtree(data, ignore_errors=True)


def _inside_namespace() -> list[Figure]:
    """Run this benchmark again in a fresh network namespace that has one address and a default route."""
    script = (
        "ip link set lo up && ip link add up0 type bridge && ip addr add 192.0.2.10/24 dev up0 && ip link set up0 up"
        ' && ip route add default via 192.0.2.1 && exec "$@"'
    )
    code = "import json; from bench import site; from dataclasses import asdict; "
    code += "print(json.dumps([asdict(f) for f in site.run()]))"
    command = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, "-c", code]
    environment = {**os.environ, "EDGEHIVE_BENCH_NAMESPACE": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return [Figure(**entry) for entry in json.loads(done.stdout.splitlines()[-1])]


def _edgesite(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edgehive", "edgesite", *arguments]


async def _measure(data: Path) -> list[Figure]:
    figures = [_start(data)]
    state = json.loads(subprocess.check_output([*_edgesite("status", "-o", "json"), "--data", str(data)]))
    async with HttpClient(kubeconfig.load(str(data / "kubeconfig"))) as client:
        figures += await _pod_latency(client)
        await asyncio.sleep(IDLE_SECONDS)
        figures.append(at_most("edgesite resident, idle", resident_mib(int(state["pid"])), "MiB", 130))
        await _many_pods(client)
    figures.append(await _reboot_offline(data, int(state["pid"])))
    return figures


def _start(data: Path) -> Figure:
    began = time.perf_counter()
    subprocess.run([*_edgesite("up"), "--data", str(data), "--detach"], check=True, stdout=sys.stderr)
    return at_most("edgesite up to node Ready", time.perf_counter() - began, "s", 3.0)


async def _pod_latency(client: HttpClient) -> list[Figure]:
    taken = await latencies(client, LATENCY_PODS)
    return [
        at_most("pod created to Running, p50 of 30", quantile(taken, 0.5), "s", 0.5),
        Figure("pod created to Running, p99 of 30", round(quantile(taken, 0.99), 4), "s"),
    ]


async def _many_pods(client: HttpClient) -> None:
    for number in range(REBOOT_PODS):
        await client.create(PODS, pod(f"reboot-{number}"), "default")
    while True:
        found = await client.list(PODS, "default")
        if sum(item.read(Pod).status.phase == "Running" for item in found.items) == REBOOT_PODS:
            break
        await asyncio.sleep(0.5)
    await asyncio.sleep(2)


async def _reboot_offline(data: Path, site: int) -> Figure:
    """Kill the agent, containerd and every container; start the agent alone, thirty days later, without a cloud."""
    private = PrivateContainerd(data / "containerd")
    containerd = private.pid
    doomed = [site, *([containerd] if containerd else []), *below_shims(str(private.socket))]
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    await asyncio.sleep(1)
    await private.start()
    began = time.perf_counter()
    agent = subprocess.Popen([sys.executable, "-m", "bench.offline_agent", str(data)], stdout=sys.stderr)
    try:
        async with CriClient(private.endpoint) as cri:
            while (alive := await _running_containers(cri)) < REBOOT_PODS:
                if time.perf_counter() - began > 120:
                    return Figure("reboot offline, pods running after 120 s", alive, "", str(REBOOT_PODS), False)
                await asyncio.sleep(0.1)
        return at_most(f"reboot offline to {REBOOT_PODS} pods running", time.perf_counter() - began, "s", 8.0)
    finally:
        agent.terminate()
        agent.wait(20)


async def _running_containers(cri: CriClient) -> int:
    return sum(container.state == 1 for container in await cri.list_containers())
