"""grpclib's server with two things it lacks: it closes its connections when it stops, and takes only so many.

For both ends of DMI. Needs grpclib.
"""

from typing import Any
from weakref import WeakSet

from grpclib.protocol import H2Protocol
from grpclib.server import Server

#: Connections at once; a mapper needs one.
CONNECTIONS = 256


class ClosingServer(Server):
    """Start and stop it as any grpclib server."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._protocols: WeakSet[H2Protocol] = WeakSet()

    def _protocol_factory(self) -> H2Protocol:
        protocol: H2Protocol = super()._protocol_factory()
        if len(self._protocols) >= CONNECTIONS:
            protocol = _Refusing(protocol.handler, protocol.config, protocol.h2_config)
        else:
            self._protocols.add(protocol)
        return protocol

    def close(self) -> None:
        super().close()
        for protocol in list(self._protocols):
            if hasattr(protocol, "processor"):
                protocol.processor.close("the server stops")


class _Refusing(H2Protocol):
    """One connection too many."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.processor.close("too many connections")
