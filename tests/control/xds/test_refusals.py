"""control/xds/refusals.py: which resources Envoy's words are about."""

import pytest

from control.xds.refusals import Refusal, Refusals, named_in

ONE = "Error adding/updating listener(s) connect_terminate: cannot bind '203.0.113.9:15008': Cannot assign requested address\n"
TWO = "Error adding/updating cluster(s) a|80: no such filter, b|81: duplicate: a|80 is meant, perhaps"


@pytest.mark.parametrize(
    ("message", "names", "expected"),
    [
        (
            ONE,
            ["connect_terminate", "main_internal"],
            {"connect_terminate": "cannot bind '203.0.113.9:15008': Cannot assign requested address"},
        ),
        (TWO, ["a|80", "b|81", "c"], {"a|80": "no such filter", "b|81": "duplicate: a|80 is meant, perhaps"}),
        # One name within another.
        ("Error adding/updating cluster(s) x|80|front: bad", ["front", "x|80|front"], {"x|80|front": "bad"}),
        ("Proto constraint validation failed", ["a", "b"], {}),
        ("Error adding/updating cluster(s) stranger: bad", ["a"], {}),
        ("", ["a"], {}),
    ],
)
def test_what_a_refusal_names(message: str, names: list[str], expected: dict[str, str]) -> None:
    assert named_in(message, names) == expected


def test_a_resource_that_is_accepted_is_refused_no_more() -> None:
    refusals = Refusals()
    refusals.refused(Refusal("t", "a", "1", 0.0, "bad"))
    refusals.accepted("u", ["a"])
    assert refusals.has("t", "a")
    refusals.accepted("t", ["a"])
    assert refusals.all() == ()
