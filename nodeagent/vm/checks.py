"""Whether a host can join: what is missing, in words, and how to mend it. Every function blocks, for seconds at most."""

import errno
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from meshapi import wire
from meshapi.bundle import Bundle
from nodeagent.capture.base import Way
from nodeagent.capture.choice import choose
from nodeagent.doctor import host
from nodeagent.doctor.check import Check, failed, ok
from nodeagent.identity.certificate import UNREADABLE
from nodeagent.linux.errors import KernelError
from nodeagent.state.identities import PREFIX
from nodeagent.vm.membership import MEMBERSHIP

CONNECT_S: Final = 5.0
SKEW_S: Final = 120.0
PORTS: Final = (*sorted(wire.PROXY_PORTS), 15053, wire.METRICS_PORT, wire.READINESS_PORT)
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL."""


def joining_checks(bundle: Bundle, run_dir: Path, state_dir: Path) -> Iterator[Check]:
    """One after the other, so that they can be shown as they come."""
    yield host.user()
    yield _state(state_dir)
    yield _agent(run_dir)
    yield host.proxy()
    yield host.cgroup()
    yield _capture()
    yield _ports()
    yield _bundle(bundle, time.time())
    yield from _controller(bundle)


def _state(state_dir: Path) -> Check:
    if (state_dir / MEMBERSHIP).exists():
        return failed("state", f"this machine has joined already ({state_dir})", "`nodeagent leave` first")
    if state_dir.is_dir() and any(state_dir.glob(f"{PREFIX}*")):
        return failed("state", f"{state_dir} holds what another agent keeps", "`nodeagent down` there, then empty the directory")
    return ok("state", str(state_dir))


def _agent(run_dir: Path) -> Check:
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(run_dir / "admin.sock")) == 0:
            return failed("agent", f"an agent runs here already ({run_dir})", "end it with `nodeagent down`, and disable what starts it")
    return ok("agent", "none runs here")


def _capture() -> Check:
    try:
        choice = choose(Way.AUTO)
    except (OSError, KernelError) as error:
        return failed("capture", str(error), "a kernel of 5.10 or later with nftables and eBPF, and the package libnftables1")
    if choice.way.name != Way.EBPF:
        return failed(
            "capture",
            f"a host is captured by ebpf, which this kernel does not carry: {choice.reason}",
            "a kernel of 5.10 or later with eBPF, nftables and TPROXY",
        )
    return ok("capture", f"{choice.way.name}: {choice.reason}")


def _ports() -> Check:
    taken = [port for port in PORTS if not _free(port)]
    if taken:
        words = ", ".join(str(port) for port in taken)
        return failed(
            "ports", f"{words} in use, which the mesh needs", f"end what listens there: ss -ltnp | grep -E '{'|'.join(map(str, taken))}'"
        )
    return ok("ports", f"{PORTS[0]} to {PORTS[-1]} are free where they are needed")


def _free(port: int) -> bool:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
        except PermissionError:
            return False
        except OSError as error:
            # A host without the family is none that has the port taken.
            if error.errno == errno.EADDRINUSE:
                return False
    return True


def _bundle(bundle: Bundle, now_s: float) -> Check:
    if now_s < bundle.created_s - SKEW_S:
        return failed("clock", f"it is {_moment(now_s)} here, and the bundle was made at {_moment(bundle.created_s)}", host.MEND_CLOCK)
    if now_s >= bundle.expires_s:
        mend = "make a new one with `meshctl vm create`; or, if it is not that late, " + host.MEND_CLOCK
        return failed("bundle", f"it was good until {_moment(bundle.expires_s)}", mend)
    return ok("bundle", f"for {bundle.machine.name}, good until {_moment(bundle.expires_s)}")


def _controller(bundle: Bundle) -> Iterator[Check]:
    place = bundle.controller
    for port, what in ((place.token_port, "for joining"), (place.certificate_port, "for agents")):
        subject = f"{place.host}:{port}"
        yield _guarded(subject, what, lambda port=port: _handshake(bundle, port))  # type: ignore[misc]


def _guarded(subject: str, what: str, look: Callable[[], Check | None]) -> Check:
    another_way = "open the way there in firewalls, or make a bundle with --controller ADDRESS"
    try:
        return look() or ok("controller", f"{subject} ({what}) answers, and is the one that the bundle names")
    except socket.gaierror as error:
        return failed("controller", f"{subject}: the name can't be resolved: {error.strerror}", f"correct DNS, or {another_way}")
    except ssl.SSLCertVerificationError as error:
        mend = "the bundle is of another mesh, or somebody is in between: make a new one"
        return failed("controller", f"{subject}: {error.verify_message}", mend)
    except (OSError, *UNREADABLE) as error:
        return failed("controller", f"{subject} ({what}) can't be reached: {str(error) or type(error).__name__}", another_way)


def _handshake(bundle: Bundle, port: int) -> Check | None:
    """What is wrong with the clock, None if nothing; raises OSError for all else. A clock that is off looks like a bad certificate."""
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusted.load_verify_locations(cadata=bundle.roots_pem)
    trusted.set_alpn_protocols(["h2"])
    try:
        with _tls(bundle, port, trusted):
            return None
    except ssl.SSLCertVerificationError as error:
        if error.verify_code not in {_NOT_YET_VALID, _EXPIRED}:
            raise
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    with _tls(bundle, port, anyone) as connection:
        leaf = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
    begin, end = (moment.timestamp() for moment in (leaf.not_valid_before_utc, leaf.not_valid_after_utc))
    what = f"it is {_moment(time.time())} here, and the controller's certificate is good from {_moment(begin)} to {_moment(end)}"
    return failed("clock", what, host.MEND_CLOCK)


def _tls(bundle: Bundle, port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    place = bundle.controller
    connection = socket.create_connection((place.host, port), timeout=CONNECT_S)
    try:
        return context.wrap_socket(connection, server_hostname=place.server_name or place.host)
    except BaseException:
        connection.close()
        raise


def _moment(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
