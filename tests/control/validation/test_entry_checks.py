"""control/validation/entry_checks.py: entries that would not be what they seem are refused."""

import pytest

from tests.control.validation.reading import errors


def service_entry(spec: str) -> str:
    return f"apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, namespace: shop}}\nspec: {spec}\n"


@pytest.mark.parametrize(
    "spec",
    [
        "{}",
        "{hosts: []}",
        "{hosts: ['*']}",
        "{hosts: [a.example, a.example]}",
        "{hosts: [a.example], addresses: [169.254.169.254]}",
        "{hosts: [a.example], addresses: [10.0.0.0/8]}",
        "{hosts: [a.example], resolution: MAGIC}",
        "{hosts: [a.example], ports: [{number: 0}]}",
        "{hosts: [a.example], ports: [{number: 80}, {number: 80}]}",
        "{hosts: ['*.a.example'], resolution: DNS}",
        "{hosts: [a.example], endpoints: [{address: 192.0.2.1}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 127.0.0.1}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 'unix:///run/x'}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 0x7f000001}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: '2130706433'}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: localhost}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 192.0.2.1, network: a/b}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 192.0.2.1, weight: -1}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 192.0.2.1, serviceAccount: A}]}",
        "{hosts: [a.example], resolution: STATIC, endpoints: [{address: 192.0.2.1}], workloadSelector: {labels: {a: b}}}",
        "{hosts: [a.example], workloadSelector: {}}",
    ],
)
def test_entries_that_are_refused(spec: str) -> None:
    assert errors(service_entry(spec))
