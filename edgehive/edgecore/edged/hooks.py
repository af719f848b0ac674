"""One shot at a container from outside: run a command in it, GET a page from it, open a TCP connection to it.

Probes and lifecycle hooks share it. A shot either succeeds or comes back as a sentence saying why not.

Go: pkg/probe, pkg/kubelet/lifecycle/handlers.go
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from edgehive.api.core import Container, ExecAction, HTTPGetAction, IntOrString, TCPSocketAction
from edgehive.edgecore.edged.cri import CriClient, RuntimeRefused

_MAX_BODY = 10 * 1024
_MAX_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Target:
    """Where to aim: the container's id, its definition (for named ports) and the pod's address."""

    container_id: str
    container: Container
    ip: str


async def run_command(client: CriClient, target: Target, action: ExecAction, timeout: float) -> str:
    """ "" when the command exits with 0."""
    try:
        answer = await client.exec_sync(target.container_id, action.command or [], timeout=timeout)
    except RuntimeRefused as error:
        if error.code == "DEADLINE_EXCEEDED":
            return f"command timed out: {action.command} did not end within {timeout:g}s"
        return f"command {action.command} could not be run: {error.text}"
    if answer.exit_code == 0:
        return ""
    said = (answer.stdout + answer.stderr)[:_MAX_BODY].decode(errors="replace").strip()
    return said or f"command {action.command} exited with {answer.exit_code}"


async def get_page(target: Target, action: HTTPGetAction, timeout: float) -> str:
    """ "" for a status from 200 to 399, redirects within the host followed.

    Certificates are not looked at, as Kubernetes documents for probes.
    """
    try:
        port = port_number(target.container, action.port)
    except ValueError as error:
        return str(error)
    host = action.host or target.ip
    host = f"[{host}]" if ":" in host else host
    url = f"{action.scheme.lower() or 'http'}://{host}:{port}{_slashed(action.path)}"
    headers = {"User-Agent": "kube-probe/1.32", "Accept": "*/*"}
    headers |= {item.name: item.value for item in action.http_headers or ()}
    try:
        async with asyncio.timeout(timeout), aiohttp.ClientSession() as session:
            return await _follow(session, URL(url), headers)
    except TimeoutError:
        return f'Get "{url}": no answer within {timeout:g}s'
    except (aiohttp.ClientError, ValueError) as error:
        return f'Get "{url}": {error}'


async def _follow(session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str]) -> str:
    for _ in range(_MAX_REDIRECTS):
        async with session.get(url, headers=headers, ssl=False, allow_redirects=False) as answer:
            onward = answer.headers.get("Location") if answer.status in _REDIRECTS else None
            target = url.join(URL(onward)) if onward else None
            # Another host's health says nothing of this container's; that it answered does.
            if target is None or target.host != url.host:
                return "" if 200 <= answer.status < 400 else f"HTTP probe failed with statuscode: {answer.status}"
            url = target
    return f'Get "{url}": stopped after {_MAX_REDIRECTS} redirects'


async def open_port(target: Target, action: TCPSocketAction, timeout: float) -> str:
    """ "" when somebody listens."""
    host = action.host or target.ip
    try:
        port = port_number(target.container, action.port)
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"dial tcp {host}:{action.port}: i/o timeout"
    except (OSError, ValueError) as error:
        return f"dial tcp {host}:{action.port}: {error}"
    writer.close()
    return ""


def port_number(container: Container, port: IntOrString) -> int:
    """A number, or the number of the container's port of that name."""
    if isinstance(port, int) or port.isdigit():
        return int(port)
    found = next((item.container_port for item in container.ports or () if item.name == port), None)
    if found is None:
        raise ValueError(f"container {container.name} has no port named {port!r}")
    return found


def _slashed(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"
