"""Gathering what is wrong with an object, field by field, in Kubernetes' words; and what names may look like. Pure.

Go: apimachinery/pkg/util/validation/{field/errors.go,validation.go}
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from edgehive.api.meta import StatusCause
from edgehive.kube import quantity

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_1035: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_CONFIG_KEY: Final = r"[-._a-zA-Z0-9]+"

_SUBDOMAIN_TEXT: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    f"end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_LABEL_TEXT: Final = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    f"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_DNS_1035_TEXT: Final = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character "
    f"(e.g. 'my-name',  or 'abc-123', regex used for validation is '{_DNS_1035}')"
)
_QUALIFIED_TEXT: Final = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    f"character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_QUALIFIED}')"
)
_LABEL_VALUE_TEXT: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_CONFIG_KEY_TEXT: Final = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' "
    f"(e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '{_CONFIG_KEY}')"
)


def _matches(value: str, pattern: str, text: str, longest: int) -> list[str]:
    found = [f"must be no more than {longest} characters"] if len(value) > longest else []
    return found if re.fullmatch(pattern, value) else [*found, text]


def subdomain(value: str) -> list[str]:
    return _matches(value, _SUBDOMAIN, _SUBDOMAIN_TEXT, 253)


def label(value: str) -> list[str]:
    return _matches(value, _LABEL, _LABEL_TEXT, 63)


def dns_1035(value: str) -> list[str]:
    return _matches(value, _DNS_1035, _DNS_1035_TEXT, 63)


def path_segment(value: str) -> list[str]:
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{letter}'" for letter in "/%" if letter in value]


def label_value(value: str) -> list[str]:
    return _matches(value, f"({_QUALIFIED})?", _LABEL_VALUE_TEXT, 63)


def qualified_name(value: str) -> list[str]:
    """A label or annotation key: `name` or `prefix/name`."""
    prefix, slash, name = value.rpartition("/")
    found = [
        f"prefix part {text}" for text in (subdomain(prefix) if prefix else ["must be non-empty"] if slash else [])
    ]
    if not name:
        return [*found, "name part must be non-empty", _QUALIFIED_TEXT]
    return found + [
        text if text.startswith("name part") else f"name part {text}"
        for text in _matches(name, _QUALIFIED, _QUALIFIED_TEXT, 63)
    ]


def config_key(value: str) -> list[str]:
    return _matches(value, _CONFIG_KEY, _CONFIG_KEY_TEXT, 253)


def wildcard(value: str) -> list[str]:
    """A subdomain below `*.`."""
    if value.startswith("*.") and not subdomain(value[2:]):
        return []
    return ["a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist "
            "of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. "
            rf"'*.example.com', regex used for validation is '\*\.{_SUBDOMAIN}')"]  # fmt: skip


def ip_address(value: str) -> list[str]:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]
    return []


def shown(value: Any) -> str:
    """A value as messages quote it."""
    return msgspec.json.encode(value).decode()


class FieldErrors:
    """The causes found so far."""

    def __init__(self) -> None:
        self.causes: list[StatusCause] = []

    def _add(self, reason: str, path: str, message: str) -> None:
        self.causes.append(StatusCause(f"FieldValue{reason}", message, path))

    def required(self, path: str, detail: str = "") -> None:
        self._add("Required", path, f"Required value: {detail}" if detail else "Required value")

    def invalid(self, path: str, value: Any, detail: str) -> None:
        self._add("Invalid", path, f"Invalid value: {shown(value)}: {detail}")

    def duplicate(self, path: str, value: Any) -> None:
        self._add("Duplicate", path, f"Duplicate value: {shown(value)}")

    def not_found(self, path: str, value: Any) -> None:
        self._add("NotFound", path, f"Not found: {shown(value)}")

    def forbidden(self, path: str, detail: str) -> None:
        self._add("Forbidden", path, f"Forbidden: {detail}")

    def too_long(self, path: str, limit: int) -> None:
        self._add("TooLong", path, f"Too long: may not be more than {limit} bytes")

    def each_invalid(self, path: str, value: Any, details: Iterable[str]) -> None:
        for detail in details:
            self.invalid(path, value, detail)

    def one_of(self, path: str, value: Any, allowed: tuple[str, ...]) -> None:
        """Required when empty, NotSupported when none of `allowed`."""
        if not value:
            self.required(path)
        elif value not in allowed:
            self.not_supported(path, value, sorted(allowed))

    def not_supported(self, path: str, value: Any, allowed: Iterable[Any]) -> None:
        listed = ", ".join(shown(item) for item in allowed)
        self._add("NotSupported", path, f"Unsupported value: {shown(value)}: supported values: {listed}")

    def port(self, path: str, number: Any) -> None:
        if isinstance(number, int) and not 1 <= number <= 65535:
            self.invalid(path, number, "must be between 1 and 65535, inclusive")

    def not_negative(self, path: str, value: Any) -> None:
        if isinstance(value, int) and value < 0:
            self.invalid(path, value, "must be greater than or equal to 0")

    def amounts(self, path: str, amounts: Mapping[str, Any], place: str) -> None:
        """Quantities that are none, or negative; `place` says how a key is written into a path."""
        for name, amount in amounts.items():
            try:
                wrong = "must be greater than or equal to 0" if quantity.parse(amount) < 0 else ""
            except ValueError as error:
                wrong = str(error)
            if wrong:
                self.invalid(path + place.format(name), amount, wrong)

    def immutable(self, path: str, old: Any, new: Any) -> None:
        if (old or None) != (new or None):
            self.invalid(path, new, "field is immutable")
