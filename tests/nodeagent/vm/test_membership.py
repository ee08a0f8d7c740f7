"""What a machine keeps: private, whole, and without the token."""

import stat
from pathlib import Path

import pytest

from meshapi.attendance import Assigned
from meshapi.bundle import Bundle, ControllerPlace
from nodeagent.state.files import StateDirectory
from nodeagent.vm.membership import ASSIGNED, MEMBERSHIP, Membership, NotJoinedError, load, load_assigned, save, save_assigned
from tests.nodeagent.vm.joined import WEB, joined


def prepared(path: Path) -> StateDirectory:
    directory = StateDirectory(path / "state")
    directory.prepare()
    return directory


def test_it_is_kept_private_and_read_again(tmp_path: Path) -> None:
    directory = prepared(tmp_path)
    save(directory, joined())
    assert load(directory.path) == joined()
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.path.iterdir()} == {0o600}


def test_the_token_of_a_bundle_is_not_kept(tmp_path: Path) -> None:
    directory = prepared(tmp_path)
    place = ControllerPlace("h", 1, 2)
    bundle = Bundle(1, joined().node, place, "roots", "canary-token", "cluster.local", "c", "istio-system", 1, 2, {"shop/web": "web"})
    save(directory, Membership.of(bundle))
    assert load(directory.path).accounts == {"shop/web": "web"}
    assert not any(b"canary" in file.read_bytes() for file in directory.path.iterdir())


def test_who_has_not_joined_is_told_how(tmp_path: Path) -> None:
    with pytest.raises(NotJoinedError, match="meshctl vm create"):
        load(prepared(tmp_path).path)
    with pytest.raises(NotJoinedError):
        load(tmp_path / "nowhere")


def test_what_was_damaged_is_no_membership(tmp_path: Path) -> None:
    directory = prepared(tmp_path)
    directory.write(MEMBERSHIP, b"\xff")
    with pytest.raises(NotJoinedError, match="does not decode"):
        load(directory.path)


def test_what_was_assigned_is_kept_and_what_can_not_be_read_is_nothing(tmp_path: Path) -> None:
    directory = prepared(tmp_path)
    assert load_assigned(directory) == ()
    assigned = (Assigned(WEB, "uid", "web-1", "web", address="10.0.0.1", ports=(80,)),)
    save_assigned(directory, assigned)
    assert load_assigned(directory) == assigned
    directory.write(ASSIGNED, b"\xff\xff")
    assert load_assigned(directory) == ()
