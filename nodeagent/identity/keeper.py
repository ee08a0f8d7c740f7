"""Keeps a valid certificate for every identity that runs on this node: asks, checks, hands out, renews, keeps over restarts."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, NoReturn, Protocol

from meshapi.spiffe import IdentityError, WorkloadIdentity
from nodeagent.identity.authority import Authority, AuthorityError
from nodeagent.identity.certificate import CertificateError, Issued, check_issued, check_kept, new_key, parse_chain, request_pem
from nodeagent.identity.clock import Clock
from nodeagent.identity.schedule import IdentityState, Schedule
from nodeagent.identity.store import IdentityStore, StoredIdentity
from nodeagent.identity.trust import Trust

log = logging.getLogger(__name__)

CONCURRENCY: Final = 4


class OnCertificate(Protocol):
    def __call__(self, identity: str, chain_pem: str, key_pem: str) -> None:
        """A certificate is ready for use, in place of an earlier one."""


class IdentityKeeper:
    """The wanted identities and their certificates; all calls on the event loop."""

    def __init__(
        self,
        authority: Authority,
        store: IdentityStore,
        trust: Trust,
        *,
        on_certificate: OnCertificate,
        on_forgotten: Callable[[str], None],
        clock: Clock = Clock(),  # noqa: B008 - immutable
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._authority = authority
        self._store = store
        self._trust = trust
        self._on_certificate = on_certificate
        self._on_forgotten = on_forgotten
        self._clock = clock
        self._schedule = Schedule(chance=chance)
        self._kept: dict[str, StoredIdentity] = {}
        self._changed = asyncio.Event()
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="identity-store")
        trust.watch(lambda _roots, _revoked: self._trust_changed())

    async def load(self) -> None:
        """Reads what was kept, once, before the first `want`: a certificate still good is used at once when its identity is wanted."""
        for record in await asyncio.get_running_loop().run_in_executor(self._disk, lambda: list(self._store.load())):
            with suppress(IdentityError):  # other records than workloads' are another owner's
                self._kept[str(WorkloadIdentity.parse(record.identity))] = record

    def want(self, identities: Iterable[WorkloadIdentity]) -> None:
        """Sets which identities run here. What no longer does is forgotten, on disk too."""
        wanted = {str(identity) for identity in identities}
        gone = self._schedule.want(wanted)
        for identity in gone:
            self._kept.pop(identity, None)
            self._on_forgotten(identity)
            self._forget(identity)
        self._use_kept()
        self._changed.set()

    def drop_unwanted(self) -> None:
        """Forgets what was kept and nobody wants: called when the first whole set of workloads is known."""
        for identity in [identity for identity in self._kept if not self._schedule.wants(identity)]:
            del self._kept[identity]
            self._forget(identity)

    def retry_now(self) -> None:
        """Tries again at once what failed: the controller can be reached again."""
        self._schedule.retry_now()
        self._changed.set()

    def states(self) -> list[IdentityState]:
        return self._schedule.states(self._clock.wall_s())

    def issued(self, identity: WorkloadIdentity) -> Issued | None:
        """The certificate held, valid or not."""
        return self._schedule.issued(str(identity))

    async def run(self) -> NoReturn:
        """Serves until it is cancelled; writes to the store what is still to be written."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self._use_kept()
                    wall_s, now_s = self._clock.wall_s(), self._clock.now_s()
                    for identity in self._schedule.start(wall_s, now_s, CONCURRENCY):
                        tasks.create_task(self._obtain(identity), name=f"certificate of {identity}")
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._schedule.wait_s(wall_s, now_s)):
                            await self._changed.wait()
                    self._changed.clear()
        finally:
            self._disk.shutdown()
        raise AssertionError("only cancellation ends the loop")

    async def _obtain(self, identity: str) -> None:
        try:
            issued = await self._ask(identity)
        except (AuthorityError, CertificateError) as error:
            if self._schedule.failed(identity, str(error), self._clock.now_s()):
                log.warning("no certificate for %s: %s", identity, error)
        else:
            if self._schedule.wants(identity):
                self._use(issued)
                self._schedule.pause(identity, self._clock.now_s())
                self._on_disk(lambda: self._store.save(StoredIdentity(identity, issued.chain_pem, issued.key_pem)))
                log.info("certificate for %s, serial %x, until %.0f", identity, issued.serial, issued.not_after_s)
        self._changed.set()

    async def _ask(self, identity: str) -> Issued:
        key = new_key()
        chain = parse_chain(await self._authority.sign(request_pem(key, identity), on_behalf_of=identity))
        self._trust.add_chain_root(chain)
        issued = check_issued(identity, chain, key, self._trust.roots, self._clock.wall_s())
        if self._trust.is_revoked(identity, issued.not_before_s):
            raise CertificateError(f"{identity}: what came is revoked already")
        return issued

    def _use(self, issued: Issued) -> None:
        self._kept.pop(issued.identity, None)
        self._schedule.succeeded(issued)
        self._on_certificate(issued.identity, issued.chain_pem, issued.key_pem)

    def _use_kept(self) -> None:
        """Uses what was kept and is good: looked at again until something better comes, since a clock may be wrong when a node boots."""
        for record in [record for identity, record in self._kept.items() if self._schedule.wants(identity)]:
            try:
                issued = check_kept(record.identity, record.chain_pem, record.key_pem, self._trust.roots, self._clock.wall_s())
            except CertificateError as error:
                log.debug("the kept certificate is not used: %s", error)
                continue
            if not self._trust.is_revoked(issued.identity, issued.not_before_s):
                self._use(issued)

    def _trust_changed(self) -> None:
        """Looks at each certificate again: one that peers refuse now is asked for anew before any other renewal."""
        wall_s = self._clock.wall_s()
        for issued in self._schedule.held():
            self._schedule.refused_by_peers(issued.identity, refused=not self._is_accepted(issued, wall_s))
        self._changed.set()

    def _is_accepted(self, issued: Issued, wall_s: float) -> bool:
        if self._trust.is_revoked(issued.identity, issued.not_before_s):
            return False
        # An expired one is due for that reason already; at a moment within its time only the path is looked at.
        moment_s = min(max(wall_s, issued.not_before_s), issued.not_after_s)
        try:
            check_kept(issued.identity, issued.chain_pem, issued.key_pem, self._trust.roots, moment_s)
        except CertificateError:
            return False
        return True

    def _forget(self, identity: str) -> None:
        self._on_disk(lambda: self._store.forget(identity))

    def _on_disk(self, write: Callable[[], None]) -> None:
        def attempt() -> None:
            try:
                write()
            except OSError as error:
                # The agent serves on from memory; a restart without the controller would miss this one.
                log.warning("an identity could not be kept on disk: %s", error)

        self._disk.submit(attempt)
