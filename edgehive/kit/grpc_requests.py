"""Requests of gRPC services over grpclib, read with a limit of size and time. Needs grpclib and protobuf.

grpclib's own `recv_message` reads a message of any size and waits for ever.
"""

import asyncio
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

Request = TypeVar("Request", bound=Message)


async def received(stream: Stream[Any, Any], type: type[Request], *, limit: int, seconds: float) -> Request:
    """The call's request; raises GRPCError with a sentence where it is too large, late or unreadable."""
    try:
        async with asyncio.timeout(seconds):
            head = await stream._stream.recv_data(5)
            if len(head) < 5:
                raise GRPCError(Status.INVALID_ARGUMENT, "the call has no request")
            size = int.from_bytes(head[1:], "big")
            if head[0]:
                raise GRPCError(Status.UNIMPLEMENTED, "compressed requests are not read; switch compression off")
            if size > limit:
                raise GRPCError(Status.RESOURCE_EXHAUSTED, f"the request has {size} bytes, the limit is {limit}")
            return type.FromString(await stream._stream.recv_data(size))
    except TimeoutError:
        raise GRPCError(Status.DEADLINE_EXCEEDED, f"the request did not come within {seconds:g} s") from None
    except (DecodeError, AssertionError) as error:
        raise GRPCError(Status.INVALID_ARGUMENT, f"the request cannot be read: {error}") from error
