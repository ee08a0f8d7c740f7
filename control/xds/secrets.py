"""Secrets for gateways: what is held of them, and the view of one gateway, which has those that its servers name and no others.

Roots of clients may be in ConfigMaps, too, which are held likewise.
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping

from control.envoy.built import SECRET
from control.envoy.credentials import Credential, CredentialError, Data, needed, secret
from control.envoy.proxies import ProxyKey
from control.envoy.secrets import secrets_of
from control.envoy.world import World
from control.resources import Changes, Resource, TypeURL

Name = tuple[str, str]
"""Namespace and name."""
log = logging.getLogger(__name__)


class SecretStore:
    """What is known of Secrets, or of ConfigMaps; never shown to anybody but to the views."""

    def __init__(self) -> None:
        self._held: dict[Name, Data] = {}
        self._complaints: Mapping[Name, str] = {}
        self._watchers: list[Callable[[Collection[Name]], None]] = []

    def __repr__(self) -> str:
        return f"SecretStore({len(self._held)} secrets)"

    def look(self, namespace: str, name: str) -> Data | None:
        """What a Secret holds."""
        return self._held.get((namespace, name))

    def complain(self, complaints: Mapping[Name, str]) -> None:
        """Why some can't be read: these, and no others."""
        self._complaints = complaints

    def complaint(self, namespace: str, name: str) -> str:
        """Why a Secret can't be read; empty for one that can, or is not there."""
        return self._complaints.get((namespace, name), "")

    def put(self, changed: Mapping[Name, Data | None]) -> None:
        """Takes Secrets that are new, changed or gone (None)."""
        for name, data in changed.items():
            if data is None:
                self._held.pop(name, None)
            else:
                self._held[name] = dict(data)
        for watcher in tuple(self._watchers):
            watcher(changed.keys())

    def watch(self, watcher: Callable[[Collection[Name]], None]) -> Callable[[], None]:
        """Calls `watcher` with the names of what changed; returns what ends it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher) if watcher in self._watchers else None


class Stores:
    """Both of them."""

    def __init__(self) -> None:
        self.secrets = SecretStore()
        self.config_maps = SecretStore()

    def of(self, credential: Credential) -> SecretStore:
        """Where it would be."""
        return self.config_maps if credential.config_map else self.secrets

    def look(self, credential: Credential) -> Data | None:
        """What it holds."""
        return self.of(credential).look(credential.namespace, credential.name)


class SecretView:
    """A ResourceView for one gateway. What can't be used is kept as it was, so that a bad renewal drops nobody, and is told in `failed`."""

    def __init__(self, world: World, stores: Stores, proxy: ProxyKey) -> None:
        self._world = world
        self._stores = stores
        self._proxy = proxy
        self._made: dict[str, Resource] = {}
        self._watchers: list[Callable[[Changes], None]] = []
        self.failed: dict[str, str] = {}
        """Why a secret can't be used, by its name."""
        world.hold(secrets_of, proxy)
        self._allowed: frozenset[str] = frozenset()
        self._unwatch = (stores.secrets.watch(self._changed), stores.config_maps.watch(self._changed))
        self.refresh()

    @property
    def problems(self) -> dict[str, str]:
        """What the gateway has not, or not as it is now, by its name in SDS."""
        missing = (name for name in self._allowed if name not in self._made)
        return {name: self._why_missing(name) for name in sorted(missing)} | self.failed

    def _why_missing(self, name: str) -> str:
        found = (self._stores.of(one).complaint(one.namespace, one.name) for one in needed(name))
        return next((f"can't be read: {why}" for why in found if why), "is not there")

    @property
    def wanted(self) -> frozenset[Credential]:
        """The Secrets and ConfigMaps that may hold what the gateway needs."""
        return frozenset(one for name in self._allowed for one in needed(name))

    def close(self) -> None:
        """Keeps nothing any more."""
        for unwatch in self._unwatch:
            unwatch()
        self._world.release(secrets_of, self._proxy)
        self._made.clear()

    def refresh(self) -> None:
        """The mesh may have changed: which secrets the gateway needs."""
        try:
            now = self._world.ask(secrets_of, self._proxy)
        except Exception:
            # What it had is better than nothing, and others are not to suffer.
            log.exception("which secrets gateway %s needs could not be told", self._proxy)
            return
        differing = now ^ self._allowed
        self._allowed = now
        self._tell([name for name in sorted(differing) if self._make(name)])

    def _changed(self, names: Collection[Name]) -> None:
        concerned = [name for name in sorted(self._allowed) if any((one.namespace, one.name) in names for one in needed(name))]
        self._tell([name for name in concerned if self._make(name)])

    def _make(self, name: str) -> bool:
        """Whether what is served of a name is another one now."""
        before = self._made.get(name)
        self.failed.pop(name, None)
        if name not in self._allowed:
            return self._made.pop(name, None) is not None
        try:
            message = secret(name, self._stores.look)
        except CredentialError as error:
            self.failed[name] = str(error)
            log.warning("the secret %s of gateway %s can't be used: it %s", name, self._proxy, error)
            return False
        if message is None:
            return self._made.pop(name, None) is not None
        body = bytes(message.SerializeToString(deterministic=True))
        self._made[name] = Resource(name, hashlib.blake2b(body, digest_size=8).hexdigest(), body)
        return before is None or before.version != self._made[name].version

    def _tell(self, names: list[str]) -> None:
        for watcher in tuple(self._watchers) if names else ():
            watcher({SECRET: names})

    # ---- ResourceView

    def names(self, type_url: TypeURL) -> Collection[str]:
        """Every secret that is there."""
        return self._made.keys() if type_url == SECRET else ()

    def get(self, type_url: TypeURL, name: str) -> Resource | None:
        """A secret by its name."""
        return self._made.get(name) if type_url == SECRET else None

    def resolve(self, type_url: TypeURL, key: str) -> Collection[str]:
        """By name alone."""
        return (key,) if self.get(type_url, key) is not None else ()

    def members(self, type_url: TypeURL, name: str) -> Collection[str]:  # noqa: ARG002 -- the interface's
        """Nothing comes with another."""
        return ()

    def watch(self, on_change: Callable[[Changes], None]) -> Callable[[], None]:
        """Calls `on_change` after each change; returns what ends it."""
        self._watchers.append(on_change)
        return lambda: self._watchers.remove(on_change) if on_change in self._watchers else None
