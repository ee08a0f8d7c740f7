"""control/validation/document.py: a policy that can't be understood is taken for the strictest of its kind, for whom it seems to mean."""

import pytest

from control.kinds import AuthorizationPolicy, PeerAuthentication
from tests.control.validation.policies import authorization, peer
from tests.control.validation.reading import read


@pytest.mark.parametrize(
    ("text", "key", "selector"),
    [
        (authorization("{selector: {matchLabels: {app: web}}, x: 1}"), "AuthorizationPolicy shop/p", {"app": "web"}),
        (authorization("{selector: {matchLabels: {app: [web]}}}"), "AuthorizationPolicy shop/p", {}),
        (authorization("{x: {}"), "AuthorizationPolicy shop/p", {}),
        (authorization("{a: b: c}", "\n  name: p\n  namespace: shop"), "AuthorizationPolicy shop/p", {}),
        (peer("[").replace("namespace: shop", ""), "PeerAuthentication default/p", {}),
    ],
)
def test_the_closed_form_holds_for_whom_the_policy_seems_to_mean(text: str, key: str, selector: dict[str, str]) -> None:
    (document,) = read(text)
    assert str(document.key) == key
    assert isinstance(document.closed, AuthorizationPolicy | PeerAuthentication)
    assert document.closed.selector == selector


def test_what_would_not_be_enforced_has_no_closed_form() -> None:
    (document,) = read(authorization("{action: AUDIT, x: 1}"))
    assert (document.object, document.closed) == (None, None)


@pytest.mark.parametrize(
    ("spec", "targets"),
    [
        ("{targetRefs: [{kind: Service, name: x}], x: 1}", [("Service", "x")]),
        ("{targetRef: {kind: Gateway, name: x}, action: DENY, x: 1}", [("Gateway", "x")]),
        # What it is for can't be told: all workloads of the namespace.
        ("{targetRefs: [{kind: Service, title: x}], x: 1}", []),
        ("{targetRefs: [{kind: Pod, name: x}]}", []),
        ("{targetRefs: x}", []),
    ],
)
def test_the_closed_form_of_a_policy_for_waypoints_is_for_what_it_names(spec: str, targets: list[tuple[str, str]]) -> None:
    (document,) = read(authorization(spec))
    assert document.object is None
    assert isinstance(document.closed, AuthorizationPolicy)
    assert [(target.kind, target.name) for target in document.closed.targets] == targets
