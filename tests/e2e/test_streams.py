"""kubectl's streams to pods of a node behind the tunnel: no iptables, no way from the API server to the node."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from edgehive.edgesite.images import HELLO
from edgehive.testing.hosts import DemonstrationFailed, children
from edgehive.testing.two_hosts import CLOUD, EDGE, NODE, TwoHosts, two_hosts

pytestmark = [pytest.mark.containerd, pytest.mark.kubectl, pytest.mark.timeout(240)]

#: A cut link is noticed after 20 s of silence.
NOTICED = 40.0
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {
        "nodeName": NODE,
        "containers": [
            {"name": "main", "image": HELLO, "imagePullPolicy": "IfNotPresent", "stdin": True},
            {
                "name": "ticker",
                "image": HELLO,
                "imagePullPolicy": "IfNotPresent",
                "command": [
                    "/bin/busybox",
                    "sh",
                    "-c",
                    "i=0; while echo tick $i; do i=$((i+1)); sleep 0.2; done",
                ],
            },
        ],
    },
}


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    with two_hosts(lambda _: None) as hosts:
        path = hosts.data / "pod.json"
        path.write_text(json.dumps(POD))
        hosts.kubectl("apply", "-f", str(path))
        phase = ("get", "pod", "web", "-o", "jsonpath={.status.phase}")
        hosts.until("the pod to run", lambda: hosts.kubectl(*phase) == "Running")
        hosts.until("the tunnel", lambda: "hello" in works(hosts, "exec", "web", "--", "/bin/busybox", "echo", "hello"))
        yield hosts


def works(hosts: TwoHosts, *words: str) -> str:
    try:
        return hosts.kubectl(*words)
    except DemonstrationFailed:
        return ""


def start(hosts: TwoHosts, *words: str) -> "subprocess.Popen[str]":
    command = hosts.cloud.command("kubectl", f"--kubeconfig={hosts.kubeconfig}", *words)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def stop(program: "subprocess.Popen[str]") -> None:
    """`nsenter` has kubectl for a child."""
    for pid in children(program.pid):
        os.kill(pid, signal.SIGTERM)
    program.communicate(timeout=10)


def test_the_node_shows_the_cloud_first_and_itself_second(hosts: TwoHosts) -> None:
    node = json.loads(hosts.kubectl("get", "node", NODE, "-o", "json"))
    shown = [item["address"] for item in node["status"]["addresses"] if item["type"] == "InternalIP"]
    assert shown == [CLOUD, EDGE]
    assert node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10003


def test_logs_from_the_beginning_the_end_and_as_they_come(hosts: TwoHosts) -> None:
    assert "serving on port" in hosts.kubectl("logs", "web", "-c", "main")
    lines = hosts.kubectl("logs", "web", "-c", "ticker", "--tail=2").splitlines()
    assert len(lines) == 2 and lines[0].startswith("tick ")
    following = start(hosts, "logs", "-f", "web", "-c", "ticker", "--tail=1")
    assert following.stdout is not None
    numbers = [int(following.stdout.readline().split()[1]) for _ in range(4)]
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    stop(following)


def test_exec_passes_input_output_errors_and_the_exit_code(hosts: TwoHosts) -> None:
    script = "cat; echo oops >&2; exit 3"
    running = start(hosts, "exec", "-i", "web", "-c", "main", "--", "/bin/busybox", "sh", "-c", script)
    out, errors = running.communicate("line\n" * 20000, timeout=60)
    assert (out, running.returncode) == ("line\n" * 20000, 3)
    assert errors.startswith("oops\n")


def test_attach_shows_what_a_container_says(hosts: TwoHosts) -> None:
    attached = start(hosts, "attach", "web", "-c", "ticker")
    assert attached.stdout is not None
    assert any(attached.stdout.readline().startswith("tick ") for _ in range(5))
    stop(attached)


def test_port_forward_reaches_a_pods_server(hosts: TwoHosts) -> None:
    forwarding = start(hosts, "port-forward", "pod/web", "18080:8080")
    assert forwarding.stdout is not None
    assert "Forwarding" in forwarding.stdout.readline()
    fetch = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:18080/', timeout=10).read().decode())"
    for _ in range(3):
        assert "Hello from web" in hosts.cloud.run("python3", "-c", fetch)
    stop(forwarding)


def test_a_file_is_copied_there_and_back(hosts: TwoHosts) -> None:
    original, back = hosts.data / "original", hosts.data / "back"
    original.write_bytes(os.urandom(3_000_000))
    hosts.kubectl("cp", str(original), "web:/tmp/copy", "-c", "main")
    hosts.kubectl("cp", "web:/tmp/copy", str(back), "-c", "main")
    assert back.read_bytes() == original.read_bytes()


def test_top_and_the_nodes_own_metrics(hosts: TwoHosts) -> None:
    assert "nodeName" in hosts.kubectl("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/stats/summary")
    assert "# TYPE" in hosts.kubectl("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/metrics/resource")
    hosts.until("figures of the node", lambda: NODE in works(hosts, "top", "node"))
    hosts.until("figures of the pod", lambda: "web" in works(hosts, "top", "pod"))


def test_a_cut_cable_ends_streams_with_one_clear_error_and_nothing_hangs(hosts: TwoHosts) -> None:
    following = start(hosts, "logs", "-f", "web", "-c", "ticker", "--tail=1")
    executing = start(hosts, "exec", "web", "-c", "main", "--", "/bin/busybox", "sleep", "1000")
    assert following.stdout is not None
    following.stdout.readline()
    hosts.cut()
    try:
        began = time.perf_counter()
        lines, _ = following.communicate(timeout=NOTICED)
        assert "the tunnel to the node was lost: nothing was heard" in lines
        executing.communicate(timeout=NOTICED)
        assert executing.returncode != 0
        assert time.perf_counter() - began < NOTICED
        with pytest.raises(DemonstrationFailed, match=f"node {NODE} has no tunnel to this cloudcore"):
            hosts.kubectl("logs", "web", "-c", "main")
        with pytest.raises(DemonstrationFailed, match="has no tunnel to this cloudcore"):
            hosts.kubectl("exec", "web", "-c", "main", "--", "/bin/busybox", "true")
    finally:
        hosts.restore()
    hosts.until("logs after the cut", lambda: "serving" in works(hosts, "logs", "web", "-c", "main"), seconds=60)
    assert hosts.kubectl("exec", "web", "-c", "main", "--", "/bin/busybox", "echo", "again") == "again\n"
