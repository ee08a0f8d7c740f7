"""Linux as this project needs it: namespaces, sockets, sysctls, netlink, nftables, processes. Knows nothing of a mesh.

Functions that act "in this namespace" act in the network namespace of the calling thread; `Namespace.run` brings them there.
"""
