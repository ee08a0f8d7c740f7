"""Ends the streams of agents that may no longer have them: certificate or token expired or revoked, node gone, root removed."""

import asyncio
import logging
from dataclasses import dataclass

from control.ca.authority import Authority
from control.ca.callers import AgentPod, CertificateAuthenticator, NodeAgent, ProxyRunner
from control.ca.refusal import UnauthenticatedError
from control.ca.revocations import Revocations
from control.ca.service_accounts import ServiceAccountAuthenticator
from control.xds.connection import Connection
from control.xds.hub import Hub

PERIOD_S = 1.0
CHAINS_AT_ONCE = 50
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proofs:
    """The ways in which the holder of a stream can have proved itself; without Kubernetes there are no accounts."""

    by_certificate: CertificateAuthenticator
    by_account: ServiceAccountAuthenticator | None = None


class StreamGuard:
    """Looks at every open stream each second, and at once after a revocation or a change of the roots."""

    def __init__(self, hub: Hub, proofs: Proofs, authority: Authority, revocations: Revocations) -> None:
        self._hub = hub
        self._proofs = proofs
        self._wake = asyncio.Event()
        self._roots_changed = False
        authority.on_change(self._authority_changed)
        revocations.on_change(self._wake.set)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with asyncio.timeout(PERIOD_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self.look()

    async def look(self) -> None:
        """Once over all streams."""
        self._hub.tick()
        whole_chain, self._roots_changed = self._roots_changed, False
        for count, connection in enumerate(self._hub.connections, start=1):
            try:
                self._check(connection, whole_chain=whole_chain)
            except UnauthenticatedError as error:
                self._end(connection, error)
            # Verifying a chain takes about 0.1 ms: thousands of them must not hold the loop.
            if whole_chain and count % CHAINS_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _check(self, connection: Connection, *, whole_chain: bool) -> None:
        match connection.agent:
            case AgentPod() as agent:
                if self._proofs.by_account is not None:
                    self._proofs.by_account.check_still_valid(agent, connection.credentials)
            case NodeAgent() | ProxyRunner() as agent:
                if whole_chain:
                    self._proofs.by_certificate.verify(connection.credentials)
                else:
                    self._proofs.by_certificate.check_still_valid(agent)

    def _authority_changed(self) -> None:
        self._roots_changed = True
        self._wake.set()

    @staticmethod
    def _end(connection: Connection, error: UnauthenticatedError) -> None:
        log.warning("the stream of %s ends: %s", connection.agent.node, error)
        connection.end(error)
