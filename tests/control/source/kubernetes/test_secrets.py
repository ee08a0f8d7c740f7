"""control/source/kubernetes/secrets.py: what a Secret holds, and nothing of one that can't be read."""

import logging

import pytest

from control.source.kubernetes.secrets import content, map_content
from kubeapi.watching import Item


def item(raw: bytes) -> Item:
    return Item("infra", "cart", "1", raw)


def test_what_a_secret_holds() -> None:
    assert content(item(b'{"type": "kubernetes.io/tls", "data": {"tls.crt": "YQ==", "tls.key": ""}}')) == {"tls.crt": b"a", "tls.key": b""}
    assert content(item(b'{"metadata": {"name": "cart"}}')) == {}


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"data": []}', b'{"data": {"tls.key": "c2VjcmV0!"}}', b'{"data": {"tls.key": 7}}', b"\xff"])
def test_what_can_not_be_read_is_nothing_and_told_by_its_name_alone(raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert content(item(raw)) is None
    assert [record.getMessage() for record in caplog.records] == ["the Secret infra/cart is not what a Secret is"]


def test_what_a_config_map_holds(caplog: pytest.LogCaptureFixture) -> None:
    assert map_content(item(b'{"data": {"ca.crt": "a\\u00e4"}}')) == {"ca.crt": "aä".encode()}
    assert map_content(item(b"{}")) == {}
    with caplog.at_level(logging.WARNING):
        assert map_content(item(b'{"data": {"ca.crt": 7}}')) is None
        assert map_content(item(b'{"data": {"ca.crt": "\\ud800"}}')) is None
    assert set(caplog.messages) == {"the ConfigMap infra/cart is not what a ConfigMap is"}
