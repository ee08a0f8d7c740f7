"""The audit log: private, bounded, one line a decision, and not drowned by a flood."""

import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from control.ca.audit import NAMELESS_PER_WINDOW, REFUSALS_PER_WINDOW, AuditLog, AuditRecord
from control.ca.bounded_log import KEPT_FILES
from tests.control.fakes import FakeClock


def lines(path: Path) -> list[dict[str, object]]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def refusals(path: Path) -> list[dict[str, object]]:
    return lines(path / "audit-refused.log")


def refusal(caller: str = "node/n1", check: str = "placement", **fields: str) -> AuditRecord:
    return AuditRecord("certificate", "refused", caller, "ipv4:10.0.0.1:4000", check=check, **fields)


def test_a_line_each_in_a_private_file(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log", FakeClock())
    log.granted(
        AuditRecord("certificate", "granted", "node/n1", "ipv4:10.0.0.1:4000", node="n1", identity="spiffe://a/ns/b/sa/c", serial="ab")
    )
    log.refused(refusal(detail="no"))
    log.close()
    [granted], [refused] = lines(tmp_path / "audit.log"), refusals(tmp_path)
    assert granted["outcome"] == "granted"
    assert granted["time"] == "2027-01-15T08:00:00.000+00:00"
    assert refused["check"] == "placement"
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_what_a_caller_sends_can_neither_break_a_line_nor_fill_it(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log", FakeClock())
    log.refused(refusal(identity='spiffe://x\n{"outcome":"granted"}\x00\x1b[2J' + "y" * 100_000))
    log.close()
    text = (tmp_path / "audit-refused.log").read_text()
    assert text.count("\n") == 1
    assert len(text) < 1500
    assert "\x1b" not in text


def test_is_bounded_by_rotation(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log", FakeClock(), max_file_bytes=2000)
    for number in range(200):
        log.granted(AuditRecord("certificate", "granted", f"node/{number}", "p"))
    log.close()
    files = sorted(tmp_path.glob("audit.log*"))
    assert len(files) == KEPT_FILES
    assert all(file.stat().st_size <= 2000 and stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    assert lines(tmp_path / "audit.log")[-1]["caller"] == "node/199"
    assert lines(tmp_path / "audit.log.1")[-1]["caller"] == f"node/{199 - len(lines(tmp_path / 'audit.log'))}"


def test_goes_on_after_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        log = AuditLog(tmp_path / "audit.log", FakeClock())
        log.refused(refusal())
        log.close()
    assert len(refusals(tmp_path)) == 2


def test_a_flood_of_refusals_leaves_room_for_others(tmp_path: Path) -> None:
    clock = FakeClock()
    log = AuditLog(tmp_path / "audit.log", clock)
    for _ in range(10_000):
        log.refused(refusal())
    log.refused(refusal(caller="node/n2"))
    log.granted(AuditRecord("certificate", "granted", "node/n1", "p"))
    clock.now_s += 1
    log.refused(refusal())
    log.close()
    found = refusals(tmp_path)
    assert len(found) == REFUSALS_PER_WINDOW + 2
    assert found[-1]["suppressed"] == 10_000 - REFUSALS_PER_WINDOW
    assert [line["caller"] for line in found[REFUSALS_PER_WINDOW:]] == ["node/n2", "node/n1"]
    assert len(lines(tmp_path / "audit.log")) == 1


def test_refusals_never_push_out_a_grant(tmp_path: Path) -> None:
    """Not even those that each come from another caller, with a name or without."""
    clock = FakeClock()
    log = AuditLog(tmp_path / "audit.log", clock, max_file_bytes=2000)
    log.granted(AuditRecord("certificate", "granted", "node/n1", "p"))
    for number in range(1000):
        clock.now_s += 1
        log.refused(refusal(caller=f"node/{number}" if number % 2 else ""))
    log.close()
    assert lines(tmp_path / "audit.log")[0]["caller"] == "node/n1"
    assert len(list(tmp_path.iterdir())) == 1 + KEPT_FILES


@pytest.mark.parametrize("peer", ["ipv6:[2001:db8::{0:x}]:4000", "ipv6:%5B2001:db8::{0:x}%5D:4000", "ipv6:[::ffff:10.0.0.1]:{0}"])
def test_the_addresses_of_one_holder_are_one_caller(tmp_path: Path, peer: str) -> None:
    log = AuditLog(tmp_path / "audit.log", FakeClock())
    for number in range(NAMELESS_PER_WINDOW):
        log.refused(AuditRecord("certificate", "refused", "", peer.format(number), check="token-unknown"))
    log.refused(AuditRecord("certificate", "refused", "", "ipv6:[2001:db8:0:1::1]:1", check="token-unknown"))
    log.close()
    assert len(refusals(tmp_path)) == REFUSALS_PER_WINDOW + 1


def test_callers_without_a_name_have_so_many_lines_together(tmp_path: Path) -> None:
    clock = FakeClock()
    log = AuditLog(tmp_path / "audit.log", clock)
    flood = [
        AuditRecord("certificate", "refused", "", f"ipv6:[2001:db8:0:{number:x}::1]:1", check="token-unknown") for number in range(5000)
    ]
    for record in flood:
        log.refused(record)
    log.refused(refusal(caller="node/n1"))
    clock.now_s += 1
    log.refused(flood[0])
    log.close()
    *_, named, last = found = refusals(tmp_path)
    assert len(found) == NAMELESS_PER_WINDOW + 2
    assert named["caller"] == "node/n1"
    assert last["suppressed"] == 5000 - NAMELESS_PER_WINDOW


def test_callers_without_a_name_are_told_apart_by_address_not_port(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log", FakeClock())
    for port in range(100):
        log.refused(AuditRecord("certificate", "refused", "", f"ipv4:10.0.0.1:{port}", check="token-unknown"))
    log.close()
    assert len(refusals(tmp_path)) == REFUSALS_PER_WINDOW


def test_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "audit.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        AuditLog(tmp_path / "audit.log", FakeClock())


@contextmanager
def full_after(size_bytes: int) -> Iterator[None]:
    """As on a full disk: what goes beyond is cut off, and then refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_fits_only_in_part_counts_as_not_written_and_spoils_no_other(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log", FakeClock())
    record = AuditRecord("certificate", "granted", "node/n1", "ipv4:10.0.0.1:1")
    log.granted(record)
    size_bytes = (tmp_path / "audit.log").stat().st_size
    with full_after(size_bytes + 10):
        for _ in range(2):
            with pytest.raises(OSError, match=r"only a part|File too large"):
                log.granted(record)
    log.granted(record)
    log.close()
    first, _, last = (tmp_path / "audit.log").read_bytes().splitlines()
    assert first == last


def test_it_goes_on_once_it_can_be_rotated(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log", FakeClock(), max_file_bytes=200)
    record = AuditRecord("certificate", "granted", "node/n1", "ipv4:10.0.0.1:1")
    log.granted(record)
    (tmp_path / "audit.log.3").mkdir()
    (tmp_path / "audit.log.4").touch()
    for peer in ("ipv4:10.0.0.1:1", "x"):
        with pytest.raises(OSError, match="directory"):
            log.granted(msgspec.structs.replace(record, peer=peer))
    (tmp_path / "audit.log.3").rmdir()
    log.granted(record)
    log.close()
    assert len(lines(tmp_path / "audit.log")) == len(lines(tmp_path / "audit.log.1")) == 1
