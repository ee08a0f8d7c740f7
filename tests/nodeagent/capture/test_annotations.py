"""Annotations, good and bad: what can't be followed leaves capture whole, and is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from nodeagent.capture.annotations import BYPASS_INBOUND, DNS_CAPTURE, FAIL_OPEN, TRAFFIC, read_terms
from nodeagent.capture.terms import TOTAL, Terms

WHOLE = Terms(dns=True)


@pytest.mark.parametrize(
    ("annotations", "terms"),
    [
        ({}, TOTAL),
        ({"example.com/other": "x", "sidecar.istio.io/inject": "false"}, TOTAL),
        ({FAIL_OPEN: "true"}, Terms(fail_open=True)),
        ({FAIL_OPEN: "false"}, TOTAL),
        ({f"{TRAFFIC}excludeOutboundPorts": "3306, 9092,3306"}, Terms(exclude_outbound_ports=(3306, 9092))),
        ({f"{TRAFFIC}includeOutboundPorts": ""}, TOTAL),
        ({f"{TRAFFIC}includeInboundPorts": "*"}, TOTAL),
        ({f"{TRAFFIC}includeInboundPorts": ""}, Terms(include_inbound_ports=())),
        ({f"{TRAFFIC}includeInboundPorts": "443,80"}, Terms(include_inbound_ports=(80, 443))),
        ({f"{TRAFFIC}excludeInboundPorts": "15020,15021"}, Terms(exclude_inbound_ports=(15020, 15021))),
        ({BYPASS_INBOUND: "true"}, Terms(include_inbound_ports=())),
        ({BYPASS_INBOUND: "false"}, TOTAL),
        ({BYPASS_INBOUND: "true", f"{TRAFFIC}includeInboundPorts": "*"}, Terms(include_inbound_ports=())),
        ({f"{TRAFFIC}includeOutboundIPRanges": "*"}, TOTAL),
        ({f"{TRAFFIC}includeOutboundIPRanges": ""}, Terms(include_outbound_ranges=())),
        ({f"{TRAFFIC}includeOutboundIPRanges": "fd00::1/8,10.1.2.3/8"}, Terms(include_outbound_ranges=("10.0.0.0/8", "fd00::/8"))),
        ({f"{TRAFFIC}excludeOutboundIPRanges": "10.0.0.0/9,10.128.0.0/9"}, Terms(exclude_outbound_ranges=("10.0.0.0/8",))),
    ],
)
def test_what_they_mean(annotations: dict[str, str], terms: Terms) -> None:
    assert read_terms(annotations) == (replace(terms, dns=True), "")


def test_a_pod_may_ask_its_own_resolvers() -> None:
    assert read_terms({DNS_CAPTURE: "false"}) == (TOTAL, "")
    assert read_terms({DNS_CAPTURE: "true"}) == (WHOLE, "")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (DNS_CAPTURE, "off", '"true" or "false"'),
        (FAIL_OPEN, "yes", '"true" or "false"'),
        (BYPASS_INBOUND, "1", '"true" or "false"'),
        (f"{TRAFFIC}excludeOutboundPorts", "*", "is no port"),
        (f"{TRAFFIC}excludeOutboundPorts", "0", "is no port"),
        (f"{TRAFFIC}excludeOutboundPorts", "65536", "is no port"),
        (f"{TRAFFIC}excludeOutboundPorts", "80,", "'' is no port"),
        (f"{TRAFFIC}excludeOutboundPorts", "80-90", "is no port"),
        (f"{TRAFFIC}excludeOutboundPorts", "+80", "is no port"),
        (f"{TRAFFIC}excludeOutboundPorts", "٨٠", "is no port"),
        (f"{TRAFFIC}excludeOutboundPorts", ",".join(["1"] * 300), "at most 256"),
        (f"{TRAFFIC}excludeOutboundIPRanges", "*", "is no range"),
        (f"{TRAFFIC}excludeOutboundIPRanges", "10.0.0.1", "write 10.1.2.3/32"),
        (f"{TRAFFIC}excludeOutboundIPRanges", "10.0.0.0/33", "is no range"),
        (f"{TRAFFIC}excludeOutboundIPRanges", "::ffff:10.0.0.0/104", "write IPv4 ranges as such"),
        (f"{TRAFFIC}excludeOutboundIPRanges", "fe80::%eth0/64", "with a zone"),
        (f"{TRAFFIC}excludeOutboundIPRanges", "10.0.0.0/8; drop", "is no range"),
        (f"{TRAFFIC}kubevirtInterfaces", "net1", "is not supported"),
        (f"{TRAFFIC}excludeOutboundPort", "80", "is not supported"),
    ],
)
def test_what_can_not_be_followed_leaves_capture_whole(name: str, value: str, words: str) -> None:
    good = {f"{TRAFFIC}excludeInboundPorts": "22", FAIL_OPEN: "true"}
    terms, problem = read_terms({**good, name: value}, cgroup="a/b")
    assert terms == Terms(cgroup="a/b", dns=True)
    assert name in problem
    assert words in problem


@given(
    st.dictionaries(
        st.sampled_from([FAIL_OPEN, *(f"{TRAFFIC}{one}" for one in ("includeInboundPorts", "excludeOutboundIPRanges"))]),
        st.text(max_size=40),
    )
)
def test_any_text_is_terms_or_a_problem(annotations: dict[str, str]) -> None:
    terms, problem = read_terms(annotations)
    assert not problem or terms == WHOLE
