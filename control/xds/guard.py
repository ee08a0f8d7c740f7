"""Ends the streams of agents that may no longer have them: certificate expired or revoked, node gone, root removed."""

import asyncio
import logging

from control.ca.authority import Authority
from control.ca.callers import CertificateAuthenticator
from control.ca.refusal import UnauthenticatedError
from control.ca.revocations import Revocations
from control.xds.hub import Connection, Hub

PERIOD_S = 1.0
CHAINS_AT_ONCE = 50
log = logging.getLogger(__name__)


class StreamGuard:
    """Looks at every open stream each second, and at once after a revocation or a change of the roots."""

    def __init__(self, hub: Hub, authenticator: CertificateAuthenticator, authority: Authority, revocations: Revocations) -> None:
        self._hub = hub
        self._authenticator = authenticator
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
        whole_chain, self._roots_changed = self._roots_changed, False
        for count, connection in enumerate(self._hub.connections, start=1):
            try:
                if whole_chain:
                    self._authenticator.verify(connection.credentials)
                else:
                    self._authenticator.check_still_valid(connection.agent)
            except UnauthenticatedError as error:
                self._end(connection, error)
            # Verifying a chain takes about 0.1 ms: thousands of them must not hold the loop.
            if whole_chain and count % CHAINS_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _authority_changed(self) -> None:
        self._roots_changed = True
        self._wake.set()

    @staticmethod
    def _end(connection: Connection, error: UnauthenticatedError) -> None:
        log.warning("the stream of node %s ends: %s", connection.agent.node, error)
        connection.end(error)
