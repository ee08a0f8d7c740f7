"""Where a connection of a local workload goes: the pure functions that answer, and the words that explain it.

Pure: no I/O, no clock.
"""
