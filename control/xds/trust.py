"""The trust bundle (roots and revocations) as a resource, so that a change of either reaches every agent at once."""

import hashlib
from collections.abc import Callable, Collection

from control.ca.authority import Authority
from control.ca.revocations import Revocations
from control.resources import Changes, Resource, TypeURL
from meshapi import wire
from meshapi.trust import TrustBundle, encode_trust

TRUST = TypeURL(wire.TRUST_TYPE)


class TrustView:
    """A ResourceView of one resource, named by the trust domain."""

    def __init__(self, authority: Authority, revocations: Revocations, trust_domain: str) -> None:
        self._authority = authority
        self._revocations = revocations
        self._trust_domain = trust_domain
        self._watchers: list[Callable[[Changes], None]] = []
        self._resource = self._build()
        authority.on_change(self._rebuild)
        revocations.on_change(self._rebuild)

    def names(self, type_url: TypeURL) -> Collection[str]:
        return (self._trust_domain,) if type_url == TRUST else ()

    def get(self, type_url: TypeURL, name: str) -> Resource | None:
        return self._resource if name in self.names(type_url) else None

    def resolve(self, type_url: TypeURL, key: str) -> Collection[str]:
        return (key,) if key in self.names(type_url) else ()

    def members(self, type_url: TypeURL, name: str) -> Collection[str]:  # noqa: ARG002 -- the interface's
        return ()

    def watch(self, on_change: Callable[[Changes], None]) -> Callable[[], None]:
        self._watchers.append(on_change)
        return lambda: self._watchers.remove(on_change)

    def _build(self) -> Resource:
        bundle = TrustBundle(self._trust_domain, self._authority.issuer.roots_der, self._revocations.of_workloads())
        body = encode_trust(bundle)
        return Resource(self._trust_domain, hashlib.blake2b(body, digest_size=8).hexdigest(), body)

    def _rebuild(self) -> None:
        resource = self._build()
        if resource.version == self._resource.version:
            return
        self._resource = resource
        for watcher in tuple(self._watchers):
            watcher({TRUST: (self._trust_domain,)})
