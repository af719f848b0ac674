"""Memory that start-up leaves behind, given back to the machine once things have settled.

For the processes (cloudcore, edgecore, edgesite); nothing depends on it having happened.
"""

import asyncio
import ctypes
import gc

#: When start-up is surely over.
SETTLED_SECONDS = 5.0


def release_free_memory() -> None:
    """Collect garbage, return the holes to the kernel, and never walk what start-up made again."""
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in every C library
    if trim is not None:
        trim(0)


def release_when_settled() -> asyncio.TimerHandle:
    """Do it a few seconds from now; the handle cancels."""
    return asyncio.get_running_loop().call_later(SETTLED_SECONDS, release_free_memory)
