"""Where a broker listens, as configuration files write it: `tcp://host:port`, `ssl://host:port`. Pure."""

from typing import NamedTuple
from urllib.parse import urlsplit

_PORTS = {"tcp": 1883, "mqtt": 1883, "ssl": 8883, "tls": 8883, "mqtts": 8883}
_SECURE = frozenset({"ssl", "tls", "mqtts"})


class Address(NamedTuple):
    """A broker's address."""

    host: str
    port: int
    secure: bool

    @classmethod
    def parse(cls, text: str, key: str) -> "Address":
        """Read the value of a configuration key; raises ValueError with the mend."""
        parts = urlsplit(text if "://" in text else f"tcp://{text}")
        try:
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            port = 0
        if parts.scheme not in _PORTS or not parts.hostname or not port:
            raise ValueError(f"{key} is {text!r}; write tcp://host:1883, or ssl://host:8883 for TLS")
        return cls(parts.hostname, port, parts.scheme in _SECURE)

    def __str__(self) -> str:
        return f"{'ssl' if self.secure else 'tcp'}://{self.host}:{self.port}"
