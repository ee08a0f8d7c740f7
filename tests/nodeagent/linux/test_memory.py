"""One heap for all threads; after the start nothing old is looked at again by the collector, and what was freed is the kernel's again."""

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


HEAPS = """
import ctypes, sys, threading
from nodeagent.linux.memory import use_one_heap
if sys.argv[1] == "one":
    use_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
all_there = threading.Barrier(8)
found = []

def allocate():
    all_there.wait()
    found.append(libc.malloc(1000))
    all_there.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len({block >> 26 for block in found}))
"""
"""A heap of a thread is aligned to 64 MB: how many of them eight threads used."""


def test_threads_share_one_heap() -> None:
    def heaps(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", HEAPS, how], check=True, capture_output=True, text=True).stdout)

    assert heaps("one") == 1
    assert heaps("as it comes") > 1
