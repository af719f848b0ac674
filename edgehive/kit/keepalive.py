"""Has the kernel end connections whose peer vanished; its own defaults take hours. For every long-lived connection.

Only silence counts: after `idle` seconds of it the peer is asked for life, and sent bytes that stay unacknowledged for
`unacknowledged` seconds end the connection. A slow line with much on it is not mistaken for a dead one.
"""

import asyncio
import contextlib
import os
import socket


def expect_life(connection: socket.socket, *, idle: int, interval: int, unacknowledged: int) -> None:
    """Set it for one TCP socket; times are seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unacknowledged * 1000)


def expect_life_of(transport: asyncio.BaseTransport | None, *, idle: int, interval: int, unacknowledged: int) -> None:
    """The same for what asyncio or uvloop made; connections that are no TCP are left alone."""
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # What uvloop shows refuses options, so the descriptor is borrowed; a connection that is gone needs nothing.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(found.fileno())) as connection:
        expect_life(connection, idle=idle, interval=interval, unacknowledged=unacknowledged)
