"""Join tokens: once, in time, and only their hash is kept."""

import stat
from pathlib import Path

import pytest

from control.ca.join_tokens import MAX_TTL_S, JoinTokens
from control.ca.records import RecordsError
from control.ca.refusal import UnauthenticatedError
from meshapi.spiffe import IdentityError
from tests.control.fakes import NOW_S


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "join-tokens.json"


def refused(tokens: JoinTokens, token: str, now_s: float = NOW_S) -> str:
    with pytest.raises(UnauthenticatedError) as error:
        tokens.check(token, now_s)
    return error.value.check


def test_works_once(path: Path) -> None:
    tokens = JoinTokens(path)
    record, token = tokens.create("n1", 3600, NOW_S)
    assert tokens.check(token, NOW_S).node == "n1"
    tokens.use(record.id, NOW_S)
    assert refused(tokens, token) == "token-replayed"
    with pytest.raises(UnauthenticatedError, match="token-replayed"):
        tokens.use(record.id, NOW_S)


def test_stays_used_after_a_restart(path: Path) -> None:
    tokens = JoinTokens(path)
    record, token = tokens.create("n1", 3600, NOW_S)
    assert JoinTokens(path).check(token, NOW_S) == record
    tokens.use(record.id, NOW_S)
    assert refused(JoinTokens(path), token) == "token-replayed"


def test_expires(path: Path) -> None:
    tokens = JoinTokens(path)
    _, token = tokens.create("n1", 60, NOW_S)
    assert tokens.check(token, NOW_S + 59.9)
    assert refused(tokens, token, NOW_S + 60) == "token-expired"


def test_revoked(path: Path) -> None:
    tokens = JoinTokens(path)
    record, token = tokens.create("n1", 60, NOW_S)
    assert tokens.revoke(record.id)
    assert not tokens.revoke(record.id)
    assert refused(tokens, token) == "token-unknown"
    with pytest.raises(UnauthenticatedError):
        tokens.use(record.id, NOW_S)


@pytest.mark.parametrize(
    "mangle", [lambda t: t[:-1], lambda t: t + "A", lambda t: t[:-1] + ("A" if t[-1] != "A" else "B"), lambda _: "nmj1.00.x"]
)
def test_a_wrong_secret(path: Path, mangle) -> None:
    tokens = JoinTokens(path)
    _, token = tokens.create("n1", 60, NOW_S)
    assert refused(tokens, mangle(token)) == "token-unknown"


def test_the_secret_of_another_token(path: Path) -> None:
    tokens = JoinTokens(path)
    first, one = tokens.create("n1", 60, NOW_S)
    second, other = tokens.create("n2", 60, NOW_S)
    assert refused(tokens, one.replace(first.id, second.id)) == "token-unknown"
    assert tokens.check(other, NOW_S).node == "n2"


@pytest.mark.parametrize("text", ["", "x", "nmj1..", "nmj2.a.b", "nmj1.a.b.c", "nmj1.a." + "b" * 1_000_000, "\x00.é.\ud800"])
def test_what_is_no_token(path: Path, text: str) -> None:
    assert refused(JoinTokens(path), text) in {"token-form", "token-unknown"}


def test_only_the_hash_is_kept_in_a_private_file(path: Path) -> None:
    record, token = JoinTokens(path).create("n1", 60, NOW_S)
    secret = token.rpartition(".")[2]
    assert len(secret) >= 43
    assert secret not in path.read_text() + repr(record)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("node", ["", "..", "a/b", "a b", "é", "a,b", "a\n"])
def test_a_name_that_no_node_can_have(path: Path, node: str) -> None:
    with pytest.raises(IdentityError):
        JoinTokens(path).create(node, 60, NOW_S)


@pytest.mark.parametrize("ttl_s", [0, -1, MAX_TTL_S + 1])
def test_a_life_out_of_bounds(path: Path, ttl_s: int) -> None:
    with pytest.raises(ValueError, match="seconds"):
        JoinTokens(path).create("n1", ttl_s, NOW_S)


def test_old_ones_are_forgotten(path: Path) -> None:
    tokens = JoinTokens(path)
    old, _ = tokens.create("n1", 60, NOW_S)
    new, _ = tokens.create("n1", 60, NOW_S + 3 * 86400)
    assert [record.id for record in tokens.all()] == [new.id]
    assert old.id != new.id


def test_a_damaged_file_is_an_error_not_an_empty_list(path: Path) -> None:
    path.write_text("[{")
    with pytest.raises(RecordsError, match=r"join-tokens\.json"):
        JoinTokens(path)
