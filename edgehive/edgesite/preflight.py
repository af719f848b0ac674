"""What must be true before a site can start; each failure is one sentence with its mend."""

import os
import shutil
import socket
from pathlib import Path

#: Where distributions put the CNI plugins.
PLUGIN_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
PACKAGES = "containerd runc containernetworking-plugins iptables iproute2 busybox-static"


class NotPossible(Exception):
    """The site cannot start here; the text says why and how to mend it."""


def check(port: int, containerd: str) -> None:
    """Raise NotPossible for the first thing that is missing."""
    if os.geteuid() != 0:
        raise NotPossible("an edge site runs containers and therefore needs root: run this with sudo")
    check_port(port)
    if containerd:
        _check_socket(containerd)
        return
    for program in ("containerd", "runc", "iptables", "ip"):
        if _which(program) is None:
            raise NotPossible(f"{program} is not installed: apt-get install --no-install-recommends {PACKAGES}")
    if not any((folder / "bridge").exists() for folder in PLUGIN_FOLDERS):
        raise NotPossible(f"the CNI plugins are not installed: apt-get install --no-install-recommends {PACKAGES}")


def check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise NotPossible(
                f"port {port} cannot be used ({error.strerror}): stop the program that listens there "
                "or choose another one with --port"
            ) from None


def _check_socket(endpoint: str) -> None:
    path = Path(endpoint.removeprefix("unix://"))
    if not path.is_socket():
        raise NotPossible(f"there is no containerd at {path}: start it, or leave --containerd out for a private one")


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin")
