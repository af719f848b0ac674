"""One gRPC connection to a runtime's unix socket: deadlines, reconnecting, errors in one form.

For `cri.py` and `containerd.py`. It never retries: whether to try again is the caller's judgement, by
`RuntimeRefused.transient`. The connection opens at the first call and again at the first call after a loss.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message
from grpclib import GRPCError
from grpclib.client import Channel, Stream, StreamStreamMethod, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import ProtocolError, StreamTerminatedError

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)

_TRANSIENT = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED"})


class RuntimeRefused(Exception):
    """The runtime said no, or did not answer: the call, the gRPC code's name and the runtime's own text."""

    def __init__(self, call: str, code: str, text: str) -> None:
        super().__init__(f"{call}: {text}" if code == "UNKNOWN" else f"{call}: {code}: {text}")
        self.call = call
        self.code = code
        self.text = text

    @property
    def transient(self) -> bool:
        """The same call may succeed later without anybody changing anything."""
        return self.code in _TRANSIENT

    @property
    def not_found(self) -> bool:
        return self.code == "NOT_FOUND"

    @property
    def already_exists(self) -> bool:
        return self.code == "ALREADY_EXISTS"


def socket_path(endpoint: str) -> str:
    """The path of `unix:///run/x.sock` or of a plain absolute path; raises ValueError for anything else."""
    path = endpoint.removeprefix("unix://")
    if not path.startswith("/"):
        raise ValueError(f"container runtime endpoint {endpoint!r}: write unix:///path/to/the.sock")
    return path


class Caller(Protocol):
    """What `CriClient` needs of a connection; `testing.cri` answers without a socket."""

    path: str

    async def call(self, method: str, request: Message, reply: type[Reply], *, timeout: float) -> Reply: ...

    def close(self) -> None: ...


class Connection:
    """Calls on one unix socket; `async with` closes it."""

    def __init__(self, endpoint: str, metadata: Mapping[str, str] | None = None) -> None:
        self.path = socket_path(endpoint)
        self._metadata = dict(metadata or {})
        self._channel: Channel | None = None

    async def __aenter__(self) -> "Connection":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the socket; calls under way end as UNAVAILABLE."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def call(
        self,
        method: str,
        request: Message,
        reply: type[Reply],
        *,
        timeout: float,
        metadata: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request, one reply, within `timeout` seconds; raises RuntimeRefused."""
        stub: UnaryUnaryMethod[Any, Reply] = UnaryUnaryMethod(self._open(), method, type(request), reply)
        async with self._translated(method):
            return await stub(request, timeout=timeout, metadata=self._metadata | dict(metadata or {}))

    async def subscribe(self, method: str, request: Message, reply: type[Reply]) -> AsyncIterator[Reply]:
        """One request, then replies until the server ends the stream; raises RuntimeRefused when it breaks."""
        stub: UnaryStreamMethod[Any, Reply] = UnaryStreamMethod(self._open(), method, type(request), reply)
        async with self._translated(method), stub.open(metadata=self._metadata) as stream:
            await stream.send_message(request, end=True)
            while (item := await stream.recv_message()) is not None:
                yield item

    @asynccontextmanager
    async def converse(
        self,
        method: str,
        request: type[Request],
        reply: type[Reply],
        *,
        timeout: float,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator["Stream[Request, Reply]"]:
        """A two-way stream, as a whole within `timeout` seconds; raises RuntimeRefused."""
        stub: StreamStreamMethod[Request, Reply] = StreamStreamMethod(self._open(), method, request, reply)
        async with (
            self._translated(method),
            stub.open(timeout=timeout, metadata=self._metadata | dict(metadata or {})) as stream,
        ):
            yield stream

    def _open(self) -> Channel:
        if self._channel is None:
            self._channel = Channel(path=self.path)
        return self._channel

    @asynccontextmanager
    async def _translated(self, method: str) -> AsyncIterator[None]:
        call = method.rpartition("/")[2]
        try:
            yield
        except GRPCError as error:
            raise RuntimeRefused(call, Status(error.status).name, error.message or "") from error
        except TimeoutError as error:
            raise RuntimeRefused(call, "DEADLINE_EXCEEDED", "no answer in time") from error
        except (StreamTerminatedError, ProtocolError) as error:
            raise RuntimeRefused(call, "UNAVAILABLE", f"connection to {self.path} was lost: {error}") from error
        except FileNotFoundError as error:
            raise RuntimeRefused(
                call, "UNAVAILABLE", f"no container runtime listens on {self.path}: start containerd"
            ) from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise RuntimeRefused(call, "UNAVAILABLE", f"cannot reach {self.path}: {error}") from error
