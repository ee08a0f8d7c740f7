"""nodeagent/doctor/host.py: what is wrong with a host is found, and what is tried leaves nothing behind."""

from pathlib import Path

from nodeagent.bpf import bpffs
from nodeagent.capture.ebpf import DIRECTORY
from nodeagent.doctor import host
from nodeagent.doctor.check import Outcome


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


def test_mtu(tmp_path: Path) -> None:
    for name, size in (("lo", 65536), ("eth0", 1500), ("tun0", 1400)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mtu").write_text(f"{size}\n")
    assert host.mtu(tmp_path).what == "1400 to 1500 bytes"
    (tmp_path / "tun0/mtu").write_text("1000\n")
    assert "tun0 1000" in host.mtu(tmp_path).what
    assert host.mtu(tmp_path).outcome is Outcome.WARNING


def test_the_rest_is_said_of_this_machine() -> None:
    found = {one.subject: one for one in (host.user(), host.kernel(), host.proxy(), host.cgroup(), host.files())}
    assert {name: one.outcome for name, one in found.items() if one.outcome is Outcome.FAILED} == {}
