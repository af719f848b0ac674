"""A container's environment: values, references, envFrom and `$(VAR)` expansion. Pure.

For `podspec.py`, and for the downward API volumes, which read the same fields. Everything it refers to has been
fetched before and lies in `PodFacts`; what is missing there is an error with the words the Go kubelet uses.
Go: pkg/kubelet/kubelet_pods.go (makeEnvironmentVariables), third_party/forked/golang/expansion
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from edgehive.api.core import (
    ConfigMap,
    Container,
    EnvFromSource,
    EnvVar,
    KeySelector,
    Pod,
    Quantity,
    ResourceFieldSelector,
    Secret,
)
from edgehive.kube import quantity


class ContainerConfigError(Exception):
    """A container cannot be set up as its pod asks; `reason` is what `kubectl get pods` shows."""

    def __init__(self, message: str, *, reason: str = "CreateContainerConfigError") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What a pod's containers refer to, resolved: addresses, the node's resources, ConfigMaps and Secrets by name.

    An object that does not exist is left out of the mappings. `service_env` is empty when service links are off.
    """

    host_ips: tuple[str, ...] = ()
    pod_ips: tuple[str, ...] = ()
    node_allocatable: Mapping[str, Quantity] = field(default_factory=dict)
    config_maps: Mapping[str, ConfigMap] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    service_env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class References:
    """Names of the ConfigMaps and Secrets to fetch before the environment can be made."""

    config_maps: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()


def references(container: Container) -> References:
    """Everything the container's env and envFrom name, optional ones included."""
    sources = [item.value_from for item in container.env or () if item.value_from]
    froms = container.env_from or ()
    return References(
        config_maps=frozenset(
            [source.config_map_key_ref.name for source in sources if source.config_map_key_ref]
            + [item.config_map_ref.name for item in froms if item.config_map_ref]
        ),
        secrets=frozenset(
            [source.secret_key_ref.name for source in sources if source.secret_key_ref]
            + [item.secret_ref.name for item in froms if item.secret_ref]
        ),
    )


def environment(pod: Pod, container: Container, facts: PodFacts) -> dict[str, str]:
    """All variables in the order they are set; raises ContainerConfigError."""
    result: dict[str, str] = {}
    for source in container.env_from or ():
        result |= _from_source(source, facts)
    for item in container.env or ():
        value = _value(pod, container, item, result, facts)
        if value is not None:
            result[item.name] = value
    return dict(facts.service_env) | result


def _value(pod: Pod, container: Container, item: EnvVar, so_far: Mapping[str, str], facts: PodFacts) -> str | None:
    """The variable's value, None when an optional reference leads nowhere."""
    if item.value:
        return expand(item.value, _lookup(so_far, facts.service_env))
    source = item.value_from
    if source is None:
        return ""
    if source.field_ref:
        return field_value(pod, source.field_ref.field_path, facts)
    if source.resource_field_ref:
        return resource_value(pod, container, source.resource_field_ref, facts.node_allocatable)
    if source.config_map_key_ref:
        return _config_map_key(pod, source.config_map_key_ref, facts)
    if source.secret_key_ref:
        return _secret_key(pod, source.secret_key_ref, facts)
    return ""


# --- ConfigMaps and Secrets -------------------------------------------------------------------------------


def _config_map_key(pod: Pod, ref: KeySelector, facts: PodFacts) -> str | None:
    found = facts.config_maps.get(ref.name)
    if found is None:
        return _missing(f'configmap "{ref.name}" not found', ref.optional)
    if ref.key not in (found.data or {}):
        return _missing(f"couldn't find key {ref.key} in ConfigMap {pod.metadata.namespace}/{ref.name}", ref.optional)
    return (found.data or {})[ref.key]


def _secret_key(pod: Pod, ref: KeySelector, facts: PodFacts) -> str | None:
    found = facts.secrets.get(ref.name)
    if found is None:
        return _missing(f'secret "{ref.name}" not found', ref.optional)
    if ref.key not in (found.data or {}):
        return _missing(f"couldn't find key {ref.key} in Secret {pod.metadata.namespace}/{ref.name}", ref.optional)
    return _text((found.data or {})[ref.key])


def _missing(message: str, optional: bool | None) -> str | None:
    """None where that is allowed, the error where it is not."""
    if not optional:
        raise ContainerConfigError(message)
    return None


def _from_source(source: EnvFromSource, facts: PodFacts) -> dict[str, str]:
    entries: Iterable[tuple[str, str]] = ()
    if ref := source.config_map_ref:
        config_map = facts.config_maps.get(ref.name)
        if config_map is None:
            _missing(f'configmap "{ref.name}" not found', ref.optional)
        else:
            entries = (config_map.data or {}).items()
    elif ref := source.secret_ref:
        secret = facts.secrets.get(ref.name)
        if secret is None:
            _missing(f'secret "{ref.name}" not found', ref.optional)
        else:
            entries = ((key, _text(value)) for key, value in (secret.data or {}).items())
    named = ((source.prefix + key, value) for key, value in entries)
    return {name: value for name, value in named if _legal_name(name)}


def _legal_name(name: str) -> bool:
    """Kubernetes' relaxed rule: printable ASCII without an equals sign; others are left out."""
    return bool(name) and all(" " <= char <= "~" and char != "=" for char in name)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


# --- fields of the pod ------------------------------------------------------------------------------------

_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")
_META: dict[str, Callable[[Pod], str]] = {
    "metadata.name": lambda pod: pod.metadata.name,
    "metadata.namespace": lambda pod: pod.metadata.namespace,
    "metadata.uid": lambda pod: pod.metadata.uid,
    "metadata.labels": lambda pod: _map_text(pod.metadata.labels),
    "metadata.annotations": lambda pod: _map_text(pod.metadata.annotations),
    "spec.nodeName": lambda pod: pod.spec.node_name,
    "spec.serviceAccountName": lambda pod: pod.spec.service_account_name,
}
_ADDRESSES: dict[str, Callable[[PodFacts], str]] = {
    "status.hostIP": lambda facts: next(iter(facts.host_ips), ""),
    "status.hostIPs": lambda facts: ",".join(facts.host_ips),
    "status.podIP": lambda facts: next(iter(facts.pod_ips), ""),
    "status.podIPs": lambda facts: ",".join(facts.pod_ips),
}


def field_value(pod: Pod, path: str, facts: PodFacts) -> str:
    """A fieldRef's text, in the env and in downward API volumes alike."""
    if match := _SUBSCRIPT.fullmatch(path):
        held = pod.metadata.labels if match[1] == "labels" else pod.metadata.annotations
        return (held or {}).get(match[2], "")
    if path in _META:
        return _META[path](pod)
    if path in _ADDRESSES:
        return _ADDRESSES[path](facts)
    raise ContainerConfigError(f"unsupported fieldPath: {path}")


def _map_text(held: Mapping[str, str] | None) -> str:
    """One `key="value"` a line, sorted, quoted as Go does."""
    return "\n".join(f"{key}={_quote(value)}" for key, value in sorted((held or {}).items()))


def _quote(text: str) -> str:
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(escapes.get(char, char) for char in text) + '"'


def resource_value(
    pod: Pod, container: Container, ref: ResourceFieldSelector, allocatable: Mapping[str, Quantity]
) -> str:
    """A resourceFieldRef's number, rounded up in its divisor; limits not set are the node's allocatable."""
    chosen = container if ref.container_name in ("", container.name) else _named(pod, ref.container_name)
    kind, _, name = ref.resource.partition(".")
    held = {"limits": chosen.resources.limits, "requests": chosen.resources.requests}.get(kind)
    if kind not in ("limits", "requests") or not name:
        raise ContainerConfigError(f"unsupported container resource : {ref.resource}")
    amount = (held or {}).get(name)
    if amount is None and kind == "limits":
        amount = allocatable.get(name)
    divisor = quantity.parse(ref.divisor or 1) or 1
    return str(math.ceil(quantity.parse(amount or 0) / divisor))


def _named(pod: Pod, name: str) -> Container:
    containers: list[Container] = [*pod.spec.containers, *(pod.spec.init_containers or ())]
    for container in containers:
        if container.name == name:
            return container
    raise ContainerConfigError(f"container {name} not found")


# --- $(VAR) -----------------------------------------------------------------------------------------------

_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")


def expand(text: str, lookup: Callable[[str], str | None]) -> str:
    """Replace `$(NAME)`; `$$` is a dollar sign; an unknown name stays as written."""

    def replacement(match: "re.Match[str]") -> str:
        if match[1] is None:
            return "$"
        value = lookup(match[1])
        return match[0] if value is None else value

    return _REFERENCE.sub(replacement, text)


def expand_all(texts: Iterable[str], variables: Mapping[str, str]) -> Iterator[str]:
    """Expansion of a command or its arguments."""
    return (expand(text, variables.get) for text in texts)


def _lookup(first: Mapping[str, str], second: Mapping[str, str]) -> Callable[[str], str | None]:
    return lambda name: first.get(name, second.get(name))
