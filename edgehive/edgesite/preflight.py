"""What must be true before a site can start; each failure is one sentence with its mend."""

import os
import socket
from pathlib import Path

from edgehive.edgesite.containerd import ContainerdUnavailable
from edgehive.edgesite.containerd import preflight as containerd_preflight


class NotPossible(Exception):
    """The site cannot start here; the text says why and how to mend it."""


def check(port: int, kubelet_port: int, containerd: str, *, node: bool = True) -> None:
    """Raise NotPossible for the first thing that is missing."""
    if node:
        must_be_root()
    _check_port("", port, "--port")
    if not node:
        return
    _check_port("127.0.0.1", kubelet_port, "--kubelet-port")
    if containerd:
        _check_socket(containerd)
        return
    try:
        containerd_preflight()
    except ContainerdUnavailable as error:
        raise NotPossible(str(error)) from None


def must_be_root() -> None:
    if os.geteuid() != 0:
        raise NotPossible("an edge site runs containers and therefore needs root: run this with sudo")


def _check_port(host: str, port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NotPossible(
                f"port {port} cannot be used ({error.strerror}): stop the program that listens there "
                f"or choose another one with {option}"
            ) from None


def _check_socket(endpoint: str) -> None:
    path = Path(endpoint.removeprefix("unix://"))
    if not path.is_socket():
        raise NotPossible(f"there is no containerd at {path}: start it, or leave --containerd out for a private one")
