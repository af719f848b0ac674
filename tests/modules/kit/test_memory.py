"""What the processes ask of the C library, seen in its own account of a process that has just begun."""

import ctypes
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
from edgehive.kit.memory import map_large_buffers

class Account(ctypes.Structure):  # glibc's struct mallinfo2
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "free", "fast", "mapped", *"abcdef")]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
libc.mallinfo2.restype = Account
map_large_buffers()
libc.free(libc.malloc(256 * 1024))
before = libc.mallinfo2().mapped
buffers = [libc.malloc(256 * 1024) for _ in range(50)]
print(libc.mallinfo2().mapped - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library has no mallinfo2 (glibc 2.33)")
def test_large_buffers_stay_out_of_the_heap_when_some_were_freed_before() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    # A hole that start-up left in the heap may take one or the other.
    assert int(done.stdout) >= 45
