"""nodeagent/doctor/{report,secrets}.py: an archive with what helps, private, whole though items are missing, and without a secret."""

import stat
import tarfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nodeagent.doctor.report import MAX_ITEM_BYTES, Item, host_items, write
from nodeagent.doctor.secrets import REMOVED, scrubbed

KEY = (
    ec.generate_private_key(ec.SECP256R1())
    .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    .decode()
)
CANARY = "c4n4ryV4lu3thatMustNotBeSeen"
JWT = f"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.{CANARY}"


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        KEY[: len(KEY) // 2],
        f"authorization: Bearer {CANARY}",
        f"Authorization: Basic {CANARY}=",
        f"token={CANARY}",
        f'{{"join_token": "{CANARY}"}}',
        f"password: '{CANARY}'",
        f"API_KEY={CANARY}, next",
        f"client-secret : {CANARY}",
        f"joined with 0a1b2c3d.{CANARY}",
        f"saw {JWT} here",
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    shown = scrubbed(text)
    assert CANARY not in shown
    assert KEY.splitlines()[1] not in shown
    assert REMOVED in shown


@pytest.mark.parametrize(
    "text",
    ["spiffe://cluster.local/ns/a/sa/b at 10.0.0.1:15008", "Type: token_bucket", "tokens are verified by the waypoint", "key 7: value"],
)
def test_all_else_stays(text: str) -> None:
    assert scrubbed(text) == text


def content(file: Path) -> dict[str, str]:
    with tarfile.open(file) as archive:
        return {one.name.partition("/")[2]: archive.extractfile(one).read().decode() for one in archive}  # type: ignore[union-attr]


def test_an_archive_is_private_bounded_and_whole_though_items_fail(tmp_path: Path) -> None:
    def fails() -> str:
        raise OSError("gone")

    target = tmp_path / "report.tar.gz"
    items = [Item("a", lambda: f"key\n{KEY}"), Item("b", fails), Item("c", lambda: "x" * (MAX_ITEM_BYTES + 10))]
    told: list[str] = []
    assert write(target, iter(items), told.append) == 1
    assert told == ["a", "b", "c"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    found = content(target)
    assert REMOVED in found["a"]
    assert KEY.splitlines()[1] not in found["a"]
    assert found["b"] == "could not be had: gone\n"
    assert len(found["c"]) == MAX_ITEM_BYTES
    with pytest.raises(FileExistsError):
        write(target, iter(()), told.append)


def test_what_the_host_shows(tmp_path: Path) -> None:
    write(tmp_path / "host.tar.gz", host_items(), lambda _name: None)
    found = content(tmp_path / "host.tar.gz")
    assert "Linux version" in found["host/proc/version"]
    assert "net.ipv4.ip_forward = " in found["host/sysctls.txt"]
    assert "127.0.0.1" in found["network/addresses.txt"]
