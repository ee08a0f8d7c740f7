"""Which way is chosen: by trying, with a reason, and without a trace of the trial."""

import errno
from pathlib import Path

import msgspec
import pytest

from nodeagent.bpf import steering
from nodeagent.bpf.libbpf import AttachType
from nodeagent.capture import choice
from nodeagent.capture.base import Way
from nodeagent.capture.choice import choose, redirects, why_no_questions
from nodeagent.capture.iptables import IptablesCapture
from nodeagent.capture.nftables import refusal
from nodeagent.capture.terms import TOTAL
from nodeagent.linux import nftables
from nodeagent.linux.errors import KernelError
from nodeagent.linux.iptables import Backend
from tests.nodeagent.capture.ways import made


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


@pytest.mark.parametrize("way", [way for way in Way if way is not Way.AUTO])
def test_each_can_be_asked_for_and_leaves_no_trace(pins: Path, way: Way) -> None:
    chosen = choose(way, pins)
    assert (chosen.way.name, chosen.reason) == (way, "asked for")
    assert not list(pins.glob("steer*"))


def test_the_reason_names_each_better_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(script: str) -> None:
        raise KernelError(errno.EOPNOTSUPP, "nftables", detail="no tproxy here" if "tproxy" in script else "nothing at all")

    transact = nftables.transact
    monkeypatch.setattr(nftables, "transact", lambda script: refuse(script) if "tproxy" in script else transact(script))
    chosen = choose(Way.AUTO, tmp_path / "absent" / "nodemesh")
    assert chosen.way.name == "redirect"
    assert chosen.reason.startswith("ebpf is not possible here: ")
    assert chosen.reason.endswith("; nftables is not possible here: nftables: no tproxy here")
    monkeypatch.setattr(nftables, "transact", refuse)
    chosen = choose(Way.AUTO, tmp_path / "absent" / "nodemesh")
    assert chosen.way.name == "iptables"
    assert "redirect is not possible here: nftables: nothing at all" in chosen.reason
    monkeypatch.setattr(choice, "backends", tuple)
    with pytest.raises(OSError, match=r"no way to capture: ebpf .*; nftables .*; redirect .*; iptables is not possible here: .*install"):
        choose(Way.AUTO, tmp_path / "absent" / "nodemesh")


def test_which_ways_bring_questions_to_the_agent(pins: Path) -> None:
    for way in ("ebpf", "nftables", "redirect", "iptables-nft", "iptables-legacy"):
        with made(way, pins) as capture:
            assert why_no_questions(capture) == ""
            assert redirects(capture) == (way not in {"ebpf", "nftables"})


def test_programs_that_do_not_take_the_rules_have_no_answers() -> None:
    absent = IptablesCapture(Backend("nft", tuple((version, "/bin/false", "/bin/false") for version in (4, 6))))
    assert "/bin/false" in why_no_questions(absent)


def test_a_kernel_that_does_not_take_their_rules_has_no_answers_and_is_captured_all_the_same() -> None:
    assert "syntax error" in refusal(lambda *_: "add table inet nodemesh nonsense", TOTAL)
