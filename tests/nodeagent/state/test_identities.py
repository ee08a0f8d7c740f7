"""Identities on disk: private, replaced, forgotten; what is damaged or under a wrong name is not used."""

import stat
from pathlib import Path

import pytest

from nodeagent.identity.store import StoredIdentity
from nodeagent.state.files import StateDirectory
from nodeagent.state.identities import IdentityFiles

WEB = StoredIdentity("spiffe://cluster.local/ns/shop/sa/web", "chain", "canary-key")
API = StoredIdentity("spiffe://cluster.local/ns/shop/sa/api", "chain", "key")


@pytest.fixture
def directory(tmp_path: Path) -> StateDirectory:
    state = StateDirectory(tmp_path / "state")
    state.prepare()
    return state


def test_saved_replaced_and_forgotten(directory: StateDirectory) -> None:
    files = IdentityFiles(directory)
    files.save(WEB)
    files.save(API)
    newer = StoredIdentity(WEB.identity, "chain 2", "key 2")
    files.save(newer)
    assert {record.identity: record for record in IdentityFiles(directory).load()} == {WEB.identity: newer, API.identity: API}
    files.forget(WEB.identity)
    files.forget(WEB.identity)
    assert list(files.load()) == [API]
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.path.iterdir()} == {0o600}


def test_what_cannot_be_used_is_set_aside_without_a_word_of_the_key(directory: StateDirectory, caplog: pytest.LogCaptureFixture) -> None:
    files = IdentityFiles(directory)
    files.save(WEB)
    files.save(API)
    cut, renamed = sorted(directory.path.iterdir())
    cut.write_bytes(cut.read_bytes()[:-1])
    renamed.rename(directory.path / "identity-0000")
    directory.write("identity-1111", b"garbage")
    assert list(files.load()) == []
    assert len(caplog.records) == 3
    assert "key" not in caplog.text.replace("key withheld", "")
    assert list(files.load()) == []
    assert len(caplog.records) == 3
