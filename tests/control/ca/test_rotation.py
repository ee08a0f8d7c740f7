"""Rolling the own root over: the order of the steps, what is trusted and what signs after each, and crashes in the middle of one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from control.admin.rotation import SETTLE_S, waits
from control.ca import root_files
from control.ca.authority import Authority
from control.ca.issuer import ROOTS_FILE, issued
from control.ca.leaf import MAX_AGENT_TTL_S, sign_identity, validity
from control.ca.own_root import NEXT_KEY_FILE, NEXT_ROOT_FILE, OWN_ROOT_FILE, ROOT_KEY_FILE
from control.ca.root_files import RootDirectory, read_root, write_root
from control.ca.rotation import ROTATION_FILE, Phase, Rotation, RotationError, activate, cancel, fingerprint, finish, rotation, start
from control.xds.connection import AgentStatus
from control.xds.stream import TypeStatus
from meshapi.wire import ADDRESS_TYPE, TRUST_TYPE
from tests.control.fakes import NOW_S, FakeClock, new_key

TD = "cluster.local"
START, ACTIVATE = partial(start, trust_domain=TD, now_s=NOW_S), partial(activate, now_s=NOW_S)


def own(path: Path) -> Authority:
    return Authority(path, trust_domain=TD, own=True, clock=FakeClock())


def store(path: Path) -> RootDirectory:
    return RootDirectory(path, TD, FakeClock())


def signing_root(authority: Authority) -> x509.Certificate:
    """The trusted root that a leaf of now is below; what stands between them is checked on the way."""
    issuer = authority.issuer
    when = validity(asked_s=0, max_ttl_s=3600, revoked_before_s=0, issuer=issuer, now_s=NOW_S)
    leaf = sign_identity(issuer, new_key().public_key(), f"spiffe://{TD}/ns/a/sa/b", when)
    leaf.verify_directly_issued_by(issuer.certificate)
    (root,) = [root for root in issuer.roots if root.subject == issuer.certificate.issuer and issued(root, issuer.certificate)]
    return root


async def test_the_three_steps(tmp_path: Path) -> None:
    authority = own(tmp_path / "ca")
    roots = store(tmp_path / "ca")
    first = authority.issuer.certificate
    (former,) = authority.issuer.roots

    await roots.change(START)
    assert await authority.refresh()
    assert authority.issuer.roots[0] == former
    coming = authority.issuer.roots[1]
    assert (authority.issuer.certificate, signing_root(authority)) == (first, former), "trusted first, long before it signs"

    await roots.change(ACTIVATE)
    assert await authority.refresh()
    assert authority.issuer.roots == (former, coming)
    assert signing_root(authority) == coming
    files = await roots.files()
    assert {NEXT_ROOT_FILE, NEXT_KEY_FILE}.isdisjoint(files)
    assert files[OWN_ROOT_FILE] != files[ROOTS_FILE]

    await roots.change(finish)
    assert await authority.refresh()
    assert authority.issuer.roots == (coming,)
    assert signing_root(authority) == coming
    assert set(await roots.files()) == {OWN_ROOT_FILE, ROOTS_FILE, ROOT_KEY_FILE}
    again = own(tmp_path / "ca").issuer
    assert (again.certificate, again.roots) == (authority.issuer.certificate, (coming,)), "a restart changes nothing"


async def test_a_start_can_be_taken_back_and_a_root_that_somebody_added_stays(tmp_path: Path) -> None:
    authority, roots = own(tmp_path / "ca"), store(tmp_path / "ca")
    other = own(tmp_path / "other").issuer.roots_pem
    both = authority.issuer.roots_pem + other
    await roots.change(lambda files: {**files, ROOTS_FILE: both})
    before = await roots.files()
    await roots.change(START)
    await authority.refresh()
    assert len(authority.issuer.roots) == 3
    await roots.change(cancel)
    await authority.refresh()
    assert authority.issuer.roots_pem == both
    assert await roots.files() == before


STEPS: dict[str, Callable] = {"start": START, "activate": ACTIVATE, "finish": finish, "cancel": cancel}


@pytest.mark.parametrize(
    ("done", "wrong"),
    [
        ((), {"activate", "finish", "cancel"}),
        (("start",), {"start", "finish"}),
        (("start", "activate"), {"start", "activate", "cancel"}),
    ],
)
def test_no_step_but_the_next(tmp_path: Path, done: tuple[str, ...], wrong: set[str]) -> None:
    own(tmp_path / "ca")
    files = read_root(tmp_path / "ca")
    for step in done:
        files = STEPS[step](files)
    for step in wrong:
        with pytest.raises(RotationError):
            STEPS[step](files)


def test_what_is_damaged_is_an_error_and_names_no_key(tmp_path: Path) -> None:
    own(tmp_path / "ca")
    files = read_root(tmp_path / "ca")
    started = START(files)
    for broken, step in [
        ({**files, ROTATION_FILE: b"{"}, START),
        ({**files, ROOTS_FILE: b"x"}, START),
        ({**started, OWN_ROOT_FILE: b"x"}, ACTIVATE),
        ({name: content for name, content in started.items() if name != NEXT_KEY_FILE}, ACTIVATE),
    ]:
        with pytest.raises(RotationError) as error:
            step(broken)
        assert "PRIVATE" not in str(error.value)


class PowerCutError(Exception):
    """The machine goes off."""


@pytest.mark.parametrize("step", ["start", "activate", "finish", "cancel"])
def test_a_crash_in_a_step_leaves_an_authority_that_starts_and_the_step_can_be_done_again(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"start": (), "activate": ("start",), "finish": ("start", "activate"), "cancel": ("start",)}[step]
    write = root_files.write_private
    for survive in range(8):
        path = tmp_path / f"{step}-{survive}"
        own(path)
        files = read_root(path)
        for done in before:
            files = STEPS[done](files)
            write_root(path, files, TD, NOW_S)
        writes = 0

        def cut(target: Path, content: bytes, *, survive: int = survive) -> None:
            nonlocal writes
            if writes == survive:
                raise PowerCutError
            writes += 1
            write(target, content)

        wanted = STEPS[step](files)
        monkeypatch.setattr(root_files, "write_private", cut)
        try:
            write_root(path, wanted, TD, NOW_S)
        except PowerCutError:
            crashed = True
        else:
            crashed = False
        monkeypatch.undo()
        authority = own(path)
        assert signing_root(authority) in authority.issuer.roots
        left = read_root(path)
        if (under_way := rotation(left)) is not None and under_way.phase is Phase.ACTIVATED:
            assert fingerprint(signing_root(authority)) != under_way.root or step == "activate"
        write_root(path, wanted, TD, NOW_S)
        assert read_root(path) == wanted
        final = own(path)
        assert fingerprint(signing_root(final)) == fingerprint(x509.load_pem_x509_certificate(wanted[OWN_ROOT_FILE]))
        if not crashed:
            assert survive > 0
            break
    else:
        pytest.fail("the step writes more files than this test cuts off")


def follower(node: str, *, pending: bool = False, kind: str = TRUST_TYPE) -> AgentStatus:
    told = TypeStatus(type_url=kind, wildcard=True, keys=0, held=1, pending=pending, acks=1, nacks=0, acked_s=NOW_S, last_nack=None)
    return AgentStatus(node=node, peer="p", client="c", since_s=NOW_S, types=[told])


@pytest.mark.parametrize(
    ("phase", "age_s", "followers", "words"),
    [
        (None, 0, [follower("n1", pending=True)], ""),
        (Phase.STARTED, SETTLE_S, [follower("n1")], ""),
        (Phase.STARTED, SETTLE_S - 1, [follower("n1")], "1 s to learn"),
        (Phase.STARTED, SETTLE_S, [follower("n1"), follower("n2", pending=True)], "acknowledged the new root: n2"),
        (Phase.STARTED, SETTLE_S, [follower("n3", kind=ADDRESS_TYPE)], "acknowledged the new root: n3"),
        (Phase.STARTED, SETTLE_S, [follower(f"n{number}", pending=True) for number in range(9)], "n0, n1, n2, n3, n4 and 4 more"),
        (Phase.ACTIVATED, MAX_AGENT_TTL_S, [follower("n1", pending=True)], ""),
        (Phase.ACTIVATED, MAX_AGENT_TTL_S - 86400, [], "for 1.0 days"),
    ],
)
def test_what_the_next_step_waits_for(phase: Phase | None, age_s: float, followers: list[AgentStatus], words: str) -> None:
    under_way = Rotation(phase, NOW_S - age_s, "ab") if phase else None
    found = waits(under_way, followers, NOW_S)
    assert words in found
    assert bool(words) == bool(found)
