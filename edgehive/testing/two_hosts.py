"""The two halves on two hosts that are namespaces of this machine: cloudcore on one, edgecore on the other.

For `examples/two-hosts/run` and the benchmark of the halves. Each host has its own network, mounts and processes
and ends with its first process, so that nothing of it can outlive the `with` block; a veth pair joins them.
"""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from edgehive.edgecore.edged.containerd import Containerd
from edgehive.edgesite import images
from edgehive.edgesite.containerd import PrivateContainerd

#: From a range for documentation: no network routes it.
CLOUD, EDGE, PREFIX = "198.51.100.1", "198.51.100.2", 30
NODE = "far-edge"
POD_SUBNET = "10.89.77.0/24"
API_PORT = 6443

_FETCH = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 8080, timeout=5)
connection.request("GET", "/")
print(connection.getresponse().read(4096).decode())
"""

Say = Callable[[str], None]


class DemonstrationFailed(Exception):
    """A step did not come true; the text says which, and where its log is."""


class Host:
    """Network, mount, host-name and process namespaces that live as long as their first process."""

    def __init__(self, name: str) -> None:
        self.name = name
        # The shell stays to collect the processes its host leaves behind.
        script = f"hostname {name} && ip link set lo up && echo up && sleep infinity & wait; wait"
        flags = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._holder = subprocess.Popen(  # noqa: S603 - no shell of the caller's words
            ["unshare", *flags, "bash", "-c", script],  # noqa: S607
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            raise DemonstrationFailed(f"this machine cannot make namespaces for the host {name}; see the message above")
        self.pid = children(self._holder.pid)[0]

    def command(self, *words: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--pid", "--", *words]

    def run(self, *words: str, timeout: float = 60.0) -> str:
        """The output of a program on this host; DemonstrationFailed with its last words when it fails."""
        return run(*self.command(*words), timeout=timeout)

    def end(self) -> None:
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()


class Machine(Host):
    """This machine itself in the role of a host: it reaches clusters the way it always does."""

    def __init__(self) -> None:
        self.name = "this machine"
        self.pid = os.getpid()

    def command(self, *words: str) -> list[str]:
        return list(words)

    def end(self) -> None:
        """Stays."""


class Half:
    """A process of ours on a host; its output goes to a log."""

    def __init__(self, host: Host, log: Path, *words: str) -> None:
        self.log = log
        with log.open("ab") as output:
            self._outer = subprocess.Popen(  # noqa: S603 - our own interpreter
                host.command(sys.executable, "-m", "edgehive", *words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._nested = not isinstance(host, Machine)

    @property
    def pid(self) -> int:
        """As this machine counts processes."""
        return next(iter(children(self._outer.pid)), 0) if self._nested else self._outer.pid

    def alive(self) -> bool:
        return self._outer.poll() is None

    def stop(self, patience: float = 20.0) -> None:
        if self.alive() and (pid := self.pid):
            os.kill(pid, signal.SIGTERM)
        try:
            self._outer.wait(patience)
        except subprocess.TimeoutExpired:
            if pid := self.pid:
                os.kill(pid, signal.SIGKILL)
            self._outer.kill()
            self._outer.wait()


class TwoHosts:
    """The set-up once it stands; `two_hosts` makes it."""

    def __init__(self, data: Path, cloud: Host, edge: Host, kubeconfig: Path) -> None:
        self.data, self.cloud, self.edge, self.kubeconfig = data, cloud, edge, kubeconfig
        self.cloudcore: Half | None = None
        self.edgecore: Half | None = None

    def kubectl(self, *words: str) -> str:
        program = shutil.which("kubectl") or str(Path(sys.executable).parent / "kubectl")
        return self.cloud.run(program, "--kubeconfig", str(self.kubeconfig), *words)

    def until(self, what: str, condition: Callable[[], Any], seconds: float = 60.0) -> None:
        """Look again and again; DemonstrationFailed when it does not come true."""
        deadline = time.perf_counter() + seconds
        while not condition():
            for half in (self.cloudcore, self.edgecore):
                if half is not None and not half.alive():
                    raise DemonstrationFailed(f"waiting for {what}, but a half ended: {last_line(half.log)}")
            if time.perf_counter() > deadline:
                raise DemonstrationFailed(f"waited {seconds:.0f} s in vain for {what}; the logs are in {self.data}")
            time.sleep(0.2)

    def cut(self) -> None:
        self.edge.run("ip", "link", "set", "uplink", "down")

    def restore(self) -> None:
        self.edge.run("ip", "link", "set", "uplink", "up")

    def page(self, address: str) -> str:
        """What a pod answers to somebody on the edge host."""
        return self.edge.run(sys.executable, "-c", _FETCH, address)

    # The steps of the set-up

    def join_hosts(self) -> None:
        """A veth pair, one end with each host."""
        outer = f"eh{os.getpid() % 10**8}"
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", "uplink", "netns", str(self.edge.pid))
        if not isinstance(self.cloud, Machine):
            run("ip", "link", "set", outer, "netns", str(self.cloud.pid))
        for host, link, address in ((self.cloud, outer, CLOUD), (self.edge, "uplink", EDGE)):
            host.run("ip", "addr", "add", f"{address}/{PREFIX}", "dev", link)
            host.run("ip", "link", "set", link, "up")

    def start_api_server(self) -> None:
        site = ["edgesite", "up", "--no-node", "--data", str(self.data / "site"), "--port", str(API_PORT)]
        self.api_server = Half(self.cloud, self.data / "site.log", *site)
        self.until("the API server", lambda: self.api_server_answers())

    def api_server_answers(self) -> bool:
        if not self.api_server.alive():
            raise DemonstrationFailed(f"the API server ended: {last_line(self.api_server.log)}")
        try:
            return self.kubeconfig.exists() and "ok" in self.kubectl("get", "--raw", "/readyz")
        except DemonstrationFailed:
            return False

    def start_cloudcore(self) -> None:
        path = self.data / "cloudcore.yaml"
        path.write_text(yaml.safe_dump(cloudcore_config(self.data / "cloud", self.kubeconfig)))
        self.cloudcore = Half(self.cloud, self.data / "cloudcore.log", "cloudcore", "--config", str(path))
        self.until("cloudcore's door for joining nodes", self.token)

    def token(self) -> str:
        """The join token cloudcore keeps in the cluster; "" until its door is open too."""
        try:
            secret = json.loads(self.kubectl("-n", "kubeedge", "get", "secret", "tokensecret", "-o", "json"))
            self.edge.run("bash", "-c", f"exec 3<>/dev/tcp/{CLOUD}/10002")
        except DemonstrationFailed:
            return ""
        return base64.b64decode(secret["data"]["tokendata"]).decode()

    def start_containerd(self) -> None:
        self.edge.run(sys.executable, "-m", "edgehive.testing.two_hosts", "start", str(self.data))

    def stop_containerd(self) -> None:
        self.edge.run(sys.executable, "-m", "edgehive.testing.two_hosts", "stop", str(self.data))

    def start_edgecore(self) -> None:
        path = self.data / "edgecore.yaml"
        path.write_text(yaml.safe_dump(edgecore_config(self.data / "edge", self.token(), runtime(self.data).endpoint)))
        self.edgecore = Half(self.edge, self.data / "edgecore.log", "edgecore", "--config", str(path))
        ready = '{.status.conditions[?(@.type=="Ready")].status}'

        def node_ready() -> bool:
            return self.kubectl("get", "node", NODE, "--ignore-not-found", "-o", f"jsonpath={ready}") == "True"

        self.until(f"the node {NODE} to be Ready", node_ready)


@contextmanager
def two_hosts(say: Say, kubeconfig: Path | None = None) -> Iterator[TwoHosts]:
    """Everything up to the Ready node; afterwards all of it is gone, from the given cluster too."""
    with ExitStack() as undo:
        # A short path: a unix socket's name has at most 107 bytes.
        data = Path(tempfile.mkdtemp(prefix="eh2-", dir="/tmp"))
        data.chmod(0o711)
        undo.callback(shutil.rmtree, data, ignore_errors=True)
        cloud = Host("cloud") if kubeconfig is None else Machine()
        undo.callback(cloud.end)
        edge = Host("edge")
        undo.callback(edge.end)
        hosts = TwoHosts(data, cloud, edge, kubeconfig or data / "site" / "kubeconfig")
        hosts.join_hosts()
        say(f"two hosts joined by a cable: cloud {CLOUD}, edge {EDGE}")
        if kubeconfig is None:
            hosts.start_api_server()
            undo.callback(hosts.api_server.stop)
            say("a Kubernetes API server answers on the cloud host")
        undo.callback(_forget, hosts, _absent(hosts))
        hosts.start_cloudcore()
        assert hosts.cloudcore is not None
        undo.callback(hosts.cloudcore.stop)
        say("cloudcore serves nodes on ports 10000 and 10002 of the cloud host")
        undo.callback(hosts.stop_containerd)
        hosts.start_containerd()
        say("containerd runs on the edge host, with the images the example needs")
        hosts.start_edgecore()
        assert hosts.edgecore is not None
        undo.callback(hosts.edgecore.stop)
        say(f"edgecore joined by token over TLS: node {NODE} is Ready")
        yield hosts


_OURS = (
    ("node", NODE),
    ("namespace", "kubeedge"),
    ("customresourcedefinition", "objectsyncs.reliablesyncs.kubeedge.io"),
    ("customresourcedefinition", "clusterobjectsyncs.reliablesyncs.kubeedge.io"),
)


def _absent(hosts: TwoHosts) -> list[tuple[str, str]]:
    """What of ours the cluster does not have yet, and so has to lose again."""
    return [item for item in _OURS if not hosts.kubectl("get", *item, "--ignore-not-found", "-o", "name")]


def _forget(hosts: TwoHosts, items: Sequence[tuple[str, str]]) -> None:
    if not isinstance(hosts.cloud, Machine):
        return  # the cluster goes as a whole
    for item in items:
        hosts.kubectl("delete", *item, "--ignore-not-found", "--wait=false")


def cloudcore_config(folder: Path, kubeconfig: Path) -> dict[str, Any]:
    hub = {
        "advertiseAddress": [CLOUD],
        "tlsCAFile": f"{folder}/ca/rootCA.crt",
        "tlsCAKeyFile": f"{folder}/ca/rootCA.key",
        "tlsCertFile": f"{folder}/certs/server.crt",
        "tlsPrivateKeyFile": f"{folder}/certs/server.key",
        "websocket": {"address": CLOUD, "port": 10000},
        "https": {"address": CLOUD, "port": 10002},
    }
    return {
        "apiVersion": "cloudcore.config.kubeedge.io/v1alpha1",
        "kind": "CloudCore",
        "commonConfig": {"monitorServer": {"bindAddress": f"{CLOUD}:9091"}},
        "kubeAPIConfig": {"kubeConfig": str(kubeconfig)},
        "modules": {"cloudHub": hub},
    }


def edgecore_config(folder: Path, token: str, endpoint: str) -> dict[str, Any]:
    kubelet = {
        "containerRuntimeEndpoint": endpoint,
        "imageServiceEndpoint": endpoint,
        "staticPodPath": f"{folder}/manifests",
    }
    hub = {
        "httpServer": f"https://{CLOUD}:10002",
        "websocket": {"server": f"{CLOUD}:10000"},
        "token": token,
        "heartbeat": 5,
        "tlsCaFile": f"{folder}/ca/rootCA.crt",
        "tlsCertFile": f"{folder}/certs/server.crt",
        "tlsPrivateKeyFile": f"{folder}/certs/server.key",
    }
    edged = {
        "hostnameOverride": NODE,
        "nodeIP": EDGE,
        "podSandboxImage": images.PAUSE,
        "rootDirectory": f"{folder}/kubelet",
        "tailoredKubeletConfig": kubelet,
    }
    modules = {"edgeHub": hub, "edged": edged, "eventBus": {"enable": False}, "deviceTwin": {"enable": False}}
    return {
        "apiVersion": "edgecore.config.kubeedge.io/v1alpha2",
        "kind": "EdgeCore",
        "database": {"dataSource": f"{folder}/edgecore.db"},
        "modules": modules,
    }


def run(*words: str, timeout: float = 60.0) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise DemonstrationFailed(f"`{' '.join(words)}` takes longer than {timeout:.0f} s") from None
    if done.returncode != 0:
        raise DemonstrationFailed(f"`{' '.join(words)}` failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"{log} is empty"


# On the edge host: its containerd


def runtime(data: Path) -> PrivateContainerd:
    return PrivateContainerd(data / "cd", bridge="pods0", subnet=POD_SUBNET)


async def _start(private: PrivateContainerd) -> None:
    await private.start()
    async with Containerd(private.endpoint) as client:
        for make in (images.pause_image, images.hello_image):
            await images.import_image(client, make())


def main(verb: str, data: str) -> None:
    private = runtime(Path(data))
    asyncio.run(_start(private) if verb == "start" else private.stop(purge=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
