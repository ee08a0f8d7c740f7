"""The marking programs: what Python believes of them, what the verifier has to do, and that they may be replaced in place."""

import re
from enum import IntEnum
from ipaddress import IPv6Network
from pathlib import Path

import pytest
from msgspec.structs import replace

from nodeagent.bpf import libbpf, outbound
from nodeagent.bpf.outbound import PROGRAM, RENEWERS, Judgements, Marks, Outbound, Outcome, Site, Term
from nodeagent.bpf.pinned import Program
from nodeagent.linux.cgroups import Cgroup
from tests.nodeagent import cgroups
from tests.nodeagent.bpf.objects import SOURCES, ids, variant

HEADER = (SOURCES / "outbound.h").read_text()
BUDGET_INSTRUCTIONS = {PROGRAM: 1200, **dict.fromkeys(RENEWERS, 80)}
SITE, MARKS = Site(cookie=7, place=4026531999), Marks(captured=0x40111, past=0x20000)
SOME = Judgements({80: Term.EXCLUDED, 443: Term.INCLUDED}, {IPv6Network("fd00::/8"): Term.EXCLUDED}, rest_captured=False)


@pytest.mark.parametrize(("name", "ours", "end"), [("outcome", Outcome, "OUTCOMES"), ("term", Term, "")])
def test_the_enumerations_are_those_of_the_header(name: str, ours: type[IntEnum], end: str) -> None:
    [body] = re.findall(rf"enum {name} {{(.*?)}}", HEADER, re.DOTALL)
    members = [member for member in re.findall(r"\w+", body) if member != end]
    assert [member.removeprefix(f"{name.upper()}_") for member in members] == [member.name for member in ours]
    assert list(ours) == list(range(len(members)))


@pytest.mark.parametrize(
    ("name", "key_bytes", "value_bytes", "room"),
    [
        (outbound.SETTINGS, 4, outbound._SETTINGS.size, 1),
        (outbound.OUTCOMES, 4, 8, len(Outcome)),
        (outbound.PORTS, 4, 4, outbound.PORTS_ROOM),
        (outbound.RANGES, outbound._RANGE.size, 4, outbound.RANGES_ROOM),
        (outbound.OUTSIDE, outbound._DESTINATION.size, 8, 1),
    ],
)
def test_the_maps_are_as_the_views_read_them(name: str, key_bytes: int, value_bytes: int, room: int) -> None:
    shape = libbpf.shape(PROGRAM.object, name)
    assert (shape.key_size, shape.value_size) == (key_bytes, value_bytes)
    assert shape.max_entries >= room


@pytest.mark.parametrize("program", [PROGRAM, *RENEWERS], ids=lambda program: program.name)
def test_the_verifier_has_little_to_do(program: Program) -> None:
    with libbpf.load(program.object, program.name, ()) as loaded:
        assert 0 < libbpf.program_info(loaded.program).verified_instructions <= BUDGET_INSTRUCTIONS[program]


def test_what_is_written_is_read_again_and_nothing_is_written_twice(root: Path) -> None:
    it = Outbound(root)
    with cgroups.made() as path, Cgroup.open(path.name) as cgroup:
        for wanted in (SOME, Judgements(), replace(SOME, ports={1: Term.INCLUDED}), SOME):
            it.attach(cgroup, SITE, MARKS, wanted)
            it.attach(cgroup, SITE, MARKS, wanted)
            found = it.inspect(SITE.place)
            assert found is not None
            assert (found.cgroup, found.current, found.judgements) == (cgroup.id, True, wanted)
        assert it.inspect(SITE.place + 1) is None
        it.detach(SITE.place)
        assert list(root.iterdir()) == []


def test_another_version_takes_over_in_place(root: Path, tmp_path: Path) -> None:
    newer = variant(tmp_path, "newer", PROGRAM.object.name, ("last >> 24 == 127", "last >> 24 == 126"))
    versions = [Outbound(root), Outbound(root, replace(PROGRAM, object=newer))]
    with cgroups.made() as path, Cgroup.open(path.name) as cgroup:
        versions[0].attach(cgroup, SITE, MARKS, SOME)
        before = ids(root)
        for index in (1, 0, 1):
            assert not current(versions[index])
            versions[index].attach(cgroup, SITE, MARKS, SOME)
            assert current(versions[index])
            assert {kind: ids(root)[kind] for kind in ("map_id", "link_id")} == {kind: before[kind] for kind in ("map_id", "link_id")}


def current(it: Outbound) -> bool:
    found = it.inspect(SITE.place)
    assert found is not None
    return found.current


@pytest.mark.parametrize("program", [PROGRAM, *RENEWERS], ids=lambda program: program.name)
def test_a_program_that_was_taken_off_is_told_and_put_back(root: Path, program: Program) -> None:
    it = Outbound(root)
    with cgroups.made() as path, Cgroup.open(path.name) as cgroup:
        it.attach(cgroup, SITE, MARKS, SOME)
        (root / f"{program.name}-{cgroup.id}" / "link").unlink()
        found = it.inspect(SITE.place)
        assert found is None or not found.current
        it.attach(cgroup, SITE, MARKS, SOME)
        assert current(it)
        it.detach(SITE.place)
        assert list(root.iterdir()) == []
