"""Policies and peers made up by hypothesis, over a few names, blocks and ports, so that they often meet."""

from ipaddress import ip_network

from hypothesis import strategies as st

from meshapi.authorization import Action, Exact, Match, Policy, PolicyScope, Prefix, Present, ServiceAccountMatch, Suffix
from meshapi.spiffe import WorkloadIdentity

BLOCKS = ["0.0.0.0/0", "10.0.0.0/30", "10.0.0.2/31", "10.0.0.9/32", "10.0.0.0/8", "fd00::/126", "::/0"]
PORTS = [1, 80, 81, 443, 65535]
_words = st.sampled_from(["", "s", "shop", "web", "a.b", "*", "cluster.local/ns/shop/sa/web", "other.org/ns/a.b/sa/s"])
_strings = st.lists(
    st.one_of(st.builds(Exact, _words), st.builds(Prefix, _words), st.builds(Suffix, _words), st.just(Present())), max_size=2
)
_networks = st.lists(st.sampled_from(BLOCKS).map(ip_network), max_size=2)
_ports = st.lists(st.sampled_from(PORTS), max_size=2)
_accounts = st.lists(st.builds(ServiceAccountMatch, st.sampled_from(["shop", "a.b"]), st.sampled_from(["web", "s"])), max_size=2)


@st.composite
def matches(draw: st.DrawFn) -> Match:
    fields: dict[str, st.SearchStrategy[list[object]]] = {  # type: ignore[type-arg, assignment]
        "namespaces": _strings,
        "principals": _strings,
        "service_accounts": _accounts,
        "source_ips": _networks,
        "destination_ips": _networks,
        "destination_ports": _ports,
    }
    chosen = draw(st.sets(st.sampled_from([*fields, *(f"not_{name}" for name in fields)]), max_size=3))
    return Match(**{name: tuple(draw(fields[name.removeprefix("not_")])) for name in sorted(chosen)})  # type: ignore[arg-type]


_clauses = st.lists(matches(), max_size=2).map(tuple)
_rules = st.lists(_clauses, max_size=2).map(tuple)
policies = st.builds(
    Policy,
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["shop", "other"]),
    st.sampled_from(PolicyScope),
    st.sampled_from(Action),
    st.lists(_rules, max_size=2).map(tuple),
    st.booleans(),
)
peers = st.one_of(
    st.none(),
    st.builds(
        WorkloadIdentity, st.sampled_from(["cluster.local", "other.org"]), st.sampled_from(["shop", "a.b"]), st.sampled_from(["web", "s"])
    ),
)
