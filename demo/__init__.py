"""The mesh on one machine: nodes and pods made of network namespaces, with the real controller, agents and proxies in them.

`python -m demo` tells the story; the end-to-end tests and the benchmarks build on the same parts.
"""
