"""Marks for tests of one way to capture; the others run over each."""

import pytest

only_nftables = pytest.mark.parametrize("capture", ["nftables"], indirect=True)
only_ebpf = pytest.mark.parametrize("capture", ["ebpf"], indirect=True)
