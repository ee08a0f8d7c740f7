"""The rules as text, against golden files: a change of the rules is a change that someone reads."""

from pathlib import Path

import pytest

from nodeagent.capture import looped
from nodeagent.capture.ruleset import Mode, deletion, preparation, transaction
from nodeagent.linux import nftables
from nodeagent.linux.namespaces import run_in_empty

GOLDEN = Path(__file__).parent / "golden"
SCRIPTS = {
    "enforce": transaction(Mode.ENFORCE, "0 1 -"),
    "drain": transaction(Mode.DRAIN, "0 1 -"),
    "preparation": preparation("0 1 -"),
    "deletion": deletion(),
    "looped-enforce": looped.transaction(Mode.ENFORCE, "0 1 -"),
    "looped-drain": looped.transaction(Mode.DRAIN, "0 1 -"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_the_golden_one(name: str) -> None:
    assert SCRIPTS[name] == (GOLDEN / f"{name}.nft").read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_kernel_takes_it_and_takes_it_again(name: str) -> None:
    def twice() -> nftables.Table | None:
        nftables.transact(SCRIPTS[name])
        nftables.transact(SCRIPTS[name])
        return nftables.table("inet", "nodemesh")

    assert (run_in_empty(twice) is None) == (name == "deletion")
