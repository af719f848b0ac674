"""The demonstration `examples/two-hosts/run` shows; every step is one line."""

import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from edgehive.edgesite.containerd import ContainerdUnavailable, preflight
from edgehive.testing.hosts import DemonstrationFailed
from edgehive.testing.two_hosts import NODE, TwoHosts, two_hosts

MANIFEST = Path(__file__).parent.parent / "hello" / "manifest.yaml"
NAMESPACE = "two-hosts"
BEGAN = time.perf_counter()


def say(text: str) -> None:
    print(f"{time.perf_counter() - BEGAN:5.1f} s  {text}", flush=True)


def main(arguments: list[str]) -> int:
    try:
        preflight()
        with two_hosts(say, Path(arguments[0]).absolute() if arguments else None) as hosts:
            try:
                show(hosts)
            except DemonstrationFailed:
                delete_hello(hosts, "--wait=false")
                raise
            delete_hello(hosts, "--timeout=40s")
            say("the example is deleted again")
    except (ContainerdUnavailable, DemonstrationFailed) as error:
        print(f"two-hosts: {error}", file=sys.stderr)
        return 1
    say("both hosts and all they had are gone")
    return 0


def show(hosts: TwoHosts) -> None:
    apply_hello(hosts)
    say("applied examples/hello")
    hosts.until("two pods to run", lambda: len(ready_pods(hosts)) == 2)
    say("both pods are Running on the edge node:")
    print(hosts.kubectl("get", "nodes", "-o", "wide"), end="")
    print(hosts.kubectl("-n", NAMESPACE, "get", "pods", "-o", "wide"), flush=True, end="")
    before = ready_pods(hosts)
    hosts.cut()
    say("the cable is cut")
    hosts.kubectl("-n", NAMESPACE, "scale", "deployment/hello", "--replicas=3")
    say("meanwhile in the cloud: scaled the Deployment to three replicas")
    time.sleep(5)
    for name, address in before.items():
        if name not in hosts.page(address):
            raise DemonstrationFailed(f"pod {name} does not serve its page while the cable is cut")
        say(f"without the cloud, pod {name} serves its page on the edge host")
    if len(ready_pods(hosts)) != 2:
        raise DemonstrationFailed("the third pod runs although the cable is cut")
    hosts.restore()
    say("the cable is back")
    hosts.until("the third pod to run", lambda: len(ready_pods(hosts)) == 3)
    after = ready_pods(hosts)
    if before.items() - after.items():
        raise DemonstrationFailed("the first two pods did not survive the cut")
    say("the change arrived: three pods are Running, the first two untouched")
    print(hosts.kubectl("-n", NAMESPACE, "get", "pods", "-o", "wide"), flush=True, end="")


def apply_hello(hosts: TwoHosts) -> None:
    """The example in a namespace of its own and, on a cluster with other nodes, on ours."""
    documents = [on_the_edge(item) for item in yaml.safe_load_all(MANIFEST.read_text())]
    documents.insert(0, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    path = hosts.data / "hello.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    hosts.kubectl("apply", "-f", str(path))


def on_the_edge(document: dict[str, Any]) -> dict[str, Any]:
    placed = copy.deepcopy(document)
    placed["metadata"]["namespace"] = NAMESPACE
    if placed["kind"] == "Deployment":
        placed["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": NODE}
    return placed


def delete_hello(hosts: TwoHosts, *how: str) -> None:
    hosts.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", *how)


def ready_pods(hosts: TwoHosts) -> dict[str, str]:
    """Addresses by name of the pods that are Running and Ready."""
    pods = json.loads(hosts.kubectl("-n", NAMESPACE, "get", "pods", "-o", "json"))["items"]
    return {
        pod["metadata"]["name"]: pod["status"]["podIP"]
        for pod in pods
        if any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"].get("conditions") or ())
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
