"""What the connected Envoys are served: one view for all that are the same, kept up with the mesh."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address

from control.ca.former_roots import FormerRoots
from control.ca.revocations import Revocations
from control.envoy.built import SERVED
from control.envoy.patches.trials import Trial, Trials
from control.envoy.proxies import ProxyKey, find_proxy
from control.envoy.view import ProxyView
from control.envoy.world import Distrusted, World
from control.kinds import ObjectKey
from control.kinds.metadata import BRINGING
from control.model.mesh import Batch, Mesh
from control.resources import Changes
from control.xds.refusals import MAX_TEXT, Verdict
from control.xds.secrets import Name as SecretName
from control.xds.secrets import SecretView, Stores
from meshapi import discovery

MAX_ADDRESSES = 8
MAX_VERSIONS = 8
"""Of a resource, that an Envoy may still be about to answer."""
Watcher = Callable[[Changes], None]
log = logging.getLogger(__name__)


class Proxies:
    """The views. Nothing is translated before the first Envoy asks."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.stores = Stores()
        """What gateways may be given of Secrets and ConfigMaps."""
        self._secret_views: set[SecretView] = set()
        self._world: World | None = None
        self._views: dict[tuple[ProxyKey, tuple[str, ...]], _Shared] = {}
        self._distrusted: Callable[[], Distrusted] = Distrusted
        self._problems_seen: dict[tuple[ProxyKey, tuple[str, ...]], int] = {}
        self._trials = Trials()
        self._told: dict[ObjectKey, tuple[str, ...]] = {}
        for key, record in mesh.records.items():
            if key.kind in BRINGING:
                self._trials.follow(key, record.object, running=False)
        mesh.watch_batches(self._follow)

    @property
    def world(self) -> World:
        if self._world is None:
            self._world = World(self.mesh)
            self._world.distrust(self._distrusted())
            self._world.stand_in(self._trials.stand_ins)
        return self._world

    def join(self, key: ProxyKey, listen: tuple[str, ...], watcher: Watcher) -> ProxyView:
        """The view of a proxy that listens at these addresses; `watcher` is told of changes until `leave`."""
        shared = self._views.get((key, listen))
        if shared is None:
            view = ProxyView(self.world, key, listen)
            shared = self._views[(key, listen)] = _Shared(view)
            self._note(shared, {type_url: tuple(view.names(type_url)) for type_url in SERVED})
            # Ahead of who sends it: what is answered has been noted.
            view.watch(lambda changes: self._note(shared, changes))
        shared.watchers[watcher] = shared.view.watch(watcher)
        self._tell_problems()
        return shared.view

    def leave(self, view: ProxyView, watcher: Watcher) -> None:
        """Undoes `join`."""
        name = (view.key, view.listen)
        shared = self._views[name]
        shared.watchers.pop(watcher)()
        if not shared.watchers:
            del self._views[name]
            view.close()
            self._tell_problems()

    def join_secrets(self, key: ProxyKey, watcher: Watcher) -> SecretView:
        """The secrets of a proxy; `watcher` is told of changes until `leave_secrets`."""
        view = SecretView(self.world, self.stores, key)
        view.watch(watcher)
        self._secret_views.add(view)
        return view

    def leave_secrets(self, view: SecretView) -> None:
        """Undoes `join_secrets`."""
        self._secret_views.discard(view)
        view.close()

    def wanted_secrets(self, *, config_maps: bool = False) -> frozenset[SecretName]:
        """The Secrets, or the ConfigMaps, that the connected gateways need."""
        wanted = (one for view in self._secret_views for one in view.wanted)
        return frozenset((one.namespace, one.name) for one in wanted if one.config_map == config_maps)

    def exists(self, key: ProxyKey) -> bool:
        """Whether there is such a proxy."""
        return self.world.ask(find_proxy, key) is not None

    @contextmanager
    def served(self, key: ProxyKey) -> Iterator[ProxyView]:
        """What a proxy is served, or would be if one were connected; for the operator."""
        connected = next((shared.view for (one, _), shared in self._views.items() if one == key), None)
        if connected is not None:
            yield connected
            return
        view = ProxyView(self.world, key)
        try:
            yield view
        finally:
            view.close()

    def refused(self, told: Iterable[tuple[ObjectKey, str]]) -> None:
        """What all connected Envoys refuse now; said again by several, it is said once."""
        by_object: dict[ObjectKey, dict[str, None]] = {}
        for key, words in told:
            by_object.setdefault(key, {})[words] = None
        self._told = {key: tuple(sorted(words)) for key, words in by_object.items()}
        self._tell_refusals()

    def judge(self, view: ProxyView, verdicts: Iterable[Verdict]) -> None:
        """Hears what an Envoy says to the resources of its view, and takes out again what it refuses of those who brought it."""
        namespaces = len({key.namespace for key, _ in self._views})
        changed, shapes = False, self._views[(view.key, view.listen)].shapes
        for one in verdicts:
            forms = shapes.get((one.type_url, one.name), {}).get(one.version)
            if forms is None:
                continue
            place = (view.key, one.type_url, one.name)
            if one.refused is None:
                changed |= self._trials.took(place, forms)
            else:
                changed |= self._trials.refuse(place, forms, one.refused[:MAX_TEXT], namespaces)
        if changed:
            self.world.stand_in(self._trials.stand_ins)
            self._refresh()
            self._tell_refusals()

    def _note(self, shared: "_Shared", changes: Changes) -> None:
        """Keeps what shaped the last versions of resources, for when an Envoy has made up its mind about one."""
        for type_url, names in changes.items():
            for name in names:
                resource, sources = shared.view.get(type_url, name), shared.view.sources(type_url, name)
                versions = shared.shapes.get((type_url, name), {})
                if resource is None:
                    shared.shapes.pop((type_url, name), None)
                elif versions or any(key.kind in BRINGING for key in sources):
                    versions[resource.version] = self._trials.forms(sources)
                    for former in list(versions)[:-MAX_VERSIONS]:
                        del versions[former]
                    shared.shapes[(type_url, name)] = versions

    def _tell_refusals(self) -> None:
        own = {key: (words,) for key, words in self._trials.refused.items()}
        self.mesh.take_refusals({key: own.get(key) or self._told[key] for key in own | self._told})

    def follow_trust(self, revocations: Revocations, former_roots: FormerRoots) -> None:
        """What is trusted there no more is so by every Envoy, too."""
        self._distrusted = lambda: Distrusted(revocations.of_workloads(), former_roots.all())
        revocations.on_change(self._trust_changed)
        former_roots.on_change(self._trust_changed)

    def _trust_changed(self) -> None:
        if self._world is not None:
            self._world.distrust(self._distrusted())
            self._refresh()

    def _follow(self, batch: Batch) -> None:
        for key in batch.objects:
            if key.kind in BRINGING:
                self._trials.follow(key, self.mesh.store.get(key), running=self.mesh.running)
        if self._world is not None:
            self._world.stand_in(self._trials.stand_ins)
            self._world.apply(batch)
            self._refresh()
            self._tell_refusals()

    def _refresh(self) -> None:
        for secrets in tuple(self._secret_views):
            secrets.refresh()
        for shared in tuple(self._views.values()):
            shared.view.refresh()
        self._tell_problems()

    def _tell_problems(self) -> None:
        """Tells the mesh what objects ask for in vain, where that has changed."""
        seen = {name: shared.view.problem_changes for name, shared in self._views.items()}
        if seen == self._problems_seen:
            return
        self._problems_seen = seen
        found: dict[ObjectKey, dict[str, None]] = {}
        for (proxy, _), shared in self._views.items():
            for problem in shared.view.problems:
                found.setdefault(problem.object, {})[f"at {proxy}: {problem.what}"] = None
        self.mesh.take_problems({key: tuple(texts) for key, texts in found.items()})


class _Shared:
    def __init__(self, view: ProxyView) -> None:
        self.view = view
        self.watchers: dict[Watcher, Callable[[], None]] = {}
        self.shapes: dict[tuple[str, str], dict[str, Mapping[ObjectKey, Trial]]] = {}
        """Of resources that bear Envoy's own configuration, by type and name: which objects in which form made each version."""


def listening(node: discovery.Node) -> tuple[str, ...]:
    """The addresses that an Envoy says it has; what is none is left out. They decide where it listens itself, and nothing else."""
    found: list[str] = []
    for text in node.metadata.get("INSTANCE_IPS", "").split(",")[:MAX_ADDRESSES]:
        try:
            found.append(str(ip_address(text.strip())))
        except ValueError:
            continue
    return tuple(dict.fromkeys(found))
