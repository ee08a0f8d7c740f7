"""What is compiled for the first packet, against the evaluator: the same for plaintext, never more for tunnels; and what is left out."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshapi.authorization import Action, Exact, Match, Policy, PolicyScope, Present
from meshapi.workload import IPAddress, Workload
from nodeagent.policy.authorize import Undecided, VerdictQuestion, authorize
from nodeagent.policy.prefilter import Denial, Left, compile_prefilter
from nodeagent.snapshot.snapshot import Snapshot
from nodeagent.snapshot.update import Update, apply
from nodeagent.ztunnel.protocol import Via
from tests.nodeagent.policy import generated
from tests.nodeagent.policy.cases import ADDRESSES, PEERS, PORTS, SOURCES, STRICT, UID, compiled, knowing, policy, surely_denied


def refusal(snapshot: Snapshot, source: str, destination: str = "10.0.0.9", port: int = 80, via: Via = Via.PLAINTEXT) -> Denial | None:
    return compiled(snapshot).refusal(ip_address(source), ip_address(destination), port, via)


def test_strict_is_refused_at_once_on_the_ports_that_it_is_for() -> None:
    everywhere, ports = policy(STRICT), policy(Match(not_principals=(Present(),), destination_ports=(80, 443)))
    assert refusal(knowing(everywhere), "10.0.0.1") == Denial("shop/p", "denied by shop/p")
    assert [port for port in PORTS if refusal(knowing(ports), "fd00::1", "fd00::9", port)] == [80, 443]
    assert refusal(knowing(everywhere), "10.0.0.1", via=Via.HBONE) is None, "peers have an identity"


def test_addresses_are_refused_whoever_comes() -> None:
    snapshot = knowing(policy(Match(source_ips=(ip_network("10.0.0.0/30"),))))
    for via in Via:
        assert refusal(snapshot, "10.0.0.3", via=via)
        assert refusal(snapshot, "10.0.0.4", via=via) is None
    assert refusal(snapshot, "10.0.0.3", via=Via.HBONE) == Denial("shop/p", "denied by shop/p")


def test_where_nothing_can_allow_everything_is_refused() -> None:
    nobody = Policy("nobody", "shop", PolicyScope.NAMESPACE, Action.ALLOW)
    assert refusal(knowing(nobody), "10.0.0.1", via=Via.HBONE) == Denial(None, "no ALLOW policy matches (shop/nobody)")
    assert refusal(knowing(nobody), "10.0.0.1") == Denial(None, "no ALLOW policy matches (shop/nobody)")
    near = policy(Match(source_ips=(ip_network("10.0.0.0/24"),), principals=(Exact("x"),)), action=Action.ALLOW)
    assert refusal(knowing(nobody, near), "10.0.0.1", via=Via.HBONE) is None
    assert refusal(knowing(nobody, near), "10.0.1.1", via=Via.HBONE)


def test_a_tunnel_serves_every_address_so_that_each_must_be_denied() -> None:
    one = policy(Match(destination_ips=(ip_network("10.0.0.9/32"),)))
    other = policy(Match(destination_ips=(ip_network("fd00::/64"),)), name="q")
    assert refusal(knowing(one), "10.0.0.1", via=Via.HBONE) is None
    assert refusal(knowing(one), "10.0.0.1")
    assert refusal(knowing(one, other), "10.0.0.1", via=Via.HBONE) == Denial("shop/p", "denied by shop/p")


def test_what_is_on_trial_refuses_nobody() -> None:
    assert compiled(knowing(policy(STRICT, dry_run=True))).denials == ()


def test_what_has_not_come_refuses_nobody_and_what_denies_without_it_does() -> None:
    naming = Workload(uid=UID, name="api", namespace="shop", addresses=ADDRESSES, authorization_policies=("shop/late",))
    nobody = Policy("nobody", "shop", PolicyScope.NAMESPACE, Action.ALLOW)
    assert compiled(knowing(workload=naming)).denials == compiled(knowing(nobody, workload=naming)).denials == ()
    assert refusal(knowing(nobody, policy(STRICT), workload=naming), "10.0.0.1") == Denial("shop/p", "denied by shop/p")


@pytest.mark.parametrize(
    ("snapshot", "why"),
    [
        (apply(Snapshot(), Update(policies_arrived=True)).snapshot, "workload Kubernetes//Pod/shop/api is not known"),
        (apply(Snapshot(), Update(absent=(UID,), policies_arrived=True)).snapshot, "not in the mesh's configuration"),
        (knowing(policy(STRICT), policies_arrived=False), "the mesh's policies is not known"),
        (knowing(policy(STRICT), rejected_policies=(("shop/bad", "?"),)), "shop/bad could not be understood"),
        (knowing(policy(STRICT), local_identities=((UID, "spiffe://cluster.local/ns/shop/sa/other"),)), "this node runs"),
    ],
)
def test_what_is_not_settled_is_left_to_the_proxy(snapshot: Snapshot, why: str) -> None:
    found = compile_prefilter(snapshot, UID)
    assert isinstance(found, Left)
    assert why in found.why


@pytest.mark.parametrize(
    ("match", "why"),
    [
        (Match(source_ips=tuple(ip_network(f"10.{index >> 8}.{index & 255}.0/30") for index in range(600))), "ranges of addresses"),
        (Match(destination_ports=tuple(range(1, 200, 2))), "ranges of ports"),
    ],
)
def test_what_is_too_much_for_the_table_is_left_to_the_proxy(match: Match, why: str) -> None:
    found = compile_prefilter(knowing(policy(match)), UID)
    assert isinstance(found, Left)
    assert why in found.why


def test_too_many_kinds_are_left_to_the_proxy() -> None:
    matches = [Match(source_ips=(ip_network(f"10.0.{index}.0/24"),), destination_ports=(index + 1,)) for index in range(70)]
    found = compile_prefilter(knowing(policy(*matches)), UID)
    assert found == Left("71 kinds of sources in its policies, more than 64")
    found = compile_prefilter(knowing(policy(*matches[:50])), UID)
    assert found == Left("5202 combinations of addresses and ports in its policies, more than 4096")
    many = Workload(uid=UID, name="api", namespace="shop", addresses=tuple(ip_address(f"10.0.0.{last}") for last in range(5)))
    assert compile_prefilter(knowing(workload=many), UID) == Left("5 addresses of the workload, more than 4")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(generated.policies, max_size=4, unique_by=lambda policy: policy.key),
    st.lists(st.sampled_from(["shop/a", "other/b", "shop/missing"]), max_size=2).map(tuple),
    st.frozensets(st.sampled_from(SOURCES), max_size=2),
    st.frozensets(st.sampled_from(PORTS), max_size=2),
)
def test_it_refuses_plaintext_exactly_as_the_evaluator_and_tunnels_never_beyond(
    policies: list[Policy], named: tuple[str, ...], probe_sources: frozenset[IPAddress], probe_ports: frozenset[int]
) -> None:
    snapshot = knowing(
        *policies,
        workload=Workload(UID, "api", "shop", addresses=ADDRESSES, authorization_policies=named),
        probe_sources=probe_sources,
        probe_ports=((UID, probe_ports),),
    )
    table = compiled(snapshot)
    for source in SOURCES:
        for destination in ADDRESSES:
            for port in PORTS:
                verdict = authorize(snapshot, VerdictQuestion(UID, destination, port, Via.PLAINTEXT, source, None))
                denied = not isinstance(verdict, Undecided) and not verdict.allow
                found = table.refusal(source, destination, port, Via.PLAINTEXT)
                assert (found is not None) == denied
                assert found is None or isinstance(verdict, Undecided) or (found.policy, found.reason) == (verdict.policy, verdict.reason)
        if table.refusal(source, ADDRESSES[0], 15008, Via.HBONE):
            assert all(surely_denied(snapshot, source, peer) for peer in PEERS)
