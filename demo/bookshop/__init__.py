"""A bookshop of small services behind a waypoint, and the story that `make demo-l7` tells with it.

A page calls details and three versions of reviews; two of these call ratings. Each is a process in a pod of its own and keeps an account of
what it received and what its own calls came to; the demo compares what the mesh says with these accounts.
"""
