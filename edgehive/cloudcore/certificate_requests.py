"""What a PKCS#10 certificate request of a node asks for, read without a cryptography library in the process.

For the rules on what a node may ask and for whoever approves it. Pure; what is not understood is refused, never
guessed: whoever signs must not read more in a request than this file does.
"""

import base64
import ipaddress
from collections.abc import Iterator

from edgehive.wire.join import NODES_GROUP, node_user

_INTEGER, _OCTETS, _OID = 0x02, 0x04, 0x06
_SEQUENCE, _SET, _ATTRIBUTES, _BOOLEAN = 0x30, 0x31, 0xA0, 0x01
_TEXTS = (0x0C, 0x13)  # UTF8String, PrintableString
_IP_ADDRESS = 0x87
_ORGANIZATION, _COMMON_NAME = b"\x55\x04\x0a", b"\x55\x04\x03"
_ALTERNATIVE_NAMES = b"\x55\x1d\x11"
_EXTENSION_REQUEST = bytes.fromhex("2a864886f70d01090e")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_request_of(pem: bytes, node: str) -> bool:
    """Whether a PEM request's subject is exactly the node's."""
    try:
        return sorted(_subject(_der(pem))) == [
            (_COMMON_NAME, node_user(node).encode()),
            (_ORGANIZATION, NODES_GROUP.encode()),
        ]
    except (ValueError, IndexError):
        return False


def addresses(pem: bytes) -> list[Address]:
    """The IP addresses a PEM request wants named; raises ValueError when it wants other names or cannot be read."""
    try:
        return [address for extension in _extensions(_der(pem)) for address in _alternative_addresses(extension)]
    except IndexError:
        raise ValueError("the certificate request ends early") from None


def _der(pem: bytes) -> bytes:
    head, tail = b"-----BEGIN CERTIFICATE REQUEST-----", b"-----END CERTIFICATE REQUEST-----"
    text = pem.strip()
    if not (text.startswith(head) and text.endswith(tail) and text.count(b"-----BEGIN") == 1):
        raise ValueError("not one certificate request in PEM")
    return base64.b64decode(b"".join(text[len(head) : -len(tail)].split()), validate=True)


def _information(der: bytes) -> tuple[bytes, bytes]:
    """(subject, what follows it); raises ValueError or IndexError for what is no request."""
    body, _ = _open(der, _SEQUENCE)
    information, _ = _open(body, _SEQUENCE)
    _, rest = _open(information, _INTEGER)
    return _open(rest, _SEQUENCE)


def _subject(der: bytes) -> list[tuple[bytes, bytes]]:
    """(attribute, text) of every part of the subject; raises as `_information`."""
    names, _ = _information(der)
    parts: list[tuple[bytes, bytes]] = []
    for part in _each(names, _SET):
        pair, more = _open(part, _SEQUENCE)
        if more:
            raise ValueError("several names in one part")
        oid, text = _open(pair, _OID)
        value, _ = _open(text, *_TEXTS)
        parts.append((oid, value))
    return parts


def _extensions(der: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(extension, value) of all extensions that are asked for."""
    _, rest = _information(der)
    _, rest = _open(rest, _SEQUENCE)  # the public key
    if not rest:
        return
    attributes, more = _open(rest, _ATTRIBUTES)
    if more:
        raise ValueError("something follows the attributes")
    for attribute in _each(attributes, _SEQUENCE):
        oid, values = _open(attribute, _OID)
        if oid != _EXTENSION_REQUEST:
            continue
        wanted, more = _open(values, _SET)
        if more:
            raise ValueError("something follows an attribute")
        for extensions in _each(wanted, _SEQUENCE):
            for extension in _each(extensions, _SEQUENCE):
                yield _extension(extension)


def _extension(extension: bytes) -> tuple[bytes, bytes]:
    oid, rest = _open(extension, _OID)
    if rest[0] == _BOOLEAN:
        _, rest = _open(rest, _BOOLEAN)
    value, _ = _open(rest, _OCTETS)
    return oid, value


def _alternative_addresses(extension: tuple[bytes, bytes]) -> Iterator[Address]:
    oid, value = extension
    if oid != _ALTERNATIVE_NAMES:
        return
    names, _ = _open(value, _SEQUENCE)
    while names:
        if names[0] != _IP_ADDRESS:
            raise ValueError("it asks for a name that is no IP address")
        octets, names = _open(names, _IP_ADDRESS)
        yield ipaddress.ip_address(octets)


def _each(data: bytes, tag: int) -> Iterator[bytes]:
    while data:
        content, data = _open(data, tag)
        yield content


def _open(data: bytes, *tags: int) -> tuple[bytes, bytes]:
    """(content, what follows) of the first element, which has to have one of these tags."""
    if data[0] not in tags:
        raise ValueError("another element is expected here")
    length, start = data[1], 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4:
            raise ValueError("no length")
        start += size
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError("cut off")
    return data[start : start + length], data[start + length :]
