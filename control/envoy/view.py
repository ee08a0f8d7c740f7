"""What one Envoy is served, as a view of resources that follows the mesh."""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping

from control.envoy.built import CLUSTER, SERVED, Built, Problem, Recipe
from control.envoy.gateway import gateway_recipes
from control.envoy.patches.clusters import added_clusters
from control.envoy.proxies import Proxy, ProxyKey, ProxyKind, find_proxy
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
    return (*found, *(one for one in world.ask(added_clusters, key) if one.name not in taken))


class ProxyView:
    """A ResourceView for one proxy. `refresh` after each change of the world; then watchers are told what really changed.

    `listen`: the addresses that the Envoy has, at which it takes tunnels; none = all.
    """

    def __init__(self, world: World, key: ProxyKey, listen: tuple[str, ...] = ()) -> None:
        self.key = key
        self.listen = listen
        self._world = world
        self._listed: tuple[Recipe, ...] | None = None
        self._recipes: dict[Name, Recipe] = {}
        self._built: dict[TypeURL, dict[str, Built]] = {type_url: {} for type_url in SERVED}
        self._watchers: list[Callable[[Changes], None]] = []
        self.failed: dict[Name, str] = {}
        """What could not be translated, an error of ours; what was there before stays."""
        self.problem_changes = 0
        """How often `problems` changed."""
        world.hold(recipes, key, listen)
        self.refresh()

    def refresh(self) -> None:
        """Brings what is served up to the world."""
        changes: dict[TypeURL, set[str]] = {type_url: set() for type_url in SERVED}
        self._follow_recipes(changes)
        for name, recipe in self._recipes.items():
            self._rebuild(name, recipe, changes)
        told = {type_url: tuple(sorted(names)) for type_url, names in changes.items() if names}
        if told:
            for watcher in tuple(self._watchers):
                watcher(told)

    def close(self) -> None:
        """Keeps nothing any more."""
        for recipe in self._recipes.values():
            self._world.release(recipe.translator, *recipe.args)
        self._recipes.clear()
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
        try:
            listed = self._world.ask(recipes, self.key, self.listen)
        except Exception as error:
            # What was served before is better than nothing, and other proxies are not to suffer.
            log.exception("what proxy %s is to be served could not be listed", self.key)
            self.failed[_LIST] = f"{type(error).__name__}: {error}"[:MAX_TEXT]
            return
        self.failed.pop(_LIST, None)
        # An answer that did not change is the one that it was: whoever else may have asked meanwhile, that says whether there is news.
        if listed is self._listed:
            return
        self._listed = listed
        now = {(one.type_url, one.name): one for one in listed}
        for name, recipe in now.items():
            if self._recipes.get(name) != recipe:
                self._world.hold(recipe.translator, *recipe.args)
        for name, recipe in self._recipes.items():
            if now.get(name) != recipe:
                self._world.release(recipe.translator, *recipe.args)
            if name not in now:
                self.failed.pop(name, None)
                self._put(name, None, changes)
        self._recipes = now

    def _rebuild(self, name: Name, recipe: Recipe, changes: Mapping[TypeURL, set[str]]) -> None:
        try:
            made = self._world.ask(recipe.translator, *recipe.args)
        except Exception as error:
            # One resource that can't be made must not keep the others from their proxies.
            log.exception("the %s %s of proxy %s could not be made", recipe.type_url.rpartition(".")[2], recipe.name, self.key)
            self.failed[name] = f"{type(error).__name__}: {error}"[:MAX_TEXT]
            return
        if self.failed:
            self.failed.pop(name, None)
        if made is not self._built[name[0]].get(name[1]):
            self._put(name, made, changes)

    def _put(self, name: Name, made: Built | None, changes: Mapping[TypeURL, set[str]]) -> None:
        kept, key = self._built[name[0]], name[1]
        before = kept.pop(key, None)
        self.problem_changes += (before.problems if before else ()) != (made.problems if made else ())
        if made is not None:
            kept[key] = made
        if (before.resource if before else None) != (made.resource if made else None):
            changes[name[0]].add(key)
