"""After the start: nothing old is looked at again by the collector, and what was freed is the kernel's again."""

import subprocess
import sys

SCRIPT = """
import ctypes, gc, psutil
from nodeagent.linux.memory import settle
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(1000) for _ in range(20_000)]
for block in blocks:
    ctypes.memset(block, 1, 1000)
for block in blocks[:-1]:  # the last one keeps the heap from shrinking by itself
    libc.free(block)
before = psutil.Process().memory_full_info().uss
settle()
print(before - psutil.Process().memory_full_info().uss, gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_what_was_freed_goes_back_and_what_stays_is_not_collected_again() -> None:
    output = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout
    given_back_bytes, frozen, watched = map(int, output.split())
    assert given_back_bytes > 15_000_000
    assert frozen > 10_000
    assert watched < 1000
