"""The same kernel objects as the tests of eBPF have."""

from tests.nodeagent.bpf.conftest import network, root

__all__ = ["network", "root"]
