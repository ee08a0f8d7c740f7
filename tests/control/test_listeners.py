"""control/listeners.py: grpc is given a certificate again only when it is another one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from control.ca.authority import Authority
from control.ca.server_certificate import ServerCertificate
from control.listeners import ServerTLS
from control.rpc import grpc
from tests.control.fakes import FakeClock

DAY_S = 86400.0


def test_nothing_is_given_while_nothing_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given replaces, without a lock, what handshakes under way may be reading: grpc ended by a fault in its memory."""
    asked: list[Callable[[], Any]] = []
    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", lambda _first, fetch, **_options: asked.append(fetch))
    clock = FakeClock()
    authority = Authority(tmp_path / "ca", trust_domain="cluster.local", own=True, clock=clock)
    tls = ServerTLS(ServerCertificate(authority, ("localhost",), clock))
    tls.credentials(client_certificates=True)
    tls.credentials(client_certificates=False)
    assert [fetch() for fetch in asked * 3] == [None] * 6
    clock.now_s += 30 * DAY_S
    tls.refresh()
    assert [fetch() is not None for fetch in asked] == [True, True], "each listener is told once"
    assert [fetch() for fetch in asked] == [None, None]
