"""Authorization at L4: policies compiled for fast matching, and the pure function that judges a connection.

Pure: no I/O, no clock.
"""
