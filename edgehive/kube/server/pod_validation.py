"""What a Kubernetes API server refuses in pod specs, in pods and in every template that carries one. Pure.

Objects have passed `conform` and `defaults`, so types are right and defaults are there.

Go: pkg/apis/core/validation/validation.go
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from edgehive.kube import quantity
from edgehive.kube.server import field_errors as names
from edgehive.kube.server.field_errors import FieldErrors

Json = Mapping[str, Any]

_PULL: Final = ("Always", "IfNotPresent", "Never")
_RESTART: Final = ("Always", "OnFailure", "Never")
_DNS: Final = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
_PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc")
_EFFECTS: Final = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_OPERATORS: Final = ("Equal", "Exists")
_ENV_NAME: Final = re.compile(r"[ -<>-~]+")
_ENV_FIELD: Final = re.compile(
    r"metadata\.(name|namespace|uid)|metadata\.(annotations|labels)\['[^']+'\]|spec\.(nodeName|serviceAccountName)"
    r"|status\.(hostIP|podIP)s?"
)
_SAME: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def check_pod_spec(errors: FieldErrors, path: str, spec: Json, *, restart: tuple[str, ...] = _RESTART) -> None:
    """Everything about a pod spec that needs no other object."""
    volumes = _check_volumes(errors, f"{path}.volumes", spec)
    if not spec.get("containers"):
        errors.required(f"{path}.containers")
    seen: set[str] = set()
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(kind) or ()):
            _check_container(errors, f"{path}.{kind}[{index}]", container, volumes, seen)
    errors.one_of(f"{path}.restartPolicy", spec.get("restartPolicy"), restart)
    errors.one_of(f"{path}.dnsPolicy", spec.get("dnsPolicy"), _DNS)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline < 2**31:
        errors.invalid(f"{path}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")
    for field, check in (("hostname", names.label), ("subdomain", names.label), ("nodeName", names.subdomain),
                         ("serviceAccountName", names.subdomain)):  # fmt: skip
        if spec.get(field):
            errors.each_invalid(f"{path}.{field}", spec[field], check(spec[field]))
    check_labels(errors, f"{path}.nodeSelector", spec.get("nodeSelector") or {})
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        _check_toleration(errors, f"{path}.tolerations[{index}]", toleration)
    _check_hosts(errors, path, spec)
    _check_affinity(errors, f"{path}.affinity", spec.get("affinity") or {})
    for index, container in enumerate(spec.get("initContainers") or ()):
        _check_init(errors, f"{path}.initContainers[{index}]", container)


def _check_hosts(errors: FieldErrors, path: str, spec: Json) -> None:
    """What a pod adds to its host file, and what it takes of its host."""
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        at, address = f"{path}.hostAliases[{index}]", alias.get("ip") or ""
        errors.each_invalid(f"{at}.ip", address, names.ip_address(address))
        for place, name in enumerate(alias.get("hostnames") or ()):
            errors.each_invalid(f"{at}.hostnames[{place}]", name, names.subdomain(name))
    if not spec.get("hostNetwork"):
        return
    for kind in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(kind) or ()):
            for place, port in enumerate(container.get("ports") or ()):
                if port.get("hostPort") != port.get("containerPort"):
                    errors.invalid(f"{path}.{kind}[{index}].ports[{place}].hostPort", port.get("hostPort") or 0,
                                   "must match `containerPort` when `hostNetwork` is true")  # fmt: skip


def _check_affinity(errors: FieldErrors, path: str, affinity: Json) -> None:
    kind = "requiredDuringSchedulingIgnoredDuringExecution"
    required = (affinity.get("nodeAffinity") or {}).get(kind)
    if required is not None and not required.get("nodeSelectorTerms"):
        at = f"{path}.nodeAffinity.{kind}.nodeSelectorTerms"
        errors.required(at, "must have at least one node selector term")


def _check_init(errors: FieldErrors, path: str, container: Json) -> None:
    """Init containers run to their end, unless they stay beside the others."""
    if container.get("restartPolicy") == "Always":
        return
    for field in ("lifecycle", *_PROBES):
        if container.get(field) is not None:
            errors.forbidden(f"{path}.{field}", "may not be set for init containers without restartPolicy=Always")


def check_labels(errors: FieldErrors, path: str, labels: Json) -> None:
    for key, value in labels.items():
        errors.each_invalid(path, key, names.qualified_name(key))
        errors.each_invalid(path, value, names.label_value(value))


def _check_toleration(errors: FieldErrors, path: str, toleration: Json) -> None:
    if toleration.get("key"):
        errors.each_invalid(f"{path}.key", toleration["key"], names.qualified_name(toleration["key"]))
    elif toleration.get("operator") != "Exists":
        errors.invalid(f"{path}.operator", toleration.get("operator", ""),
                       "operator must be Exists when `key` is empty, "
                       'which means "match all values and all keys"')  # fmt: skip
    if toleration.get("operator"):
        errors.one_of(f"{path}.operator", toleration["operator"], _OPERATORS)
    if toleration.get("operator") == "Exists" and toleration.get("value"):
        errors.invalid(f"{path}.operator", "Exists", "value must be empty when `operator` is 'Exists'")
    if toleration.get("effect"):
        errors.one_of(f"{path}.effect", toleration["effect"], _EFFECTS)


# ---------------------------------------------------------------- volumes


def _check_volumes(errors: FieldErrors, path: str, spec: Json) -> set[str]:
    found: set[str] = set()
    for index, volume in enumerate(spec.get("volumes") or ()):
        at, name = f"{path}[{index}]", volume.get("name", "")
        _check_name(errors, f"{at}.name", name, found, names.label)
        sources = [source for source in volume if source != "name"]
        for extra in sources[1:]:
            errors.forbidden(f"{at}.{extra}", "may not specify more than 1 volume type")
        for source in sources[:1]:
            _check_source(errors, f"{at}.{source}", source, volume[source])
    return found


_NEEDED: Final = {"hostPath": "path", "secret": "secretName", "configMap": "name", "persistentVolumeClaim": "claimName"}


def _check_source(errors: FieldErrors, path: str, kind: str, source: Json) -> None:
    needed = _NEEDED.get(kind)
    if needed and not source.get(needed):
        errors.required(f"{path}.{needed}")
    mode = source.get("defaultMode")
    if mode is not None and not 0 <= mode <= 0o777:
        errors.invalid(f"{path}.defaultMode", mode, "must be a number between 0 and 0777 (octal), both inclusive")
    for index, item in enumerate(source.get("items") or ()):
        relative = str(item.get("path", ""))
        if not relative:
            errors.required(f"{path}.items[{index}].path")
        elif relative.startswith("/"):
            errors.invalid(f"{path}.items[{index}].path", relative, "must be a relative path")
        elif ".." in relative.split("/"):
            errors.invalid(f"{path}.items[{index}].path", relative, "must not contain '..'")


# ---------------------------------------------------------------- containers


def _check_container(errors: FieldErrors, path: str, container: Json, volumes: set[str], seen: set[str]) -> None:
    _check_name(errors, f"{path}.name", container.get("name", ""), seen, names.label)
    image = container.get("image") or ""
    if not image:
        errors.required(f"{path}.image")
    elif image != image.strip():
        errors.invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    errors.one_of(f"{path}.imagePullPolicy", container.get("imagePullPolicy"), _PULL)
    errors.one_of(f"{path}.terminationMessagePolicy", container.get("terminationMessagePolicy"),
                  ("FallbackToLogsOnError", "File"))  # fmt: skip
    _check_ports(errors, f"{path}.ports", container)
    _check_env(errors, f"{path}.env", container)
    _check_mounts(errors, f"{path}.volumeMounts", container, volumes)
    _check_resources(errors, f"{path}.resources", container.get("resources") or {})
    _check_security(errors, f"{path}.securityContext", container.get("securityContext") or {})
    for probe in _PROBES:
        if container.get(probe) is not None:
            _check_probe(errors, f"{path}.{probe}", container[probe], probe)
    for name, handler in (container.get("lifecycle") or {}).items():
        if isinstance(handler, Mapping):
            _check_handler(errors, f"{path}.lifecycle.{name}", handler)


def _check_security(errors: FieldErrors, path: str, context: Json) -> None:
    if context.get("allowPrivilegeEscalation") is not False:
        return
    if context.get("privileged"):
        errors.invalid(path, context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
    if "CAP_SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or ()):
        errors.invalid(path, context, "cannot set `allowPrivilegeEscalation` to false and "
                       "`capabilities.Add` CAP_SYS_ADMIN")  # fmt: skip


def _check_name(errors: FieldErrors, path: str, name: str, seen: set[str], check: Callable[[str], list[str]]) -> None:
    if not name:
        errors.required(path)
    elif name in seen:
        errors.duplicate(path, name)
    else:
        errors.each_invalid(path, name, check(name))
    seen.add(name)


def _check_ports(errors: FieldErrors, path: str, container: Json) -> None:
    seen: set[str] = set()
    for index, port in enumerate(container.get("ports") or ()):
        at, name = f"{path}[{index}]", port.get("name")
        if name:
            errors.each_invalid(f"{at}.name", name, _wrong_port_name(name))
            if name in seen:
                errors.duplicate(f"{at}.name", name)
            seen.add(name)
        if not port.get("containerPort"):
            errors.required(f"{at}.containerPort")
        else:
            errors.port(f"{at}.containerPort", port["containerPort"])
        if port.get("hostPort"):
            errors.port(f"{at}.hostPort", port["hostPort"])
        errors.one_of(f"{at}.protocol", port.get("protocol"), _PROTOCOLS)


def _check_port_or_name(errors: FieldErrors, path: str, port: Any) -> None:
    errors.port(path, port)
    if isinstance(port, str):
        errors.each_invalid(path, port, _wrong_port_name(port))


def _wrong_port_name(name: str) -> list[str]:
    found = ["must be no more than 15 characters"] if len(name) > 15 else []
    if re.fullmatch("[-a-z0-9]+", name) is None:
        return [*found, "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"]
    if re.search("[a-z]", name) is None:
        found.append("must contain at least one letter (a-z)")
    if "--" in name:
        found.append("must not contain consecutive hyphens")
    if name.startswith("-") or name.endswith("-"):
        found.append("must not begin or end with a hyphen")
    return found


def _check_env(errors: FieldErrors, path: str, container: Json) -> None:
    for index, variable in enumerate(container.get("env") or ()):
        at, name = f"{path}[{index}]", variable.get("name", "")
        if not name:
            errors.required(f"{at}.name")
        elif not _ENV_NAME.fullmatch(name):
            errors.invalid(f"{at}.name", name, "a valid environment variable name must consist only of printable "
                           "ASCII characters other than '='")  # fmt: skip
        source = variable.get("valueFrom")
        if source is not None and variable.get("value"):
            errors.invalid(f"{at}.valueFrom", "", "may not be specified when `value` is not empty")
        if source is not None and len(source) != 1:
            many = "may not have more than one field specified at a time"
            errors.invalid(f"{at}.valueFrom", "", many if source else
                           "must specify one of: "
                           "`fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`")  # fmt: skip
        field = ((source or {}).get("fieldRef") or {}).get("fieldPath")
        if field and not _ENV_FIELD.fullmatch(field):
            text = f"error converting fieldPath: field label not supported: {field}"
            errors.invalid(f"{at}.valueFrom.fieldRef.fieldPath", field, text)
    for source in container.get("envFrom") or ():
        if not source.get("configMapRef") and not source.get("secretRef"):
            errors.invalid(f"{path}From", "", "must specify one of: `configMapRef` or `secretRef`")


def _check_mounts(errors: FieldErrors, path: str, container: Json, volumes: set[str]) -> None:
    places: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        at, name, place = f"{path}[{index}]", mount.get("name", ""), mount.get("mountPath", "")
        if not name:
            errors.required(f"{at}.name")
        elif name not in volumes:
            errors.not_found(f"{at}.name", name)
        if not place:
            errors.required(f"{at}.mountPath")
        elif place in places:
            errors.invalid(f"{at}.mountPath", place, "must be unique")
        places.add(place)
        sub_path = mount.get("subPath") or ""
        if sub_path.startswith("/"):
            errors.invalid(f"{at}.subPath", sub_path, "must be a relative path")
        elif ".." in sub_path.split("/"):
            errors.invalid(f"{at}.subPath", sub_path, "must not contain '..'")


def _check_resources(errors: FieldErrors, path: str, resources: Json) -> None:
    limits = resources.get("limits") or {}
    for kind in ("limits", "requests"):
        for name, amount in (resources.get(kind) or {}).items():
            if quantity.parse(amount) < 0:
                errors.invalid(f"{path}.{kind}[{name}]", amount, "must be greater than or equal to 0")
    for name, amount in (resources.get("requests") or {}).items():
        if name in limits and quantity.parse(amount) > quantity.parse(limits[name]):
            errors.invalid(f"{path}.requests", amount, f"must be less than or equal to {name} limit of {limits[name]}")


def _check_probe(errors: FieldErrors, path: str, probe: Json, kind: str) -> None:
    _check_handler(errors, path, probe)
    for field in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        errors.not_negative(f"{path}.{field}", probe.get(field))
    if kind != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        errors.invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def _check_handler(errors: FieldErrors, path: str, handler: Json) -> None:
    given = [name for name in (*_HANDLERS, "sleep") if handler.get(name) is not None]
    if not given:
        errors.required(path, "must specify a handler type")
    for extra in given[1:]:
        errors.forbidden(f"{path}.{extra}", "may not specify more than 1 handler type")
    for name in given:
        if name in ("httpGet", "tcpSocket"):
            _check_port_or_name(errors, f"{path}.{name}.port", handler[name].get("port"))
        elif name == "exec" and not handler[name].get("command"):
            errors.required(f"{path}.exec.command")


# ---------------------------------------------------------------- updates


def check_pod_update(errors: FieldErrors, old: Json, new: Json) -> None:
    """Only images, deadlines and added tolerations may change in a pod that exists."""
    before, after = old.get("spec") or {}, new.get("spec") or {}
    kept = [item for item in before.get("tolerations") or () if item not in (after.get("tolerations") or ())]
    if kept:
        errors.forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
    earlier, later = before.get("activeDeadlineSeconds"), after.get("activeDeadlineSeconds")
    if earlier is not None and (later is None or later > earlier):
        errors.invalid("spec.activeDeadlineSeconds", later, "must be less than or equal to previous value")
    gates = before.get("schedulingGates") or ()
    if any(gate not in gates for gate in after.get("schedulingGates") or ()):
        errors.forbidden("spec.schedulingGates", "only deletion is allowed, but found new scheduling gate")
    for kind in ("containers", "initContainers"):
        if len(before.get(kind) or ()) != len(after.get(kind) or ()):
            errors.forbidden(f"spec.{kind}", "pod updates may not add or remove containers")
            return
    if _fixed(before) != _fixed(after):
        errors.forbidden("spec", _SAME)


def _fixed(spec: Json) -> dict[str, Any]:
    free = ("tolerations", "activeDeadlineSeconds", "schedulingGates", "ephemeralContainers")
    left = {key: value for key, value in spec.items() if key not in free and value}
    for kind in ("containers", "initContainers"):
        left[kind] = [{key: value for key, value in item.items() if key != "image"} for item in spec.get(kind) or ()]
    return left
