"""For a process that must not outlive the one that started it and holds the other end of its standard input."""

import asyncio
import os
import signal
import sys


def end_with_parent() -> None:
    """Stop, as for SIGTERM, when the parent's end of standard input is gone."""
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            signal.raise_signal(signal.SIGTERM)

    loop.add_reader(descriptor, readable)
