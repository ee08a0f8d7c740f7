"""What keeps a host from joining, told in words: clocks, certificates, ports, ways that are closed; against real TLS on loopback."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from meshapi.bundle import Bundle, ControllerPlace
from nodeagent.doctor.check import Outcome
from nodeagent.vm import checks
from tests.nodeagent.identity.pki import DAY_S, Authority, authority
from tests.nodeagent.vm.joined import joined

NOW_S = time.time()
ROOT = authority("root", NOW_S)


def bundle(port: int, root: Authority = ROOT, **changes: object) -> Bundle:
    made = Bundle(
        version=1,
        node=joined().node,
        controller=ControllerPlace("127.0.0.1", port, port),
        roots_pem=root.pem.decode(),
        token="t",
        trust_domain="cluster.local",
        cluster="c",
        root_namespace="istio-system",
        created_s=int(NOW_S),
        expires_s=int(NOW_S) + 3600,
    )
    return msgspec.structs.replace(made, **changes)


@contextmanager
def controller(tmp_path: Path, not_before_s: float, names: str = "") -> Iterator[int]:
    key, certificate = ROOT.server(not_before_s)
    (tmp_path / "pair").write_bytes(key + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair")
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.1)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            connection.settimeout(5)
            with connection:
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    continue

    thread = threading.Thread(target=serve, name="controller")
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        ended.set()
        thread.join(10)
        listening.close()


def asked(made: Bundle) -> list[checks.Check]:
    return list(checks._controller(made))


def test_a_controller_that_answers(tmp_path: Path) -> None:
    with controller(tmp_path, NOW_S - 60) as port:
        assert {check.outcome for check in asked(bundle(port))} == {Outcome.OK}


@pytest.mark.parametrize("since_s", [DAY_S, -3 * DAY_S])
def test_a_clock_that_is_off_is_called_so(tmp_path: Path, since_s: float) -> None:
    with controller(tmp_path, NOW_S + since_s) as port:
        first, _ = asked(bundle(port))
    assert (first.subject, first.outcome) == ("clock", Outcome.FAILED)
    assert "set the clock" in first.mend


def test_another_mesh_s_controller_and_another_name(tmp_path: Path) -> None:
    with controller(tmp_path, NOW_S - 60) as port:
        first, _ = asked(bundle(port, authority("other", NOW_S)))
        assert first.outcome is Outcome.FAILED
        assert "another mesh" in first.mend
        named, _ = asked(bundle(port, controller=ControllerPlace("127.0.0.1", port, port, "elsewhere")))
        assert named.outcome is Outcome.FAILED
        right, _ = asked(bundle(port, controller=ControllerPlace("127.0.0.1", port, port, "localhost")))
        assert right.outcome is Outcome.OK


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    first, _ = asked(bundle(port))
    assert "can't be reached" in first.what
    assert "firewalls" in first.mend


@pytest.mark.parametrize(("since_s", "subject"), [(-3600, "clock"), (7200, "bundle")])
def test_a_bundle_of_another_time(since_s: float, subject: str) -> None:
    check = checks._bundle(bundle(1), NOW_S + since_s)
    assert (check.subject, check.outcome) == (subject, Outcome.FAILED)
    assert checks._bundle(bundle(1), NOW_S).outcome is Outcome.OK


def test_ports_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        monkeypatch.setattr(checks, "PORTS", (port,))
        check = checks._ports()
        assert check.outcome is Outcome.FAILED
        assert str(port) in check.what
    assert checks._ports().outcome is Outcome.OK


def test_who_has_joined_or_runs_an_agent(tmp_path: Path) -> None:
    assert checks._state(tmp_path).outcome is Outcome.OK
    (tmp_path / "membership").touch()
    assert "leave" in checks._state(tmp_path).mend
    (tmp_path / "membership").rename(tmp_path / "identity-0")
    assert "another agent" in checks._state(tmp_path).what
    assert checks._agent(tmp_path).outcome is Outcome.OK
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "admin.sock"))
        listening.listen()
        assert checks._agent(tmp_path).outcome is Outcome.FAILED
