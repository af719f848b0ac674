"""Ports of this machine for tests and benchmarks: free ones, and whether somebody listens."""

import socket
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """Different ports nobody uses at this moment."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    (port,) = free_ports(1)
    return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
