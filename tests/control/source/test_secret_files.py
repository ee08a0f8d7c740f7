"""control/source/secret_files.py: certificates in a directory, as they come, change and go."""

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from control.source.secret_files import MAX_BYTES, SecretFiles, read_secrets
from tests.control.world import until


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir(mode=0o700)
    return tmp_path / "secrets"


def write(directory: Path, place: str, **fields: str) -> None:
    (directory / place).mkdir(parents=True, exist_ok=True)
    for name, text in fields.items():
        (directory / place / name.replace("_", ".")).write_text(text)


def test_what_is_there(directory: Path) -> None:
    write(directory, "infra/cart", tls_crt="c", tls_key="k", notes="n")
    write(directory, "infra/Bad", tls_crt="c")
    write(directory, ".git/x", tls_crt="c")
    (directory / "stray").write_text("")
    assert read_secrets(directory) == {("infra", "cart"): {"tls.crt": b"c", "tls.key": b"k"}}


def test_a_mounted_volume(directory: Path) -> None:
    """Kubelets make files links into a folder that they replace as a whole."""
    write(directory, "infra/cart/..2030", tls_crt="c")
    (directory / "infra/cart/..data").symlink_to("..2030")
    (directory / "infra/cart/tls.crt").symlink_to("..data/tls.crt")
    assert read_secrets(directory) == {("infra", "cart"): {"tls.crt": b"c"}}


def test_one_that_others_may_look_into_is_not_read(directory: Path) -> None:
    directory.chmod(0o755)
    with pytest.raises(PermissionError, match="0700"):
        read_secrets(directory)


def test_what_is_too_long_is_an_error(directory: Path) -> None:
    write(directory, "infra/cart", tls_crt="x" * (MAX_BYTES + 1))
    with pytest.raises(OSError, match="longer"):
        read_secrets(directory)


def forget(directory: Path, place: str) -> None:
    (directory / place / "tls.crt").unlink()
    (directory / place).rmdir()


@asynccontextmanager
async def followed(directory: Path):
    told: list[dict[Any, Any]] = []
    task = asyncio.ensure_future(SecretFiles(directory).run(lambda changed: told.append(dict(changed))))
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_only_what_differs_is_told(directory: Path) -> None:
    write(directory, "infra/cart", tls_crt="1")
    write(directory, "infra/other", tls_crt="2")
    async with followed(directory) as told:
        await until(lambda: len(told) == 1)
        assert told[0].keys() == {("infra", "cart"), ("infra", "other")}
        write(directory, "infra/cart", tls_crt="3")
        await until(lambda: told[-1] == {("infra", "cart"): {"tls.crt": b"3"}})
        forget(directory, "infra/other")
        await until(lambda: told[-1] == {("infra", "other"): None})
        assert len(told) == 3
