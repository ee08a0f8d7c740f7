"""What the agent knows of the mesh: an immutable snapshot that is cheap to replace, and the view of it that decisions are made from.

Pure: no I/O, no clock.
"""
