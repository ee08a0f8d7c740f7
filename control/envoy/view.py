"""What one Envoy is served, as a view of resources that follows the mesh."""

import gc
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from control.envoy.built import CLUSTER, SERVED, Built, Problem, Recipe
from control.envoy.gateway import gateway_recipes
from control.envoy.incremental import Held
from control.envoy.patches.called import called_clusters
from control.envoy.patches.clusters import added_clusters
from control.envoy.proxies import Proxy, ProxyKey, ProxyKind, find_proxy
from control.envoy.wasm.plugins import module_servers
from control.envoy.waypoint import waypoint_recipes
from control.envoy.world import World
from control.kinds import ObjectKey
from control.resources import Changes, Resource, TypeURL

Name = tuple[TypeURL, str]
MAX_TEXT = 300
_LIST: Name = (TypeURL("nodemesh.List"), "of resources")
log = logging.getLogger(__name__)


def recipes(world: World, key: ProxyKey, listen: tuple[str, ...]) -> tuple[Recipe, ...]:
    """All resources of a proxy; none if there is no such proxy (any more)."""
    proxy = world.ask(find_proxy, key)
    match proxy:
        case Proxy(kind=ProxyKind.WAYPOINT):
            found = waypoint_recipes(world, key, listen)
        case Proxy(kind=ProxyKind.GATEWAY):
            found = gateway_recipes(world, key, listen)
        case _:
            return ()
    taken = {one.name for one in found if one.type_url == CLUSTER}
    more = (*world.ask(added_clusters, key), *world.ask(called_clusters, key), *world.ask(module_servers, key))
    return (*found, *(one for one in more if one.name not in taken))


@contextmanager
def _collecting_later() -> Iterator[None]:
    """What is built is kept: to look through it for garbage while it grows takes longer than to build it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Look:
    """An answer that a view keeps, and which one it has seen. Views share answers: one that is fresh may be news to this view."""

    __slots__ = ("_held", "_seen")

    def __init__(self, held: Held) -> None:
        self._held = held
        self._seen = 0

    @property
    def news(self) -> bool:
        """Whether there may be another answer than the one that was seen."""
        return not self._held.fresh or self._held.changed != self._seen

    def see(self) -> None:
        """The answer that there is now."""
        self._seen = self._held.changed


class ProxyView:
    """A ResourceView for one proxy. `refresh` after each change of the world; then watchers are told what really changed.

    `listen`: the addresses that the Envoy has, at which it takes tunnels; none = all.
    """

    def __init__(self, world: World, key: ProxyKey, listen: tuple[str, ...] = ()) -> None:
        self.key = key
        self.listen = listen
        self._world = world
        self._recipes: dict[Name, Recipe] = {}
        self._looks: dict[Name, _Look] = {}
        self._built: dict[TypeURL, dict[str, Built]] = {type_url: {} for type_url in SERVED}
        self._watchers: list[Callable[[Changes], None]] = []
        self.failed: dict[Name, str] = {}
        """What could not be translated, an error of ours; what was there before stays."""
        self.problem_changes = 0
        """How often `problems` changed."""
        self._list = _Look(world.hold(recipes, key, listen))
        self.refresh()

    def refresh(self) -> None:
        """Brings what is served up to the world."""
        with _collecting_later():
            self._refresh()

    def _refresh(self) -> None:
        changes: dict[TypeURL, set[str]] = {type_url: set() for type_url in SERVED}
        self._follow_recipes(changes)
        for name, look in self._looks.items():
            if look.news:
                self._rebuild(name, changes)
        told = {type_url: tuple(sorted(names)) for type_url, names in changes.items() if names}
        if told:
            for watcher in tuple(self._watchers):
                watcher(told)

    def close(self) -> None:
        """Keeps nothing any more."""
        for recipe in self._recipes.values():
            self._world.release(recipe.translator, *recipe.args)
        self._recipes.clear()
        self._looks.clear()
        self._world.release(recipes, self.key, self.listen)

    def sources(self, type_url: TypeURL, name: str) -> tuple[ObjectKey, ...]:
        """The objects that shaped a resource."""
        found = self._built.get(type_url, {}).get(name)
        return found.sources if found is not None else ()

    @property
    def problems(self) -> Iterator[Problem]:
        """What objects ask for in vain, as far as what is served shows it."""
        return (problem for found in self._built.values() for one in found.values() for problem in one.problems)

    # ---- ResourceView

    def names(self, type_url: TypeURL) -> Collection[str]:
        """Every resource of a type."""
        return self._built.get(type_url, {}).keys()

    def get(self, type_url: TypeURL, name: str) -> Resource | None:
        """A resource by its name."""
        found = self._built.get(type_url, {}).get(name)
        return found.resource if found is not None else None

    def resolve(self, type_url: TypeURL, key: str) -> Collection[str]:
        """Envoys ask by name alone."""
        return (key,) if self.get(type_url, key) is not None else ()

    def members(self, type_url: TypeURL, name: str) -> Collection[str]:  # noqa: ARG002 -- the interface's
        """Nothing comes with another."""
        return ()

    def watch(self, on_change: Callable[[Changes], None]) -> Callable[[], None]:
        """Calls `on_change` after each refresh that changed something; returns what ends it."""

        def call(changes: Changes) -> None:
            on_change(changes)

        self._watchers.append(call)
        return lambda: self._watchers.remove(call) if call in self._watchers else None

    # ---- following

    def _follow_recipes(self, changes: Mapping[TypeURL, set[str]]) -> None:
        if not self._list.news:
            return
        try:
            now = {(one.type_url, one.name): one for one in self._world.ask(recipes, self.key, self.listen)}
        except Exception as error:
            # What was served before is better than nothing, and other proxies are not to suffer.
            log.exception("what proxy %s is to be served could not be listed", self.key)
            self.failed[_LIST] = f"{type(error).__name__}: {error}"[:MAX_TEXT]
            return
        self._list.see()
        self.failed.pop(_LIST, None)
        before, self._recipes = self._recipes, now
        for name, recipe in now.items():
            if before.get(name) != recipe:
                self._looks[name] = _Look(self._world.hold(recipe.translator, *recipe.args))
                self._rebuild(name, changes)
        for name, recipe in before.items():
            if now.get(name) != recipe:
                self._world.release(recipe.translator, *recipe.args)
            if name not in now:
                del self._looks[name]
                self.failed.pop(name, None)
                self._put(name, None, changes)

    def _rebuild(self, name: Name, changes: Mapping[TypeURL, set[str]]) -> None:
        recipe = self._recipes[name]
        try:
            made = self._world.ask(recipe.translator, *recipe.args)
        except Exception as error:
            # One resource that can't be made must not keep the others from their proxies.
            log.exception("the %s %s of proxy %s could not be made", recipe.type_url.rpartition(".")[2], recipe.name, self.key)
            self.failed[name] = f"{type(error).__name__}: {error}"[:MAX_TEXT]
            return
        self._looks[name].see()
        self.failed.pop(name, None)
        self._put(name, made, changes)

    def _put(self, name: Name, made: Built | None, changes: Mapping[TypeURL, set[str]]) -> None:
        kept, key = self._built[name[0]], name[1]
        before = kept.pop(key, None)
        self.problem_changes += (before.problems if before else ()) != (made.problems if made else ())
        if made is not None:
            kept[key] = made
        if (before.resource if before else None) != (made.resource if made else None):
            changes[name[0]].add(key)
