"""What objects that rule over others must be: autoscalers, budgets, quotas, limits, leases. Pure.

Go: pkg/apis/{autoscaling,policy,coordination}/validation, pkg/apis/core/validation (ResourceQuota, LimitRange)
"""

from collections.abc import Mapping
from typing import Any, Final

from edgehive.kube import quantity
from edgehive.kube.server.field_errors import FieldErrors

Json = Mapping[str, Any]

#: The smaller, the greater, which of them is to blame, and how it is said.
_ORDER: Final = (
    ("min", "max", "min", "min value {} is greater than max value {}"),
    ("min", "defaultRequest", "defaultRequest", "min value {} is greater than default request value {}"),
    ("min", "default", "default", "min value {} is greater than default value {}"),
    ("defaultRequest", "max", "defaultRequest", "default request value {} is greater than max value {}"),
    ("defaultRequest", "default", "defaultRequest", "default request value {} is greater than default limit value {}"),
    ("default", "max", "default", "default value {} is greater than max value {}"),
)


def autoscaler(errors: FieldErrors, obj: Json) -> None:
    spec = obj.get("spec") or {}
    least, most = spec.get("minReplicas"), spec.get("maxReplicas") or 0
    if least is not None and least < 1:
        errors.invalid("spec.minReplicas", least, "must be greater than or equal to 1")
    if most == 0:
        errors.required("spec.maxReplicas", "must be set and greater than 0")
    elif most < 0:
        errors.invalid("spec.maxReplicas", most, "must be greater than or equal to 1")
    if least is not None and most < least:
        errors.invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")
    target = spec.get("scaleTargetRef") or {}
    for field in ("kind", "name"):
        if not target.get(field):
            errors.required(f"spec.scaleTargetRef.{field}")


def budget(errors: FieldErrors, obj: Json) -> None:
    spec = obj.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        errors.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")
    for field in ("minAvailable", "maxUnavailable"):
        _share(errors, f"spec.{field}", spec.get(field))


def _share(errors: FieldErrors, at: str, value: Any) -> None:
    """A count, or a percentage of at most 100."""
    if isinstance(value, int):
        errors.not_negative(at, value)
    elif isinstance(value, str):
        digits = value.removesuffix("%")
        if digits == value or not digits.isdecimal():
            errors.invalid(at, value, "a valid percent string must be a numeric string followed by an ending '%' "
                           "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')")  # fmt: skip
        elif int(digits) > 100:
            errors.invalid(at, value, "must not be greater than 100%")


def quota(errors: FieldErrors, obj: Json) -> None:
    errors.amounts("spec.hard", (obj.get("spec") or {}).get("hard") or {}, "[{}]")


def limit_range(errors: FieldErrors, obj: Json) -> None:
    for index, item in enumerate((obj.get("spec") or {}).get("limits") or ()):
        at = f"spec.limits[{index}]"
        if not item.get("type"):
            errors.required(f"{at}.type")
        for lower, upper, place, words in _ORDER:
            for name in (item.get(lower) or {}).keys() & (item.get(upper) or {}).keys():
                low, high = item[lower][name], item[upper][name]
                if quantity.parse(low) > quantity.parse(high):
                    errors.invalid(f"{at}.{place}[{name}]", item[place][name], words.format(low, high))


def lease(errors: FieldErrors, obj: Json) -> None:
    spec = obj.get("spec") or {}
    seconds = spec.get("leaseDurationSeconds")
    if seconds is not None and seconds <= 0:
        errors.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0")
    errors.not_negative("spec.leaseTransitions", spec.get("leaseTransitions"))
