"""What a `format` in a custom resource's schema asks of a string, in all its known names. Pure.

Unknown formats ask for nothing. Where Go's parsers are lenient (leading zeros, one dash), so are these.

Go: apiextensions-apiserver/pkg/apiserver/validation/formats.go, kube-openapi/pkg/validation/strfmt
"""

import ipaddress
import re
from collections.abc import Callable
from datetime import date
from email.utils import parseaddr
from typing import Final

_HEX: Final = "[0-9a-f]"
_UUID: Final = rf"{_HEX}{{8}}-?{_HEX}{{4}}-?%s-?%s-?{_HEX}{{12}}"
_ANY: Final = f"{_HEX}{{4}}"
_VARIANT: Final = f"[89ab]{_HEX}{{3}}"
#: Letters and digits of any script.
_SIGN: Final = r"[^\W_]"
_LETTER: Final = r"[^\W\d_]"
_HOSTNAME: Final = rf"{_SIGN}(-?{_SIGN}{{0,62}})?|({_SIGN}((?:{_SIGN}|-){{0,61}}{_SIGN})?\.)+{_LETTER}{{2,63}}"
_CARD: Final = (
    r"4\d{12}(\d{3})?|5[1-5]\d{14}|6(011|5\d\d)\d{12}|3[47]\d{13}|3(0[0-5]|[68]\d)\d{11}"
    r"|(2131|1800|35\d{3})\d{11}"
)
_COLOUR: Final = r"\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*"
_BASE64: Final = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})"
_TIME: Final = re.compile(r"([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))")
_GO_DURATION: Final = re.compile(r"[-+]?(0|((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)")
_SPOKEN_DURATION: Final = re.compile(r"(?:-\s?)?\d+\s*([A-Za-zµ]+)")
#: Short forms stand alone, the last of each row also begins longer words ("minutes").
_UNITS: Final = (("ns", "nano"), ("us", "µs", "micro"), ("ms", "milli"), ("s", "sec"), ("m", "min"),
                 ("h", "hr", "hour"), ("d", "day"), ("w", "wk", "week"))  # fmt: skip
_SCHEME: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:(?P<rest>.*)", re.DOTALL)


def fits(name: str, value: str) -> bool:
    """Whether a string is of that format."""
    check = _FORMATS.get(name.replace("-", ""))
    return check is None or check(value)


def is_known(name: str, kind: str) -> bool:
    """Whether a schema of that type may name the format; others are allowed and ignored."""
    if kind in ("", "string"):
        return name.replace("-", "") in _FORMATS
    return name in _OF_NUMBERS.get(kind, ())


def _like(pattern: str, flags: int = 0) -> Callable[[str], bool]:
    compiled = re.compile(pattern, flags)
    return lambda value: compiled.fullmatch(value) is not None


def _uuid(third: str, fourth: str) -> Callable[[str], bool]:
    return _like(_UUID % (third, fourth), re.IGNORECASE)


def _is_uri(value: str) -> bool:
    """An absolute URI or an absolute path."""
    if re.search(r"[\x00-\x1f\x7f]|%(?![0-9a-fA-F]{2})", value):
        return False
    if value.startswith("/"):
        return True
    found = _SCHEME.fullmatch(value)
    if found is None:
        return False
    rest = found["rest"]
    host = re.split(r"[/?#]", rest[2:], maxsplit=1)[0] if rest.startswith("//") else ""
    return " " not in host and re.search(r":(?!\d*$)[^\]]*$", host.rpartition("@")[2]) is None


def _is_email(value: str) -> bool:
    address = parseaddr(value)[1]
    return re.fullmatch(r'("[^"]+"|[^@\s]+)@[^@\s]+', address) is not None


_is_hostname_text = _like(_HOSTNAME)


def _is_hostname(value: str) -> bool:
    short = len(value.encode()) <= 255 and all(len(part.encode()) <= 63 for part in value.split("."))
    return short and _is_hostname_text(value)


def _without_zeros(value: str) -> str:
    return re.sub(r"(?<![\d:a-fA-F])0+(?=\d)", "", value)


def _is_ipv4(value: str) -> bool:
    try:
        ipaddress.ip_address(_without_zeros(value))
    except ValueError:
        return False
    return "." in value and "%" not in value


def _is_ipv6(value: str) -> bool:
    try:
        ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return "%" not in value


def _is_cidr(value: str) -> bool:
    address, slash, bits = value.partition("/")
    if not (slash and bits.isascii() and bits.isdecimal() and "%" not in address):
        return False
    try:
        return int(bits) <= ipaddress.ip_address(_without_zeros(address)).max_prefixlen
    except ValueError:
        return False


def _is_mac(value: str) -> bool:
    if re.fullmatch(r"([0-9a-fA-F]{2}){6}", value):
        return True
    for separator, digits in ((":", 2), ("-", 2), (".", 4)):
        parts = value.split(separator)
        octets = len(parts) * digits // 2
        if octets in (6, 8, 20) and all(re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", part) for part in parts):
            return True
    return False


def _is_isbn(*lengths: int) -> Callable[[str], bool]:
    def check(value: str) -> bool:
        text = re.sub(r"[\s-]+", "", value)
        if 10 in lengths and re.fullmatch(r"\d{9}[\dX]", text):
            return sum((index + 1) * (10 if sign == "X" else int(sign)) for index, sign in enumerate(text)) % 11 == 0
        if 13 in lengths and re.fullmatch(r"\d{13}", text):
            return sum((3 if index % 2 else 1) * int(sign) for index, sign in enumerate(text)) % 10 == 0
        return False

    return check


def _is_card(value: str) -> bool:
    digits = re.sub(r"[^0-9]+", "", value)
    if re.fullmatch(_CARD, digits) is None:
        return False
    doubled = (int(sign) * (2 if index % 2 else 1) for index, sign in enumerate(reversed(digits)))
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0


def _is_date(value: str) -> bool:
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return re.fullmatch(r"[0-9-]{10}", value) is not None


def _is_date_time(value: str) -> bool:
    day, _, time = value.lower().partition("t")
    found = _TIME.fullmatch(time)
    return _is_date(day) and found is not None and found[1] <= "23" and found[2] <= "59" and found[3] <= "59"


def _is_duration(value: str) -> bool:
    """Go's form, or numbers with units in words."""
    return _GO_DURATION.fullmatch(value) is not None or any(
        _is_unit(unit.lower()) for unit in _SPOKEN_DURATION.findall(value)
    )


def _is_unit(word: str) -> bool:
    return any(word in names or word.startswith(names[-1]) for names in _UNITS)


_OF_NUMBERS: Final = {"integer": ("int32", "int64"), "number": ("float", "double")}
_FORMATS: Final[dict[str, Callable[[str], bool]]] = {
    "bsonobjectid": _like("[0-9a-fA-F]{24}"),
    "uri": _is_uri,
    "email": _is_email,
    "hostname": _is_hostname,
    "ipv4": _is_ipv4,
    "ipv6": _is_ipv6,
    "cidr": _is_cidr,
    "mac": _is_mac,
    "uuid": _uuid(_ANY, _ANY),
    "uuid3": _uuid(f"3{_HEX}{{3}}", _ANY),
    "uuid4": _uuid(f"4{_HEX}{{3}}", _VARIANT),
    "uuid5": _uuid(f"5{_HEX}{{3}}", _VARIANT),
    "isbn": _is_isbn(10, 13),
    "isbn10": _is_isbn(10),
    "isbn13": _is_isbn(13),
    "creditcard": _is_card,
    "ssn": _like(r"\d{3}[- ]\d{2}[- ]\d{4}", re.ASCII),
    "hexcolor": _like("#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})"),
    "rgbcolor": _like(rf"rgb\({_COLOUR},{_COLOUR},{_COLOUR}\)", re.ASCII),
    "byte": _like(_BASE64),
    "password": lambda _: True,
    "date": _is_date,
    "duration": _is_duration,
    "datetime": _is_date_time,
}
