"""Says why a command's stream broke off, in the stream: clients of SPDY take a mere end for success.

In exec and attach the client's first stream is the one for errors; after the last whole frame from the node a Status is
put on it. WebSocket clients notice a cut by themselves, and so does port-forward.

Go: k8s.io/client-go/tools/remotecommand/{v2,v4}.go, github.com/moby/spdystream
"""

import asyncio
import json

from edgehive.kit.relay import Duplex
from edgehive.kube.errors import ServerError
from edgehive.wire.streams import StreamBroken

_HEAD_END = b"\r\n\r\n"
_FRAME_HEAD = 8
_FIN = 1
_ERROR_STREAM = 1


class SpdyWithFarewell:
    """A node's stream, whose head has come, with the reason behind its bytes when they break off between two frames."""

    def __init__(self, answer: bytes, node: Duplex) -> None:
        self._node = node
        self._told = False
        head, end, rest = answer.partition(_HEAD_END)
        lines = head.lower().split(b"\r\n")
        versions = [line.partition(b":")[2].strip() for line in lines if line.startswith(b"x-stream-protocol-version:")]
        agreed = lines[0].startswith(b"http/1.1 101") and b"upgrade: spdy/3.1" in lines
        # Older versions of the protocol put plain text on the error stream.
        self._speaks = bool(end) and agreed and versions in ([b"v4.channel.k8s.io"], [b"v5.channel.k8s.io"])
        self._frame = b""
        self._missing = 0
        self._follow(rest)

    async def read(self, n: int = -1, /) -> bytes:
        if self._told:
            return b""
        try:
            data = await self._node.reader.read(n)
        except StreamBroken as error:
            if not self._speaks or self._missing or self._frame:
                raise
            self._told = True
            return _farewell(str(error))
        self._follow(data)
        return data

    def write(self, data: bytes, /) -> None:
        self._node.writer.write(data)

    async def drain(self) -> None:
        try:
            await self._node.writer.drain()
        except StreamBroken:
            if not self._speaks:
                raise
            # Whoever reads here is told, and ends this.
            await asyncio.Event().wait()

    def can_write_eof(self) -> bool:
        return self._node.writer.can_write_eof()

    def write_eof(self) -> None:
        self._node.writer.write_eof()

    def close(self) -> None:
        self._node.writer.close()

    async def wait_closed(self) -> None:
        await self._node.writer.wait_closed()

    def _follow(self, data: bytes) -> None:
        """Keep count of where frames begin."""
        place = 0
        while self._speaks and place < len(data):
            if self._missing:
                step = min(self._missing, len(data) - place)
                self._missing -= step
                place += step
                continue
            head = data[place : place + _FRAME_HEAD - len(self._frame)]
            self._frame += head
            place += len(head)
            if len(self._frame) == _FRAME_HEAD:
                self._missing = int.from_bytes(self._frame[5:], "big")
                self._frame = b""


def _farewell(text: str) -> bytes:
    status = json.dumps(ServerError(text).to_dict()).encode()
    return _ERROR_STREAM.to_bytes(4, "big") + bytes((_FIN,)) + len(status).to_bytes(3, "big") + status
