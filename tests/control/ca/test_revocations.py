"""Revocations: kept on disk, strictly later each time, and agents' own are not sent to proxies."""

from pathlib import Path

import pytest

from control.ca.leaf import MAX_AGENT_TTL_S
from control.ca.records import RecordsError
from control.ca.revocations import Revocations, parse_identity
from meshapi.spiffe import AgentIdentity, IdentityError, WorkloadIdentity
from meshapi.trust import Revocation
from tests.control.fakes import NOW_S

CART = WorkloadIdentity("cluster.local", "shop", "cart")
NODE = AgentIdentity("cluster.local", "n1")
NOW = int(NOW_S)


def test_survive_a_restart(tmp_path: Path) -> None:
    Revocations(tmp_path / "r.json").revoke(CART, NOW_S)
    again = Revocations(tmp_path / "r.json")
    assert again.before_s(CART) == NOW
    assert again.undo(str(CART))
    assert Revocations(tmp_path / "r.json").all() == ()
    assert not again.undo(str(CART))


def test_a_second_one_in_the_same_second_is_later(tmp_path: Path) -> None:
    """What was issued between the two has a notBefore of the first."""
    revocations = Revocations(tmp_path / "r.json")
    revocations.revoke(CART, NOW_S)
    assert revocations.revoke(CART, NOW_S).issued_before_s == NOW + 1
    assert revocations.revoke(CART, NOW_S - 3600).issued_before_s == NOW + 2


def test_agents_identities_stay_with_the_controller(tmp_path: Path) -> None:
    revocations = Revocations(tmp_path / "r.json")
    revocations.revoke(NODE, NOW_S)
    revocations.revoke(CART, NOW_S)
    assert revocations.of_workloads() == (Revocation(str(CART), NOW),)
    assert revocations.before_s(NODE) == NOW


def test_watchers_hear_of_each_change(tmp_path: Path) -> None:
    revocations = Revocations(tmp_path / "r.json")
    heard: list[int] = []
    revocations.on_change(lambda: heard.append(len(revocations.all())))
    revocations.revoke(CART, NOW_S)
    revocations.undo(str(CART))
    revocations.undo(str(CART))
    assert heard == [1, 0]


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('[{"identity": 5}]')
    with pytest.raises(RecordsError):
        Revocations(tmp_path / "r.json")


def test_parses_both_forms_and_nothing_else() -> None:
    assert parse_identity(str(CART)) == CART
    assert parse_identity(str(NODE)) == NODE
    for text in ("", "spiffe://a", "spiffe://a/nodemesh/node", "spiffe://a/ns/b/sa/c/d", str(CART) + "\n", str(CART).upper()):
        with pytest.raises(IdentityError):
            parse_identity(text)


def test_machines_that_left_long_ago_are_forgotten_with_the_next_and_nobody_else(tmp_path: Path) -> None:
    revocations = Revocations(tmp_path / "r.json")
    left, lately = (AgentIdentity("cluster.local", f"vm_{name}_shop_web") for name in ("old", "new"))
    for identity in (left, NODE, CART):
        revocations.revoke(identity, NOW_S)
    revocations.revoke(lately, NOW_S + 2 * MAX_AGENT_TTL_S)
    assert revocations.before_s(left) == NOW
    revocations.revoke(lately, NOW_S + 2 * MAX_AGENT_TTL_S + 2)
    assert {record.identity for record in Revocations(tmp_path / "r.json").all()} == {str(NODE), str(CART), str(lately)}
