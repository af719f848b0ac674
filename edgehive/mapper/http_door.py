"""Where a mapper's HTTP interface is, and who may enter.

It is only where it was asked for, as whoever reaches it may call everything: a port alone is on this machine, and with
a client CA only those are admitted who show a certificate of it. Web pages in a browser on this machine are not.

Go: staging/src/github.com/kubeedge/mapper-framework/pkg/httpserver/server.go
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from edgehive.kit.loopback import is_from_web_page, is_loopback, names_this_machine
from edgehive.kit.ssl_contexts import server_context


class HttpDoor(NamedTuple):
    """Where the interface is, and who may enter."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None

    @classmethod
    def parse(
        cls, text: str, certificate: Path | None = None, key: Path | None = None, client_ca: Path | None = None
    ) -> "HttpDoor | None":
        """`[HOST:]PORT`, "" for no door; raises ValueError."""
        if not text:
            if certificate or key or client_ca:
                raise ValueError("--http-cert, --http-key and --http-client-ca need --http [HOST:]PORT")
            return None
        host, _, port = text.rpartition(":")
        if not port.isdecimal() or not 0 <= int(port) < 65536:
            raise ValueError(f"--http {text!r} is not [HOST:]PORT; write 7777, or 192.0.2.7:7777")
        if (certificate is None) != (key is None) or (client_ca and certificate is None):
            raise ValueError("TLS needs both --http-cert and --http-key; --http-client-ca needs them too")
        return cls(host.strip("[]") or "127.0.0.1", int(port), certificate, key, client_ca)

    def tls(self) -> ssl.SSLContext | None:
        """Raises ValueError where a file cannot be used."""
        if self.certificate is None or self.key is None:
            return None
        try:
            return server_context(self.certificate, self.key, client_ca=self.client_ca)
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(f"the certificate, key or CA of --http cannot be used: {error}") from None

    @property
    def is_open_to_others(self) -> bool:
        return not is_loopback(self.host) and self.client_ca is None

    def refusal(self, host: str, headers: Mapping[str, str]) -> str:
        """Why a request is not answered, "" where it is: a call is a GET, which any page can make a browser send."""
        if is_from_web_page(headers):
            return "this interface answers programs, and no web pages"
        if is_loopback(self.host) and not names_this_machine(host):
            return "this interface answers programs of this machine, at a loopback address"
        return ""
