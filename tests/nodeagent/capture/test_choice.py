"""Which way is chosen: by trying, with a reason, and without a trace of the trial."""

from pathlib import Path

import msgspec
import pytest

from nodeagent.bpf import steering
from nodeagent.bpf.libbpf import AttachType
from nodeagent.capture.base import Way
from nodeagent.capture.choice import choose
from nodeagent.linux.errors import KernelError


def test_auto_takes_ebpf_where_it_works(pins: Path) -> None:
    chosen = choose(Way.AUTO, pins)
    assert (chosen.way.name, chosen.reason) == ("ebpf", "the best way, and this kernel carries it")
    assert list(pins.iterdir()) == []


def test_auto_takes_the_next_best_and_says_why(tmp_path: Path) -> None:
    chosen = choose(Way.AUTO, tmp_path / "absent" / "nodemesh")
    assert chosen.way.name == "nftables"
    assert chosen.reason.startswith("ebpf is not possible here: ")
    assert str(tmp_path / "absent") in chosen.reason


def test_auto_goes_by_what_the_kernel_does_not_by_what_it_is(pins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_another_kind = msgspec.structs.replace(steering.program_of(), attach_type=AttachType.CGROUP_SOCK_OPS)
    monkeypatch.setattr(steering, "program_of", lambda _: of_another_kind)
    chosen = choose(Way.AUTO, pins)
    assert chosen.way.name == "nftables"
    assert "eBPF link" in chosen.reason
    assert list(pins.iterdir()) == []


def test_what_was_asked_for_and_can_not_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KernelError):
        choose(Way.EBPF, tmp_path / "absent" / "nodemesh")


def test_nftables_can_be_asked_for(pins: Path) -> None:
    assert choose(Way.NFTABLES, pins).way.name == "nftables"
