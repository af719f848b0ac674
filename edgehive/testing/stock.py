"""The Go project's programs beside ours: where they are, and a real Kubernetes control plane on a test host.

For the trials of interoperation and the comparing benchmarks. `EDGEHIVE_GO_PEERS` names a folder with the programs
`kube-apiserver`, `cloudcore` and `edgecore`, and where wanted `etcd`, `kube-controller-manager` and `kube-scheduler`;
`crds/` below it holds the definitions that stock cloudcore wants installed. Nothing here fetches or builds them.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from edgehive.edgesite import pki
from edgehive.kit import tls
from edgehive.kit.clock import SystemClock
from edgehive.testing.hosts import DemonstrationFailed, Host, Program, last_line

VARIABLE = "EDGEHIVE_GO_PEERS"
PORT = 6443
_ETCD = "http://127.0.0.1:2379"


class StockMissing(Exception):
    """A program of the Go project is needed and not there; the text says which and how to name its folder."""


def folder() -> Path:
    """The folder of the Go programs; StockMissing when none is named."""
    named = os.environ.get(VARIABLE, "")
    if not named:
        raise StockMissing(f"the stock programs are needed: set {VARIABLE} to the folder that holds them")
    return Path(named).absolute()


def program(name: str) -> str:
    """The path of a Go program; `etcd` may also be on the PATH. StockMissing when it is not there."""
    path = folder() / name
    if os.access(path, os.X_OK):
        return str(path)
    if name == "etcd" and (found := shutil.which(name)):
        return found
    raise StockMissing(f"{path} is needed and is not an executable file")


def definitions(*, records: bool = True) -> list[Path]:
    """The manifests of the stock custom resources; our cloudcore makes the delivery records' kinds itself."""
    found = sorted((folder() / "crds").rglob("*.yaml"))
    return [path for path in found if records or path.parent.name != "reliablesyncs"]


class ControlPlane:
    """etcd, kube-apiserver, kube-controller-manager and kube-scheduler on one host, with their files below `data`."""

    def __init__(self, host: Host, address: str, data: Path) -> None:
        self.host, self.address, self.data = host, address, data
        self.programs: dict[str, Program] = {}

    @property
    def kubeconfig(self) -> Path:
        return self.data / "kubeconfig"

    def start(self, until: Callable[[str, Callable[[], bool]], None]) -> None:
        """Start all four; `until(what, condition)` waits the way the caller's test does."""
        self.data.mkdir(parents=True, exist_ok=True)
        names = [*pki.server_names(self.address), "10.96.0.1"]
        keys = pki.prepare(self.data / "pki", SystemClock().now(), names)
        self.kubeconfig.write_text(pki.kubeconfig(keys, f"https://{self.address}:{PORT}"))
        _make_front_proxy(self.data / "pki")
        self._run("etcd", *_etcd_flags(self.data))
        self.start_api_server()
        until("kube-apiserver", self.answers)
        shared = [f"--{kind}={self.kubeconfig}" for kind in _KUBECONFIG_FLAGS]
        self._run("kube-controller-manager", *shared, *_controller_flags(keys))
        self._run("kube-scheduler", *shared, "--leader-elect=false")

    def start_api_server(self) -> None:
        self._run("kube-apiserver", *_api_server_flags(self.data / "pki", self.address))

    def lead_streams(self, folder: Path, node: str) -> None:
        """What stock cloudcore wants done by hand for logs and exec: certificates, and a way from the node's port."""
        authority = pki.load(self.data / "pki", "ca")
        now, names = SystemClock().now(), [self.address]
        pair = tls.issue(
            authority, common_name="stream", names=names, usages=(tls.SERVER_AUTH,), now=now, lifetime=pki.LIFETIME
        )
        for path, content in (
            (folder / "ca" / "streamCA.crt", authority.certificate_pem),
            (folder / "certs" / "stream.crt", pair.certificate_pem),
            (folder / "certs" / "stream.key", pair.key_pem),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            pki.write_private(path, content)
        redirect = ["-p", "tcp", "-d", node, "--dport", "10351", "-j", "DNAT", "--to-destination"]
        self.host.run("iptables", "-t", "nat", "-A", "OUTPUT", *redirect, f"{self.address}:10003")

    def answers(self) -> bool:
        """Whether the API server is ready; DemonstrationFailed when a program ended."""
        for name, running in self.programs.items():
            if not running.alive():
                raise DemonstrationFailed(f"{name} ended: {last_line(running.log)}")
        try:
            return self.host.run("kubectl", f"--kubeconfig={self.kubeconfig}", "get", "--raw", "/readyz") == "ok"
        except DemonstrationFailed:
            return False

    def stop(self) -> None:
        for running in reversed(self.programs.values()):
            running.stop()

    def _run(self, name: str, *flags: str) -> None:
        self.programs[name] = Program(self.host, self.data / f"{name}.log", program(name), *flags)


_KUBECONFIG_FLAGS = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")


def _etcd_flags(data: Path) -> list[str]:
    return [
        f"--data-dir={data / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
    ]


def _make_front_proxy(folder: Path) -> None:
    """The certificate kube-apiserver shows to APIs behind it, of a CA of its own."""
    now = SystemClock().now()
    authority = tls.self_signed_ca("front-proxy-ca", now, pki.LIFETIME)
    pair = tls.issue(authority, common_name="front-proxy-client", now=now, lifetime=pki.LIFETIME)
    (folder / "front-proxy-ca.crt").write_bytes(authority.certificate_pem)
    (folder / "front-proxy-client.crt").write_bytes(pair.certificate_pem)
    pki.write_private(folder / "front-proxy-client.key", pair.key_pem)


def _api_server_flags(keys: Path, address: str) -> list[str]:
    return [
        f"--etcd-servers={_ETCD}",
        f"--secure-port={PORT}",
        f"--bind-address={address}",
        f"--advertise-address={address}",
        f"--client-ca-file={keys / 'ca.crt'}",
        f"--tls-cert-file={keys / 'server.crt'}",
        f"--tls-private-key-file={keys / 'server.key'}",
        f"--kubelet-client-certificate={keys / 'admin.crt'}",
        f"--kubelet-client-key={keys / 'admin.key'}",
        f"--requestheader-client-ca-file={keys / 'front-proxy-ca.crt'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={keys / 'front-proxy-client.crt'}",
        f"--proxy-client-key-file={keys / 'front-proxy-client.key'}",
        # No kube-proxy runs on this host, so the addresses behind a Service are dialled.
        "--enable-aggregator-routing=true",
        "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys / 'sa.key'}",
        f"--service-account-signing-key-file={keys / 'sa.key'}",
        "--authorization-mode=Node,RBAC",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--allow-privileged=true",
    ]


def _controller_flags(keys: pki.Pki) -> list[str]:
    return [
        "--leader-elect=false",
        f"--service-account-private-key-file={keys.folder / 'sa.key'}",
        f"--root-ca-file={keys.authority_file}",
        f"--cluster-signing-cert-file={keys.authority_file}",
        f"--cluster-signing-key-file={keys.folder / 'ca.key'}",
    ]
