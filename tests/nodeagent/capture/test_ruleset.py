"""The rules as text, against golden files: a change of the rules is a change that someone reads."""

from pathlib import Path

import pytest

from nodeagent.capture import looped, redirected, tproxied, unit_rules
from nodeagent.capture.ruleset import Mode, deletion, preparation
from nodeagent.capture.terms import TOTAL, Terms, of_host
from nodeagent.linux import nftables
from nodeagent.linux.namespaces import run_in_empty

GOLDEN = Path(__file__).parent / "golden"
WAYS = {"": tproxied, "redirected-": redirected, "looped-": looped}
SOME = Terms(
    fail_open=True,
    include_outbound_ports=(80,),
    exclude_outbound_ports=(3306, 9092),
    include_outbound_ranges=("0.0.0.0/0", "fd00::/8"),
    exclude_outbound_ranges=("10.1.0.0/16", "10.3.0.1/32", "2001:db8::/32"),
    include_inbound_ports=(80, 443),
)
SCRIPTS = {
    "preparation": preparation("0 1 -"),
    "deletion": deletion(),
    **{f"{name}{mode}": way.transaction(mode, "0 1 -", TOTAL) for name, way in WAYS.items() for mode in Mode},
    **{f"{name}terms": way.transaction(Mode.ENFORCE, "0 1 -", SOME) for name, way in WAYS.items()},
    **{f"{name}dns": way.transaction(Mode.ENFORCE, "0 1 -", Terms(dns=True)) for name, way in WAYS.items()},
    "looped-host": looped.transaction(Mode.ENFORCE, "0 1 -", of_host(TOTAL, ports_given=False)),
    "looped-drain-terms": looped.transaction(Mode.DRAIN, "0 1 -", SOME),
    "unit": unit_rules.script(17, 15117),
    "unit-dns": unit_rules.script(17, 15117, asking=unit_rules.Asking("{cgroup}", 2)),
    "unit-stub": unit_rules.script(17, 15117, asking=unit_rules.Asking("{cgroup}", 2, stub=True)),
    "unit-drain": unit_rules.script(17, 15117, draining=True),
    "unit-deletion": unit_rules.deletion(17),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_the_golden_one(name: str) -> None:
    assert SCRIPTS[name] == (GOLDEN / f"{name}.nft").read_text()


@pytest.mark.parametrize(
    "name", sorted(SCRIPTS.keys() - {"unit-dns", "unit-stub"})
)  # these name a cgroup, which must be there: test_units.py
def test_the_kernel_takes_it_and_takes_it_again(name: str) -> None:
    def twice() -> nftables.Table | None:
        nftables.transact(SCRIPTS[name])
        nftables.transact(SCRIPTS[name])
        return nftables.table("inet", unit_rules.table_of(17) if name.startswith("unit") else "nodemesh")

    assert (run_in_empty(twice) is None) == name.endswith("deletion")
