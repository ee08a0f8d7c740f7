"""The mesh model: objects in, resources ready to send out; the cost of a change grows with the change, not with the mesh.

Translation functions are pure; `Mesh` keeps what they need at hand, asks them again for what a change touches, and settles rival claims.
"""
