"""The two halves on two hosts that are namespaces of this machine: cloudcore on one, edgecore on the other.

For `examples/two-hosts/run` and the benchmark of the halves. Each host has its own network, mounts and processes
and ends with its first process, so that nothing of it can outlive the `with` block; a veth pair joins them.
"""

import asyncio
import base64
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgehive.edgecore.edged.containerd import Containerd
from edgehive.edgesite import images
from edgehive.edgesite.containerd import PrivateContainerd
from edgehive.testing import stock
from edgehive.testing.hosts import DemonstrationFailed, Host, Machine, Program, last_line, run

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

_OURS = (sys.executable, "-m", "edgehive")


@dataclass(frozen=True)
class Cast:
    """Who plays which part: each half ours or stock, and our API server or the stock control plane."""

    stock_cloudcore: bool = False
    stock_edgecore: bool = False
    stock_control_plane: bool = False

    def cloudcore(self) -> tuple[str, ...]:
        return (stock.program("cloudcore"),) if self.stock_cloudcore else (*_OURS, "cloudcore")

    def edgecore(self) -> tuple[str, ...]:
        return (stock.program("edgecore"),) if self.stock_edgecore else (*_OURS, "edgecore")


class TwoHosts:
    """The set-up once it stands; `two_hosts` makes it."""

    def __init__(self, data: Path, cloud: Host, edge: Host, kubeconfig: Path, cast: Cast) -> None:
        self.data, self.cloud, self.edge, self.kubeconfig, self.cast = data, cloud, edge, kubeconfig, cast
        self.cloudcore: Program | None = None
        self.edgecore: Program | None = None
        #: Halves that start from now on have these feature gates and these settings of modules.
        self.feature_gates: dict[str, bool] = {}
        self.cloud_modules: dict[str, Any] = {}
        self.edge_modules: dict[str, Any] = {}

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
        outer = f"ehv{os.getpid() % 10**8}"
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", "uplink", "netns", str(self.edge.pid))
        if not isinstance(self.cloud, Machine):
            run("ip", "link", "set", outer, "netns", str(self.cloud.pid))
        for host, link, address in ((self.cloud, outer, CLOUD), (self.edge, "uplink", EDGE)):
            host.run("ip", "addr", "add", f"{address}/{PREFIX}", "dev", link)
            host.run("ip", "link", "set", link, "up")
        if not isinstance(self.cloud, Machine):
            # Stock cloudcore takes the address of the default route for its own.
            self.cloud.run("ip", "route", "add", "default", "via", EDGE)

    def start_api_server(self) -> None:
        site = ["edgesite", "up", "--no-node", "--data", str(self.data / "site"), "--port", str(API_PORT)]
        self.api_server = Program(self.cloud, self.data / "site.log", *_OURS, *site)
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
        config = cloudcore_config(self.data / "cloud", self.kubeconfig) | {"featureGates": self.feature_gates}
        config["modules"] |= self.cloud_modules
        path.write_text(yaml.safe_dump(config))
        self.cloudcore = Program(self.cloud, self.data / "cloudcore.log", *self.cast.cloudcore(), "--config", str(path))
        self.until("cloudcore's door for joining nodes", self.token)

    def token(self) -> str:
        """The join token cloudcore keeps in the cluster; "" until its door is open too."""
        try:
            secret = json.loads(self.kubectl("-n", "kubeedge", "get", "secret", "tokensecret", "-o", "json"))
            self.edge.run("bash", "-c", f"exec 3<>/dev/tcp/{CLOUD}/10002")
        except DemonstrationFailed:
            return ""
        return base64.b64decode(secret["data"]["tokendata"]).decode()

    def end_cloudcore(self, *, kill: bool = False) -> None:
        half, self.cloudcore = self.cloudcore, None
        _end(half, kill=kill)

    def end_edgecore(self, *, kill: bool = False) -> None:
        """Its containers run on."""
        half, self.edgecore = self.edgecore, None
        _end(half, kill=kill)

    def start_containerd(self) -> None:
        self.edge.run(sys.executable, "-m", "edgehive.testing.two_hosts", "start", str(self.data))

    def stop_containerd(self) -> None:
        self.edge.run(sys.executable, "-m", "edgehive.testing.two_hosts", "stop", str(self.data))

    def start_edgecore(self) -> None:
        path = self.data / "edgecore.yaml"
        config = edgecore_config(self.data / "edge", self.token(), runtime(self.data).endpoint)
        if self.cast.stock_edgecore:
            config["modules"]["edged"]["tailoredKubeletConfig"] |= {
                "cgroupsPerQOS": False,
                "enforceNodeAllocatable": [],
            }
        config |= {"featureGates": self.feature_gates}
        config["modules"] |= self.edge_modules
        path.write_text(yaml.safe_dump(config))
        self.edgecore = Program(self.edge, self.data / "edgecore.log", *self.cast.edgecore(), "--config", str(path))
        ready = '{.status.conditions[?(@.type=="Ready")].status}'

        def node_ready() -> bool:
            return self.kubectl("get", "node", NODE, "--ignore-not-found", "-o", f"jsonpath={ready}") == "True"

        self.until(f"the node {NODE} to be Ready", node_ready)


@contextmanager
def two_hosts(say: Say, kubeconfig: Path | None = None, cast: Cast = Cast()) -> Iterator[TwoHosts]:
    """Everything up to the Ready node; afterwards all of it is gone, from the given cluster too."""
    with ExitStack() as undo:
        # A short path: a unix socket's name has at most 107 bytes.
        data = Path(tempfile.mkdtemp(prefix="eh2-", dir="/tmp"))
        data.chmod(0o711)
        undo.push(lambda kind, _error, _trace: _sweep(data, keep_logs=kind is DemonstrationFailed))
        cloud = Host("cloud") if kubeconfig is None else Machine()
        undo.callback(cloud.end)
        edge = Host("edge", private=_PRIVATE if cast.stock_edgecore else (), layers=data / "layers")
        undo.callback(edge.end)
        hosts = TwoHosts(data, cloud, edge, kubeconfig or data / "site" / "kubeconfig", cast)
        hosts.join_hosts()
        say(f"two hosts joined by a cable: cloud {CLOUD}, edge {EDGE}")
        if cast.stock_control_plane:
            control_plane = stock.ControlPlane(cloud, CLOUD, data / "site")
            undo.callback(control_plane.stop)
            control_plane.start(hosts.until)
            if cast.stock_cloudcore:
                control_plane.lead_streams(data / "cloud", EDGE)
            for path in stock.definitions(records=cast.stock_cloudcore):
                hosts.kubectl("apply", "--server-side", "-f", str(path))
            say("a stock Kubernetes control plane answers on the cloud host")
        elif kubeconfig is None:
            hosts.start_api_server()
            undo.callback(hosts.api_server.stop)
            say("a Kubernetes API server answers on the cloud host")
        undo.callback(_forget, hosts, _absent(hosts))
        hosts.start_cloudcore()
        undo.callback(hosts.end_cloudcore)
        say("cloudcore serves nodes on ports 10000 and 10002 of the cloud host")
        undo.callback(hosts.stop_containerd)
        hosts.start_containerd()
        say("containerd runs on the edge host, with the images the example needs")
        hosts.start_edgecore()
        undo.callback(hosts.end_edgecore)
        say(f"edgecore joined by token over TLS: node {NODE} is Ready")
        yield hosts


def _end(half: Program | None, *, kill: bool) -> None:
    if half is not None and kill:
        half.kill()
    elif half is not None:
        half.stop()


def _sweep(data: Path, *, keep_logs: bool) -> None:
    """Remove the data; after a failure all but the logs its message speaks of."""
    if not keep_logs:
        shutil.rmtree(data, ignore_errors=True)
        return
    for entry in data.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.suffix != ".log":
            entry.unlink()


#: Folders that stock edgecore writes to whatever its configuration says.
_PRIVATE = ("/etc", "/var/lib", "/var/log")

_TRACES = (
    ("node", NODE),
    ("namespace", "kubeedge"),
    ("customresourcedefinition", "objectsyncs.reliablesyncs.kubeedge.io"),
    ("customresourcedefinition", "clusterobjectsyncs.reliablesyncs.kubeedge.io"),
)


def _absent(hosts: TwoHosts) -> list[tuple[str, str]]:
    """What of ours the cluster does not have yet, and so has to lose again."""
    return [item for item in _TRACES if not hosts.kubectl("get", *item, "--ignore-not-found", "-o", "name")]


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
        "unixsocket": {"enable": False, "address": f"unix://{folder}/kubeedge.sock"},
        "websocket": {"address": CLOUD, "port": 10000},
        "https": {"address": CLOUD, "port": 10002},
    }
    stream = {
        "enable": True,
        "tlsTunnelCAFile": f"{folder}/ca/rootCA.crt",
        "tlsTunnelCertFile": f"{folder}/certs/server.crt",
        "tlsTunnelPrivateKeyFile": f"{folder}/certs/server.key",
        "tlsStreamCAFile": f"{folder}/ca/streamCA.crt",
        "tlsStreamCertFile": f"{folder}/certs/stream.crt",
        "tlsStreamPrivateKeyFile": f"{folder}/certs/stream.key",
    }
    return {
        "apiVersion": "cloudcore.config.kubeedge.io/v1alpha1",
        "kind": "CloudCore",
        "commonConfig": {"monitorServer": {"bindAddress": f"{CLOUD}:9091"}},
        "kubeAPIConfig": {"kubeConfig": str(kubeconfig)},
        "modules": {"cloudHub": hub, "cloudStream": stream, "iptablesManager": {"enable": False}},
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
        "reportEvent": True,
        "rootDirectory": f"{folder}/kubelet",
        "tailoredKubeletConfig": kubelet,
    }
    stream = {
        "enable": True,
        "server": f"{CLOUD}:10004",
        "tlsTunnelCAFile": f"{folder}/ca/rootCA.crt",
        "tlsTunnelCertFile": f"{folder}/certs/server.crt",
        "tlsTunnelPrivateKeyFile": f"{folder}/certs/server.key",
    }
    modules = {
        "edgeHub": hub,
        "edged": edged,
        "edgeStream": stream,
        "eventBus": {"enable": False},
        "deviceTwin": {"enable": False},
    }
    return {
        "apiVersion": "edgecore.config.kubeedge.io/v1alpha2",
        "kind": "EdgeCore",
        "database": {"dataSource": f"{folder}/edgecore.db"},
        "modules": modules,
    }


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
