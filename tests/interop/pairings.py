"""The pairings: cloudcore and edgecore on two hosts, each ours or stock, and the words their tests use.

`ours-alone` stands on our own API server; the others on the stock control plane.
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgehive.edgesite.images import HELLO
from edgehive.testing.hosts import DemonstrationFailed
from edgehive.testing.two_hosts import NODE, Cast, TwoHosts

PAIRINGS = {
    "ours-alone": Cast(),
    "ours-ours": Cast(stock_control_plane=True),
    "ours-stock": Cast(stock_edgecore=True, stock_control_plane=True),
    "stock-ours": Cast(stock_cloudcore=True, stock_control_plane=True),
    "stock-stock": Cast(stock_cloudcore=True, stock_edgecore=True, stock_control_plane=True),
}
Manifest = dict[str, Any]


@dataclass
class Pairing:
    """A pairing that stands, and the words its tests use."""

    name: str
    hosts: TwoHosts

    @property
    def cast(self) -> Cast:
        return self.hosts.cast

    def kubectl(self, *words: str) -> str:
        return self.hosts.kubectl(*words)

    def command(self, *words: str) -> str:
        """A kubectl command for a shell on the cloud host."""
        return shlex.join(["kubectl", f"--kubeconfig={self.hosts.kubeconfig}"]) + " " + " ".join(words)

    def tries(self, *words: str) -> bool:
        """Whether a command succeeds."""
        try:
            self.kubectl(*words)
        except DemonstrationFailed:
            return False
        return True

    def delete_pods(self, *names: str) -> None:
        self.kubectl("delete", "pod", *names, "--wait=false")
        for name in names:
            self.until_gone("pod", name)

    def apply(self, *manifests: Manifest) -> None:
        path = self.hosts.data / "manifest.json"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)}))
        self.kubectl("apply", "-f", str(path))

    def get(self, *words: str) -> Manifest:
        """An object, {} when it is not there."""
        text = self.kubectl("get", *words, "--ignore-not-found", "-o", "json")
        found: Manifest = json.loads(text) if text else {}
        return found

    def until(self, what: str, condition: Callable[[], Any], seconds: float = 60.0) -> None:
        self.hosts.until(what, condition, seconds)

    def until_running(self, name: str, seconds: float = 90.0) -> Manifest:
        """Wait for a pod to be Ready and return it."""
        self.until(f"pod {name} to be Ready", lambda: ready(self.get("pod", name)), seconds)
        return self.get("pod", name)

    def until_gone(self, *words: str, seconds: float = 60.0) -> None:
        self.until(f"{' '.join(words)} to be gone", lambda: not self.get(*words), seconds)

    def logs(self, pod: Manifest, container: str = "main") -> str:
        """What a container printed, read on the edge host itself."""
        meta = pod["metadata"]
        folder = f"/var/log/pods/{meta['namespace']}_{meta['name']}_{meta['uid']}/{container}"
        text = self.hosts.edge.run("bash", "-c", f"cat {folder}/*.log")
        return "\n".join(line.split(" ", 3)[3] for line in text.splitlines())

    def inside(self, pod: Manifest, *command: str) -> str:
        """Run a command in the first container of a pod, past edgecore and runtime.

        `ctr tasks exec` now and then ends well without the output, so the command enters the container's namespaces.
        """
        (pid,) = (process for container, process, _ in self.tasks() if container in container_ids(pod))
        enter = ["nsenter", f"--target={pid}", "--mount", "--pid", "--net", "--root", "--wd", "--"]
        return self.hosts.edge.run(*enter, *command)

    def tasks(self) -> list[tuple[str, str, str]]:
        """What the runtime of the edge runs: container, process and state."""
        socket = str(self.hosts.data / "cd" / "cd.sock")
        lines = self.hosts.edge.run("ctr", "-a", socket, "-n", "k8s.io", "tasks", "ls").splitlines()
        return [(words[0], words[1], words[2]) for line in lines[1:] if len(words := line.split()) == 3]


def container_ids(pod: Manifest) -> list[str]:
    return [item["containerID"].removeprefix("containerd://") for item in pod["status"]["containerStatuses"]]


def pod(name: str, *script: str, **spec: Any) -> Manifest:
    """A pod on the edge node that runs a shell script (by default: waits for its end politely)."""
    words = " ".join(script) or "trap 'exit 0' TERM; while true; do sleep 0.1; done"
    container = {
        "name": "main",
        "image": HELLO,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", words],
        **spec.pop("container", {}),
    }
    rest = {"nodeName": NODE, "terminationGracePeriodSeconds": 2, "containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": rest}


def ready(found: Manifest) -> bool:
    conditions = found.get("status", {}).get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
