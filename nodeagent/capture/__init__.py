"""Capture: how a workload's connections reach the proxy. One interface, a way to do it per module."""
