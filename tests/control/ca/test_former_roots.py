"""control/ca/former_roots.py: which roots are trusted no more, also over restarts."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from control.ca import former_roots
from control.ca.authority import Authority
from control.ca.former_roots import FormerRoots, Root, followed
from control.ca.own_root import make_root
from tests.control.world import until

NOW_S = 1_800_000_000.0
TRUSTED = st.frozensets(st.sampled_from("abcd"), min_size=1)


@given(st.lists(TRUSTED, min_size=1))
def test_whatever_was_trusted_and_is_no_more_is_former(steps: list[frozenset[str]]) -> None:
    known: tuple[Root, ...] = ()
    for trusted in steps:
        known = followed(known, trusted)
    assert {one.fingerprint for one in known if one.former} == frozenset().union(*steps) - steps[-1]
    assert {one.fingerprint for one in known if not one.former} == steps[-1]
    assert followed(known, steps[-1]) == known


async def test_a_root_that_goes_is_known_and_a_restart_forgets_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(former_roots, "SETTLE_S", 0.01)
    authority = Authority(tmp_path / "ca", trust_domain="td", own=True, clock=lambda: NOW_S)
    file = tmp_path / "ca/root-cert.pem"
    before = file.read_bytes()
    found, told = FormerRoots(tmp_path / "roots.json", authority), []
    found.on_change(lambda: told.append(found.all()))
    file.write_bytes(before + make_root("td", NOW_S)[0])
    assert await authority.refresh()
    assert found.all() == ()
    file.write_bytes(before)
    assert await authority.refresh()
    await until(lambda: bool(told))
    again = FormerRoots(tmp_path / "roots.json", Authority(tmp_path / "ca", trust_domain="td", own=True, clock=lambda: NOW_S))
    assert again.all() == found.all() == told[-1]
    assert len(found.all()) == 1
    file.write_bytes(before + make_root("td", NOW_S)[0])
    later = Authority(tmp_path / "ca", trust_domain="td", own=True, clock=lambda: NOW_S)
    FormerRoots(tmp_path / "roots.json", later)
    file.write_bytes(before)
    while_down = FormerRoots(tmp_path / "roots.json", Authority(tmp_path / "ca", trust_domain="td", own=True, clock=lambda: NOW_S))
    assert len(while_down.all()) == 2
