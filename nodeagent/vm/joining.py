"""Joining and leaving, as far as it is between the machine and the controller."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from meshapi.bundle import Bundle, ControllerPlace
from meshapi.spiffe import AgentIdentity
from nodeagent.identity.authority import AGENT_VALIDITY_S, CertificateService
from nodeagent.identity.certificate import UNREADABLE, Issued, check_issued, check_kept, new_key, parse_chain, request_pem
from nodeagent.identity.controller import Controller
from nodeagent.identity.store import StoredIdentity
from nodeagent.identity.trust import Trust
from nodeagent.state.files import StateDirectory
from nodeagent.state.identities import IdentityFiles
from nodeagent.vm import attendance
from nodeagent.vm.membership import Membership, save
from nodeagent.xds.channel import Dial

log = logging.getLogger(__name__)


def target(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def join(bundle: Bundle, state_dir: Path) -> Issued:
    """Spends the bundle's token on the machine's certificate, and keeps both; raises AuthorityError, CertificateError or OSError."""
    directory = StateDirectory(state_dir)
    directory.prepare()
    place, roots = bundle.controller, _roots(bundle.roots_pem)
    dial = Dial(
        target(place.host, place.token_port), bundle.roots_pem.encode(), bundle.cluster, token=bundle.token, server_name=place.server_name
    )
    identity, key = str(AgentIdentity(bundle.trust_domain, bundle.node)), new_key()
    service = CertificateService(lambda: dial, validity_s=AGENT_VALIDITY_S)
    try:
        chain = parse_chain(await service.sign(request_pem(key, identity)))
    finally:
        await service.close()
    issued = check_issued(identity, chain, key, roots, time.time())
    IdentityFiles(directory).save(StoredIdentity(identity, issued.chain_pem, issued.key_pem))
    save(directory, Membership.of(bundle))
    return issued


async def leave(membership: Membership, state_dir: Path, connected: Callable[[], object] = lambda: None) -> None:
    """Tells the controller, which forgets the machine and revokes its certificate; raises OSError or CertificateError.

    `connected` is called when the controller is there, and has not been told yet.
    """
    trust = Trust(membership.trust_domain, _roots(membership.roots_pem))
    controller = _controller(membership.controller, membership.cluster, trust)
    identity = str(AgentIdentity(membership.trust_domain, membership.node))
    kept = next((record for record in IdentityFiles(StateDirectory(state_dir)).load() if record.identity == identity), None)
    if kept is None:
        raise FileNotFoundError(f"{state_dir} holds no certificate of {membership.node}")
    issued = check_kept(identity, kept.chain_pem, kept.key_pem, trust.roots, time.time())
    await attendance.leave(controller.by_certificate(issued), connected)


def _controller(place: ControllerPlace, cluster: str, trust: Trust) -> Controller:
    return Controller(target(place.host, place.token_port), target(place.host, place.certificate_port), cluster, trust, place.server_name)


def _roots(text: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except UNREADABLE as error:
        raise OSError(f"its roots can't be read: {error}") from error
