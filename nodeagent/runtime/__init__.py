"""Runtimes: which workloads run on this node. One interface, a source per module."""
