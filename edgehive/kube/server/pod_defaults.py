"""What a Kubernetes API server fills into pod specs, in pods and in every template that carries one. Pure.

Go: pkg/apis/core/v1/defaults.go, pkg/apis/core/helper/qos
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from edgehive.kube import quantity

Json = dict[str, Any]

_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_FILE_MODE: Final = 0o644
_RESOURCES: Final = ("cpu", "memory")


def fill(target: Json, **values: Any) -> None:
    """Set what is absent or null."""
    for name, value in values.items():
        if target.get(name) is None:
            target[name] = value


def each(target: Mapping[str, Any], *names: str) -> Iterator[Json]:
    """The objects in the lists of those names; absent lists are empty."""
    for name in names:
        yield from target.get(name) or ()


def default_pod(pod: Json) -> None:
    """A pod of its own: a template's defaults and what only pods get."""
    spec = pod.setdefault("spec", {})
    default_pod_spec(spec)
    fill(spec, enableServiceLinks=True)
    for container in each(spec, "containers", "initContainers"):
        _default_requests(container.get("resources") or {})
    status = pod.setdefault("status", {})
    fill(status, phase="Pending")
    first = (status.get("podIPs") or [{}])[0].get("ip")
    if status.get("podIP") and status["podIP"] != first:
        # Writers that know of one address only mean just that one.
        status["podIPs"] = [{"ip": status["podIP"]}]
    elif first:
        status["podIP"] = first
    if "qosClass" not in status:
        status["qosClass"] = qos_class(spec)


def _default_requests(resources: Json) -> None:
    if resources.get("limits"):
        resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}


def default_template(template: Json) -> None:
    template.setdefault("metadata", {})
    default_pod_spec(template.setdefault("spec", {}))


def default_pod_spec(spec: Json) -> None:
    fill(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler",
        securityContext={},
    )
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for volume in each(spec, "volumes"):
        _default_volume(volume)
    for container in each(spec, "initContainers", "containers", "ephemeralContainers"):
        _default_container(container, on_host=bool(spec.get("hostNetwork")))


def _default_container(container: Json, *, on_host: bool) -> None:
    fill(
        container,
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
        imagePullPolicy=pull_policy(container.get("image") or ""),
    )
    for port in each(container, "ports"):
        fill(port, protocol="TCP")
        if on_host and not port.get("hostPort"):
            port["hostPort"] = port.get("containerPort")
    for name in _PROBES:
        if container.get(name):
            _default_probe(container[name])
    for handler in (container.get("lifecycle") or {}).values():
        _default_http(handler)
    for variable in each(container, "env"):
        _default_field_ref(variable.get("valueFrom") or {})


def pull_policy(image: str) -> str:
    """Always for `latest` and for no tag at all, unless a digest pins the image."""
    if "@" in image:
        return "IfNotPresent"
    tag = image.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in ("", "latest") else "IfNotPresent"


def _default_probe(probe: Json) -> None:
    for name, value in (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)):
        if not probe.get(name):
            probe[name] = value
    _default_http(probe)
    if probe.get("grpc"):
        fill(probe["grpc"], service="")


def _default_http(handler: Any) -> None:
    if isinstance(handler, dict) and handler.get("httpGet"):
        request = handler["httpGet"]
        request["path"] = request.get("path") or "/"
        request["scheme"] = request.get("scheme") or "HTTP"


def _default_field_ref(source: Json) -> None:
    if source.get("fieldRef"):
        fill(source["fieldRef"], apiVersion="v1")
    if source.get("resourceFieldRef"):
        fill(source["resourceFieldRef"], divisor="0")


def _default_volume(volume: Json) -> None:
    if not any(value is not None for name, value in volume.items() if name != "name"):
        volume["emptyDir"] = {}
    for name in ("secret", "configMap", "downwardAPI", "projected"):
        if volume.get(name) is not None:
            fill(volume[name], defaultMode=_FILE_MODE)
    default_host_path(volume)
    if volume.get("iscsi"):
        fill(volume["iscsi"], iscsiInterface="default")
    for item in each(volume.get("downwardAPI") or {}, "items"):
        _default_field_ref(item)
    for source in each(volume.get("projected") or {}, "sources"):
        if source.get("serviceAccountToken"):
            fill(source["serviceAccountToken"], expirationSeconds=3600)
        for item in each(source.get("downwardAPI") or {}, "items"):
            _default_field_ref(item)
    claim = ((volume.get("ephemeral") or {}).get("volumeClaimTemplate") or {}).get("spec")
    if claim is not None:
        fill(claim, volumeMode="Filesystem")


def default_host_path(source: Json) -> None:
    if source.get("hostPath"):
        fill(source["hostPath"], type="")


def qos_class(spec: Json) -> str:
    """Guaranteed, Burstable or BestEffort by the containers' cpu and memory."""
    resources = [container.get("resources") or {} for container in each(spec, "containers", "initContainers")]
    if not any(_counted(item.get(kind)) for item in resources for kind in ("requests", "limits")):
        return "BestEffort"
    return "Guaranteed" if all(_is_guaranteed(item) for item in resources) else "Burstable"


def _counted(amounts: Mapping[str, Any] | None) -> dict[str, Any]:
    found = {name: _value((amounts or {}).get(name)) for name in _RESOURCES}
    return {name: value for name, value in found.items() if value}


def _value(amount: Any) -> Any:
    try:
        return quantity.parse(amount) if amount is not None else 0
    except ValueError:
        return 0


def _is_guaranteed(resources: Json) -> bool:
    limits = _counted(resources.get("limits"))
    return len(limits) == len(_RESOURCES) and {**limits, **_counted(resources.get("requests"))} == limits
