"""Join tokens: once, in time, and only their hash is kept."""

import asyncio
import stat
from pathlib import Path

import pytest

from control.ca.join_tokens import MAX_TTL_S, JoinTokens
from control.ca.records import RecordsError
from control.ca.refusal import UnauthenticatedError
from control.ca.token_records import TokenFile
from meshapi.spiffe import IdentityError
from tests.control.fakes import NOW_S


def joining(path: Path) -> JoinTokens:
    return JoinTokens(TokenFile(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "join-tokens.json"


def refused(tokens: JoinTokens, token: str, now_s: float = NOW_S) -> str:
    with pytest.raises(UnauthenticatedError) as error:
        tokens.check(token, now_s)
    return error.value.check


async def test_works_once(path: Path) -> None:
    tokens = joining(path)
    record, token = await tokens.create("n1", 3600, NOW_S)
    assert tokens.check(token, NOW_S).node == "n1"
    await tokens.use(record.id, NOW_S)
    assert refused(tokens, token) == "token-replayed"
    with pytest.raises(UnauthenticatedError, match="token-replayed"):
        await tokens.use(record.id, NOW_S)


async def test_stays_used_after_a_restart(path: Path) -> None:
    tokens = joining(path)
    record, token = await tokens.create("n1", 3600, NOW_S)
    assert joining(path).check(token, NOW_S) == record
    await tokens.use(record.id, NOW_S)
    assert refused(joining(path), token) == "token-replayed"


async def test_expires(path: Path) -> None:
    tokens = joining(path)
    _, token = await tokens.create("n1", 60, NOW_S)
    assert tokens.check(token, NOW_S + 59.9)
    assert refused(tokens, token, NOW_S + 60) == "token-expired"


async def test_revoked(path: Path) -> None:
    tokens = joining(path)
    record, token = await tokens.create("n1", 60, NOW_S)
    assert await tokens.revoke(record.id)
    assert not await tokens.revoke(record.id)
    assert refused(tokens, token) == "token-unknown"
    with pytest.raises(UnauthenticatedError):
        await tokens.use(record.id, NOW_S)


@pytest.mark.parametrize(
    "mangle", [lambda t: t[:-1], lambda t: t + "A", lambda t: t[:-1] + ("A" if t[-1] != "A" else "B"), lambda _: "nmj1.00.x"]
)
async def test_a_wrong_secret(path: Path, mangle) -> None:
    tokens = joining(path)
    _, token = await tokens.create("n1", 60, NOW_S)
    assert refused(tokens, mangle(token)) == "token-unknown"


async def test_the_secret_of_another_token(path: Path) -> None:
    tokens = joining(path)
    first, one = await tokens.create("n1", 60, NOW_S)
    second, other = await tokens.create("n2", 60, NOW_S)
    assert refused(tokens, one.replace(first.id, second.id)) == "token-unknown"
    assert tokens.check(other, NOW_S).node == "n2"


@pytest.mark.parametrize("text", ["", "x", "nmj1..", "nmj2.a.b", "nmj1.a.b.c", "nmj1.a." + "b" * 1_000_000, "\x00.é.\ud800"])
def test_what_is_no_token(path: Path, text: str) -> None:
    assert refused(joining(path), text) in {"token-form", "token-unknown"}


def test_only_the_hash_is_kept_in_a_private_file(path: Path) -> None:
    record, token = asyncio.run(joining(path).create("n1", 60, NOW_S))
    secret = token.rpartition(".")[2]
    assert len(secret) >= 43
    assert secret not in path.read_text() + repr(record)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("node", ["", "..", "a/b", "a b", "é", "a,b", "a\n"])
async def test_a_name_that_no_node_can_have(path: Path, node: str) -> None:
    with pytest.raises(IdentityError):
        await joining(path).create(node, 60, NOW_S)


@pytest.mark.parametrize("ttl_s", [0, -1, MAX_TTL_S + 1])
async def test_a_life_out_of_bounds(path: Path, ttl_s: int) -> None:
    with pytest.raises(ValueError, match="seconds"):
        await joining(path).create("n1", ttl_s, NOW_S)


async def test_old_ones_are_forgotten(path: Path) -> None:
    tokens = joining(path)
    old, _ = await tokens.create("n1", 60, NOW_S)
    new, _ = await tokens.create("n1", 60, NOW_S + 3 * 86400)
    assert [record.id for record in tokens.all()] == [new.id]
    assert old.id != new.id


def test_a_damaged_file_is_an_error_not_an_empty_list(path: Path) -> None:
    path.write_text("[{")
    with pytest.raises(RecordsError, match=r"join-tokens\.json"):
        joining(path)
