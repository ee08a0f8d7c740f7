"""The authority in force: loaded from its directory, reloaded when the files change, and kept as it is when the new ones are bad."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from control.ca.issuer import FILES, Issuer, IssuerError, load_issuer
from control.ca.own_intermediate import issuer_below, should_renew, why_none_below
from control.ca.own_root import RENEW_INTERMEDIATE_BEFORE, ensure_own_authority

POLL_S = 1.0
RENEWAL_RETRY_S = 3600.0
log = logging.getLogger(__name__)
Clock = Callable[[], float]
"""Unix seconds."""


class Authority:
    """Holds the issuer in force. With `own`, the directory's hierarchy is made and renewed here; else an operator provides it.

    What an operator gives is signed with below an intermediate in memory, or directly where its certificates allow no such.
    """

    def __init__(self, directory: Path, *, trust_domain: str, own: bool, clock: Clock) -> None:
        """Loads the files; raises IssuerError (or OSError) where there is nothing good to start with."""
        self._directory = directory
        self._trust_domain = trust_domain
        self._own = own
        self._clock = clock
        self._turn = asyncio.Lock()
        self._watchers: list[Callable[[], None]] = []
        self.reload_error: str | None = None
        """Why the files on disk are not in force, None if they are."""
        self.direct_because = ""
        """Why workloads' certificates are signed with the very key that an operator gave; empty if they are not."""
        self._renewal_tried_s = clock()
        if own:
            ensure_own_authority(directory, trust_domain, clock())
        self._seen = self._fingerprint()
        self._given = load_issuer(directory, clock())
        self._issuer = self._signing_with(self._given)

    @property
    def issuer(self) -> Issuer:
        return self._issuer

    def on_change(self, watcher: Callable[[], None]) -> None:
        """Calls `watcher` (in the event loop's thread) after each change of the issuer or the roots."""
        self._watchers.append(watcher)

    async def watch(self) -> None:
        """Follows the files until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            await self.refresh()

    async def refresh(self) -> bool:
        """Looks at the files once; whether the issuer was replaced."""
        async with self._turn:
            replaced = await asyncio.to_thread(self._refresh)
        if replaced:
            for watcher in self._watchers:
                watcher()
        return replaced

    def _refresh(self) -> bool:
        try:
            if self._renewal_is_due():
                self._renewal_tried_s = self._clock()
                ensure_own_authority(self._directory, self._trust_domain, self._clock())
            seen = self._fingerprint()
            if seen == self._seen and not self._intermediate_is_due():
                return False
            given = load_issuer(self._directory, self._clock())
            issuer = self._signing_with(given)
        except (IssuerError, OSError) as error:
            self._keep(str(error))
            return False
        # Only now: what failed for a reason outside of the files (no free descriptor, a clock that is behind) is tried again.
        self._seen = seen
        self.reload_error = None
        if issuer.roots_pem != self._issuer.roots_pem or issuer.certificate != self._issuer.certificate:
            log.info("certificate authority reloaded from %s: %d roots", self._directory, len(issuer.roots))
        self._given, self._issuer = given, issuer
        return True

    def _signing_with(self, given: Issuer) -> Issuer:
        if self._own:
            return given
        self.direct_because = why_none_below(given)
        if self.direct_because:
            log.warning("certificates are signed directly with the key in %s: %s", self._directory, self.direct_because)
            return given
        return issuer_below(given, self._trust_domain, self._clock())

    def _intermediate_is_due(self) -> bool:
        return self._issuer is not self._given and should_renew(self._issuer, self._given, self._clock())

    def _renewal_is_due(self) -> bool:
        now_s = self._clock()
        left_s = self._issuer.certificate.not_valid_after_utc.timestamp() - now_s
        # Not each second: where the files are broken, each try would write a new pair.
        tried = 0 <= now_s - self._renewal_tried_s < RENEWAL_RETRY_S
        return self._own and left_s <= RENEW_INTERMEDIATE_BEFORE.total_seconds() and not tried

    def _keep(self, why: str) -> None:
        if why != self.reload_error:
            log.error("the files in %s are not usable, the authority in force stays: %s", self._directory, why)
        self.reload_error = why

    def _fingerprint(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stat(self._directory / name) for name in FILES)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
