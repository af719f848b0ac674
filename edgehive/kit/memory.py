"""Memory given back to the machine: what start-up leaves behind, and the buffers of connections that ended.

For the processes (cloudcore, edgecore, edgesite); nothing depends on it having happened.
"""

import asyncio
import ctypes
import gc

#: When start-up is surely over.
SETTLED_SECONDS = 5.0
#: glibc's number for the size from which memory is mapped apart, and that size as it is before glibc adapts it.
_M_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 128 * 1024
#: Objects made, and collections of the younger, until garbage is looked for: Python's own (700, 10, 10) costs a busy
#: process some hundredths of its time and finds next to nothing.
_THRESHOLDS = (5_000, 10, 10)


def map_large_buffers() -> None:
    """Keep large buffers out of the heap, so that freeing one gives it back and a new one costs what is used of it.

    A TLS connection has one of 256 KiB of which a few pages are ever used. glibc takes the first that is freed for a
    reason to have all later ones in the heap, where connections that come and go use up one after another in full.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # not in every C library
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def release_free_memory() -> None:
    """Collect garbage, return the holes to the kernel, and never walk what start-up made again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in every C library
    if trim is not None:
        trim(0)


def release_when_settled() -> asyncio.TimerHandle:
    """Do it a few seconds from now, and map large buffers from now on; the handle cancels."""
    map_large_buffers()
    return asyncio.get_running_loop().call_later(SETTLED_SECONDS, release_free_memory)
