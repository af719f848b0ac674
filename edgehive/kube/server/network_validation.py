"""What objects of the network must be: ingresses, endpoints and slices of them. Pure.

Endpoints of this machine itself are allowed: on a site without a network they are all there is.

Go: pkg/apis/{networking,discovery}/validation, pkg/apis/core/validation (Endpoints)
"""

from collections.abc import Mapping
from typing import Any, Final

from edgehive.kube.server import field_errors as names
from edgehive.kube.server.field_errors import FieldErrors

Json = Mapping[str, Any]

_PATH_TYPES: Final = ("Exact", "ImplementationSpecific", "Prefix")
_ADDRESS_TYPES: Final = ("FQDN", "IPv4", "IPv6")
_BAD_IN_PATH: Final = ("//", "/./", "/../", "%2f", "%2F")
_BAD_AT_END: Final = ("/..", "/.")


def ingress(errors: FieldErrors, obj: Json) -> None:
    spec = obj.get("spec") or {}
    if not spec.get("rules") and not spec.get("defaultBackend"):
        errors.invalid("spec", spec.get("rules"), "either `defaultBackend` or `rules` must be specified")
    if spec.get("defaultBackend"):
        _backend(errors, "spec.defaultBackend", spec["defaultBackend"])
    for index, rule in enumerate(spec.get("rules") or ()):
        at = f"spec.rules[{index}]"
        _host(errors, f"{at}.host", rule.get("host") or "")
        if rule.get("http") is not None:
            _paths(errors, f"{at}.http.paths", rule["http"].get("paths") or ())
    for index, item in enumerate(spec.get("tls") or ()):
        for place, host in enumerate(item.get("hosts") or ()):
            _host(errors, f"spec.tls[{index}].hosts[{place}]", host)


def _host(errors: FieldErrors, at: str, host: str) -> None:
    if not host:
        return
    if not names.ip_address(host):
        errors.invalid(at, host, "must be a DNS name, not an IP address")
    errors.each_invalid(at, host, names.wildcard(host) if "*" in host else names.subdomain(host))


def _paths(errors: FieldErrors, at: str, paths: Any) -> None:
    if not paths:
        errors.required(at)
    for index, item in enumerate(paths):
        place, path, kind = f"{at}[{index}]", item.get("path") or "", item.get("pathType")
        if kind is None:
            errors.required(f"{place}.pathType", "pathType must be specified")
            continue
        errors.one_of(f"{place}.pathType", kind, _PATH_TYPES)
        if not path.startswith("/") and (path or kind != "ImplementationSpecific"):
            errors.invalid(f"{place}.path", path, "must be an absolute path")
        if kind in ("Exact", "Prefix"):
            for part in _BAD_IN_PATH:
                if part in path:
                    errors.invalid(f"{place}.path", path, f"must not contain '{part}'")
            for end in _BAD_AT_END:
                if path.endswith(end):
                    errors.invalid(f"{place}.path", path, f"cannot end with '{end}'")
        _backend(errors, f"{place}.backend", item.get("backend") or {})


def _backend(errors: FieldErrors, at: str, backend: Json) -> None:
    service = backend.get("service")
    if service is None:
        if backend.get("resource") is None:
            errors.invalid(at, "", "resource or service backend is required")
        return
    if backend.get("resource") is not None:
        errors.invalid(at, "", "cannot set both resource and service backends")
        return
    name, port = service.get("name") or "", service.get("port") or {}
    if name:
        errors.each_invalid(f"{at}.service.name", name, names.dns_1035(name))
    else:
        errors.required(f"{at}.service.name")
    if port.get("name") and port.get("number"):
        errors.invalid(at, "", "cannot set both port name & port number")
    elif not port.get("name") and not port.get("number"):
        errors.required(at, "port name or number is required")
    elif port.get("number"):
        errors.port(f"{at}.service.port.number", port["number"])


def endpoints(errors: FieldErrors, obj: Json) -> None:
    for index, subset in enumerate(obj.get("subsets") or ()):
        at = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            errors.required(at, "must specify `addresses` or `notReadyAddresses`")
        for field in ("addresses", "notReadyAddresses"):
            for place, address in enumerate(subset.get(field) or ()):
                text = address.get("ip") or ""
                errors.each_invalid(f"{at}.{field}[{place}].ip", text, names.ip_address(text))
        _ports(errors, f"{at}.ports", subset.get("ports") or ())


def _ports(errors: FieldErrors, at: str, ports: Any) -> None:
    for index, port in enumerate(ports):
        if len(ports) > 1 and not port.get("name"):
            errors.required(f"{at}[{index}].name")
        errors.port(f"{at}[{index}].port", port.get("port") or 0)


def endpoint_slice(errors: FieldErrors, obj: Json) -> None:
    kind = obj.get("addressType")
    errors.one_of("addressType", kind, _ADDRESS_TYPES)
    for index, endpoint in enumerate(obj.get("endpoints") or ()):
        at = f"endpoints[{index}].addresses"
        if not endpoint.get("addresses"):
            errors.required(at, "must contain at least 1 address")
        for place, address in enumerate(endpoint.get("addresses") or ()):
            _slice_address(errors, f"{at}[{place}]", address, kind)


def _slice_address(errors: FieldErrors, at: str, address: str, kind: Any) -> None:
    if kind == "FQDN":
        errors.each_invalid(at, address, names.subdomain(address))
        return
    wrong = names.ip_address(address)
    errors.each_invalid(at, address, wrong)
    if not wrong and (":" in address) != (kind == "IPv6"):
        errors.invalid(at, address, f"must be a valid {kind} address")
