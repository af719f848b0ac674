"""What the processes ask of the C library, seen in its own account."""

import ctypes

import pytest

from edgehive.kit.memory import map_large_buffers

LIBC = ctypes.CDLL(None)
SIZE = 256 * 1024


class Account(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "free_chunks", "fast_chunks", "mapped_regions", "mapped_bytes", "highest", "fast_bytes",
                     "used_bytes", "free_bytes", "trimmable")
    ]  # fmt: skip


def mapped() -> int:
    LIBC.mallinfo2.restype = Account
    return LIBC.mallinfo2().mapped_regions


@pytest.mark.skipif(not hasattr(LIBC, "mallinfo2"), reason="this C library has no mallinfo2 (glibc 2.33)")
def test_large_buffers_stay_out_of_the_heap_when_some_were_freed_before() -> None:
    LIBC.malloc.restype, LIBC.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    LIBC.free.restype, LIBC.free.argtypes = None, [ctypes.c_void_p]
    map_large_buffers()
    LIBC.free(LIBC.malloc(SIZE))
    before = mapped()
    buffers = [LIBC.malloc(SIZE) for _ in range(50)]
    within = mapped()
    for buffer in buffers:
        LIBC.free(buffer)
    # The interpreter may have mapped or given back something of its own meanwhile.
    assert within - before == pytest.approx(50, abs=5)
    assert within - mapped() == pytest.approx(50, abs=5)
