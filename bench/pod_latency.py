"""From the created pod to its Running status in the API, one pod at a time.

For the benchmarks of the site and of the pairings; `python -m bench.pod_latency KUBECONFIG COUNT NODE` prints the
seconds as a JSON list, for a cluster that only another host reaches.
"""

import asyncio
import json
import sys
import time

from edgehive.api.core import Pod
from edgehive.api.registry import PODS
from edgehive.edgesite.images import HELLO
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube import kubeconfig
from edgehive.kube.http_client import HttpClient
from edgehive.kube.informer import Informer

PAUSE_SECONDS = 0.5


def pod(name: str, node: str = "") -> dict[str, object]:
    """A pod that sleeps; with a node it is placed already."""
    container = {"name": "main", "image": HELLO, "command": ["sleep", "100000"], "imagePullPolicy": "IfNotPresent"}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0, **({"nodeName": node} if node else {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


async def latencies(client: HttpClient, count: int, node: str = "") -> list[float]:
    """Seconds of each of `count` pods, which are deleted again."""
    informer = Informer(client, PODS, "default")
    running = spawn(informer.run(), name="pods")
    await informer.wait_synced()
    taken = []
    for number in range(count):
        name = f"latency-{number}"
        began = time.perf_counter()
        await client.create(PODS, pod(name, node), "default")
        await _until_running(informer, name)
        taken.append(time.perf_counter() - began)
        await client.delete(PODS, name, "default", grace_period_seconds=0)
        while informer.get(name, "default") is not None:
            await asyncio.sleep(0.05)
        await asyncio.sleep(PAUSE_SECONDS)
    await cancel_and_join(running)
    return taken


async def _until_running(informer: Informer, name: str) -> None:
    async for change in informer.changes():
        document = change.new
        if document is not None and document.meta.name == name and document.read(Pod).status.phase == "Running":
            return


async def _main(path: str, count: str, node: str) -> None:
    async with HttpClient(kubeconfig.load(path)) as client:
        print(json.dumps(await latencies(client, int(count), node)))


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
