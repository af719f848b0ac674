"""`SharedBufferProtocol`: a connection that is read into one buffer, which all of its thread share.

For the hub's doors and the connections to the API server. Over TLS an event loop otherwise takes a fresh 256 KiB for
every read, however little comes, and a buffer for each connection would be memory for nothing.
"""

import asyncio
import threading

#: What one read takes in at most.
SIZE = 256 * 1024


class _Buffer(threading.local):
    def __init__(self) -> None:
        self.view = memoryview(bytearray(SIZE))


_buffer = _Buffer()


class SharedBufferProtocol(asyncio.BufferedProtocol):
    """Give what comes to `data_received`, as asyncio.Protocol does.

    Nothing else runs between the two calls of the event loop, so that whoever reads next overwrites nothing.
    """

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """What was read; called from the event loop."""
        raise NotImplementedError

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        return _buffer.view

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(_buffer.view[:nbytes]))
