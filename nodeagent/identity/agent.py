"""The agent's own certificate: got once with a join token, then renewed with itself; its key never leaves the node."""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import NoReturn

from meshapi.spiffe import AgentIdentity
from nodeagent.identity.authority import Authority, AuthorityError
from nodeagent.identity.certificate import CertificateError, Issued, check_issued, check_kept, new_key, parse_chain, request_pem
from nodeagent.identity.clock import Clock
from nodeagent.identity.schedule import IdentityState, Schedule
from nodeagent.identity.store import IdentityStore, StoredIdentity
from nodeagent.identity.trust import Trust

log = logging.getLogger(__name__)


class AgentCredential:
    """`joining` signs for the bearer of the join token, `renewing` for the holder of the certificate held here."""

    def __init__(
        self,
        identity: AgentIdentity,
        store: IdentityStore,
        trust: Trust,
        *,
        joining: Authority,
        renewing: Authority,
        on_rotated: Callable[[], None],
        clock: Clock = Clock(),  # noqa: B008 - immutable
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._identity = str(identity)
        self._store = store
        self._trust = trust
        self._joining = joining
        self._renewing = renewing
        self._on_rotated = on_rotated
        self._clock = clock
        self._schedule = Schedule(chance=chance)
        self._schedule.want([self._identity])
        self._present = asyncio.Event()

    def current(self) -> Issued:
        """The certificate held; raises ValueError while there is none."""
        issued = self._schedule.issued(self._identity)
        if issued is None:
            raise ValueError(f"the agent has no certificate yet: {self.state().error or 'it has not joined'}")
        return issued

    def state(self) -> IdentityState:
        return self._schedule.states(self._clock.wall_s())[0]

    async def wait(self) -> None:
        """Returns when there is a certificate."""
        await self._present.wait()

    async def run(self) -> NoReturn:
        """Joins if need be, and renews until it is cancelled."""
        record = await self._load()
        while True:
            if record is not None and self._schedule.issued(self._identity) is None:
                self._use_kept(record)
            wall_s, now_s = self._clock.wall_s(), self._clock.now_s()
            if self._schedule.start(wall_s, now_s, 1):
                await self._obtain()
            else:
                await asyncio.sleep(self._schedule.wait_s(wall_s, now_s))

    async def _load(self) -> StoredIdentity | None:
        records = await asyncio.to_thread(lambda: list(self._store.load()))
        return next((record for record in records if record.identity == self._identity), None)

    def _use_kept(self, record: StoredIdentity) -> None:
        """Looked at again until there is a certificate: a clock may be wrong when a node boots, and the join token is spent."""
        try:
            issued = check_kept(self._identity, record.chain_pem, record.key_pem, self._trust.roots, self._clock.wall_s())
        except CertificateError as error:
            log.debug("the kept certificate of the agent is not used: %s", error)
        else:
            self._use(issued)

    async def _obtain(self) -> None:
        held = self._schedule.issued(self._identity)
        usable = held is not None and self._clock.wall_s() < held.not_after_s
        try:
            issued = await self._ask(self._renewing if usable else self._joining)
            # Before use: the join token is spent, so a certificate that a crash loses can't be had again.
            await self._save(issued)
        except (AuthorityError, CertificateError, OSError) as error:
            if self._schedule.failed(self._identity, str(error), self._clock.now_s()):
                log.warning("no certificate for the agent (%s): %s", "renewal" if usable else "joining", error)
        else:
            self._use(issued)
            self._schedule.pause(self._identity, self._clock.now_s())
            log.info("the agent is %s, serial %x, until %.0f", self._identity, issued.serial, issued.not_after_s)

    async def _ask(self, authority: Authority) -> Issued:
        key = new_key()
        chain = parse_chain(await authority.sign(request_pem(key, self._identity)))
        return check_issued(self._identity, chain, key, self._trust.roots, self._clock.wall_s())

    async def _save(self, issued: Issued) -> None:
        record = StoredIdentity(issued.identity, issued.chain_pem, issued.key_pem)
        await asyncio.to_thread(self._store.save, record)

    def _use(self, issued: Issued) -> None:
        self._schedule.succeeded(issued)
        self._present.set()
        self._on_rotated()
