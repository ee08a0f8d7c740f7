"""nodeagent/doctor/host.py: what is wrong with a host is found, and what is tried leaves nothing behind."""

import errno
from pathlib import Path

import pytest

from nodeagent.bpf import bpffs
from nodeagent.capture.ebpf import DIRECTORY
from nodeagent.doctor import host
from nodeagent.doctor.check import Outcome
from nodeagent.linux import libc
from nodeagent.linux.errors import KernelError


def test_this_machine_can_be_captured_and_nothing_stays() -> None:
    bpffs.ensure(DIRECTORY.parent)
    before = {one.name for one in DIRECTORY.parent.iterdir() if one.name.startswith(f"{DIRECTORY.name}-check")}
    found = {one.subject: one for one in host.captures()}
    assert "capture" not in found, "that is said when nothing works"
    assert [one.outcome for one in found.values()].count(Outcome.OK) >= 1
    assert set(found) == {f"capture {way}" for way in ("ebpf", "nftables", "redirect", "iptables")}
    after = {one.name for one in DIRECTORY.parent.iterdir() if one.name.startswith(f"{DIRECTORY.name}-check")}
    assert after <= before


def test_conntrack(tmp_path: Path) -> None:
    assert host.conntrack(tmp_path).what == "not in use"
    (tmp_path / "nf_conntrack_count").write_text("10\n")
    (tmp_path / "nf_conntrack_max").write_text("100\n")
    assert host.conntrack(tmp_path).outcome is Outcome.OK
    (tmp_path / "nf_conntrack_count").write_text("95\n")
    found = host.conntrack(tmp_path)
    assert found.outcome is Outcome.WARNING
    assert "nf_conntrack_max" in found.mend


def test_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    for uncertain_s, outcome in ((0.01, Outcome.OK), (3600.0, Outcome.WARNING), (None, Outcome.WARNING)):
        monkeypatch.setattr(libc, "clock_uncertainty_s", lambda uncertain_s=uncertain_s: uncertain_s)
        assert host.clock().outcome is outcome
    behind = host.clock(now_s=1_000_000_000.0)
    assert (behind.outcome, behind.what[:20]) == (Outcome.FAILED, "2001-09-09T01:46:40Z")

    def refuse() -> float:
        raise KernelError(errno.EPERM, "clock")

    monkeypatch.setattr(libc, "clock_uncertainty_s", refuse)
    assert "can't be told" in host.clock().what


def test_the_kernel_says_how_well_the_clock_is_kept() -> None:
    found = libc.clock_uncertainty_s()
    assert found is None or 0 <= found < 86400


def test_mtu(tmp_path: Path) -> None:
    for name, size in (("lo", 65536), ("eth0", 1500), ("tun0", 1400)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mtu").write_text(f"{size}\n")
    assert host.mtu(tmp_path).what == "1400 to 1500 bytes"
    (tmp_path / "tun0/mtu").write_text("1000\n")
    assert "tun0 1000" in host.mtu(tmp_path).what
    assert host.mtu(tmp_path).outcome is Outcome.WARNING


def test_the_rest_is_said_of_this_machine() -> None:
    found = {one.subject: one for one in (host.user(), host.kernel(), host.proxy(), host.cgroup(), host.clock(), host.files())}
    assert {name: one.outcome for name, one in found.items() if one.outcome is Outcome.FAILED} == {}
