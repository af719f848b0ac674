"""What a request for a pod's log, exec, attach or port-forward asks of the kubelet: container, path, query. Pure.

Go: pkg/registry/core/pod/strategy.go (LogLocation, streamLocation, PortForwardLocation)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode

from edgehive.kube.errors import BadRequest

Json = Mapping[str, Any]
#: Query parameters in their order; a key may stand several times.
Query = Sequence[tuple[str, str]]

_LOG_QUERY: Final = ("follow", "previous", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "timestamps",
                     "stream")  # fmt: skip
#: The API's name of a stream and the kubelet's.
_STREAMS: Final = (("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty"))
#: kubectl's newest WebSocket protocols; a kubelet's runtime does not know them, and kubectl then asks with SPDY.
_NOT_SPOKEN: Final = frozenset({"v5.channel.k8s.io", "SPDY/3.1+portforward.k8s.io"})
_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"


def container_of(pod: Json, asked: str) -> str:
    """The container that is meant; raises BadRequest."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    groups = ("containers", "initContainers", "ephemeralContainers")
    known = [item["name"] for group in groups for item in spec.get(group) or ()]
    if asked:
        if asked not in known:
            raise BadRequest(f"container {asked} is not valid for pod {name}")
        return asked
    annotated = (pod["metadata"].get("annotations") or {}).get(_DEFAULT_CONTAINER)
    if annotated in known:
        return str(annotated)
    if len(spec.get("containers") or ()) == 1:
        return str(spec["containers"][0]["name"])
    listed = " ".join(item["name"] for item in spec.get("containers") or ())
    raise BadRequest(f"a container name must be specified for pod {name}, choose one of: [{listed}]")


def log_target(pod: Json, query: Query) -> str:
    """Path and query of a container's log."""
    passed = [(key, value) for key, value in query if key in _LOG_QUERY]
    return _target("containerLogs", pod, container_of(pod, _first(query, "container")), passed)


def stream_target(subresource: str, pod: Json, query: Query) -> str:
    """Path and query of exec, attach or portforward; raises BadRequest."""
    if subresource == "portforward":
        ports = [part for key, value in query if key == "ports" for part in value.split(",")]
        _check_ports(ports)
        return _target("portForward", pod, "", [("port", ",".join(ports))] if ports else [])
    wanted = [(theirs, "1") for ours, theirs in _STREAMS if _is_true(_first(query, ours))]
    if not {"input", "output", "error"} & {key for key, _ in wanted}:
        raise BadRequest("you must specify at least 1 of stdin, stdout, stderr")
    if subresource == "exec":
        command = [(key, value) for key, value in query if key == "command"]
        if not command:
            raise BadRequest("you must specify at least 1 command for the container")
        wanted += command
    return _target(subresource, pod, container_of(pod, _first(query, "container")), wanted)


def _target(path: str, pod: Json, container: str, query: Query) -> str:
    places = [pod["metadata"]["namespace"], pod["metadata"]["name"], *([container] if container else [])]
    text = "/".join(["", path, *(quote(place, safe="") for place in places)])
    return f"{text}?{urlencode(query)}" if query else text


def _first(query: Query, name: str) -> str:
    return next((value for key, value in query if key == name), "")


def _is_true(text: str) -> bool:
    """As Go reads flags in a query: anything but these is set."""
    return text.lower() not in ("", "0", "false")


def _check_ports(ports: Iterable[str]) -> None:
    for port in ports:
        if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise BadRequest(f'"{port}" is not a port: it must be a number from 1 to 65535')


def check_protocols(upgrade: str, offered: Iterable[str]) -> None:
    """Refuse what nobody behind us speaks before anyone is asked; raises BadRequest."""
    names = [name.strip() for text in offered for name in text.split(",")]
    if upgrade.lower() == "websocket" and names and _NOT_SPOKEN.issuperset(names):
        listed = ", ".join(names)
        raise BadRequest(f"unable to upgrade: {listed} is not served here; use SPDY/3.1 or v4.channel.k8s.io")
