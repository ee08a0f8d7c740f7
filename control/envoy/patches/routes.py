"""Patches of tables of routes: of the whole table, its virtual hosts, and their routes."""

from msgspec import Struct, field, structs

from control.envoy.built import Built, built
from control.envoy.messages import Message, message_class
from control.envoy.patches.allowed import PatchError
from control.envoy.patches.applied import Applied
from control.envoy.patches.holding import Bound, patches_at
from control.envoy.patches.merging import merge, unnamed
from control.envoy.patches.reading import ReadPatch
from control.envoy.patches.spot import Spot
from control.envoy.world import World
from control.kinds.envoy_filter import ApplyTo, NamedMatch, Operation, RouteAction, RouteMatch

_TABLE = "envoy.config.route.v3.RouteConfiguration"
_ACTIONS = {"route": RouteAction.ROUTE, "redirect": RouteAction.REDIRECT, "direct_response": RouteAction.DIRECT_RESPONSE}
_DEFAULT = "default"
"""What Istio calls a route that no rule named."""


class TableNames(Struct, frozen=True):
    """By what a table of routes is known, beside its own name: at gateways the ports and Gateways that it is of."""

    port_names: tuple[str, ...] = ()
    gateways: tuple[str, ...] = field(default_factory=tuple)


def patched_routes(world: World, spot: Spot | None, routes: Built, names: TableNames | None = None) -> Built:
    """The table with its patches; without any it is the same."""
    kinds = (ApplyTo.ROUTE_CONFIGURATION, ApplyTo.VIRTUAL_HOST, ApplyTo.HTTP_ROUTE)
    held = patches_at(world, spot, *kinds) if spot is not None else ()
    if spot is None or not held:
        return routes
    table = _Table(message_class(_TABLE).FromString(routes.resource.body), spot, names or TableNames(), world.settings.root_namespace)
    for bound in held:
        table.merge(bound)
    # As Istio has it: what is there is changed before anything is added.
    for adding in (False, True):
        for bound in held:
            table.apply(bound, adding=adding)
    sources, problems = (*routes.sources, *table.applied.sources), (*routes.problems, *table.applied.problems)
    if not table.applied.sources:
        return structs.replace(routes, problems=tuple(dict.fromkeys(problems)))
    return built(routes.resource.name, table.message, sources, problems)


class _Table:
    def __init__(self, message: Message, spot: Spot, names: TableNames, root_namespace: str) -> None:
        self.message = message
        self.applied = Applied(root_namespace)
        self._spot = spot
        self._names = names

    def merge(self, bound: Bound) -> None:
        """Into the table itself."""
        if bound.patch.apply_to is ApplyTo.ROUTE_CONFIGURATION and self._matches(bound.patch):
            try:
                merge(self.message, unnamed(bound.patch.message))
                self.applied.did(bound)
            except PatchError as error:
                self.applied.refused(bound, error)

    def apply(self, bound: Bound, *, adding: bool) -> None:
        """To virtual hosts and routes: what changes them, or what adds some."""
        patch = bound.patch
        adds = patch.operation not in {Operation.MERGE, Operation.REMOVE, Operation.REPLACE}
        if patch.apply_to is ApplyTo.ROUTE_CONFIGURATION or adds is not adding or not self._matches(patch):
            return
        try:
            done = self._host(patch) if patch.apply_to is ApplyTo.VIRTUAL_HOST else self._routes(patch)
        except PatchError as error:
            self.applied.refused(bound, error)
        else:
            if done:
                self.applied.did(bound)

    # ---- virtual hosts

    def _host(self, patch: ReadPatch) -> bool:
        if patch.operation is Operation.ADD:
            self._check_domains(patch.message)
            self.message.virtual_hosts.append(patch.message)
            return True
        found = [one for one in self.message.virtual_hosts if self._is_host(patch, one)]
        for one in found:
            if patch.operation is Operation.MERGE:
                merge(one, patch.message)
            elif patch.operation is Operation.REPLACE:
                one.CopyFrom(patch.message)
            else:
                self.message.virtual_hosts.remove(one)
        self._check_domains()
        return bool(found)

    def _check_domains(self, added: Message | None = None) -> None:
        hosts = [*self.message.virtual_hosts, *((added,) if added is not None else ())]
        domains = [domain for one in hosts for domain in one.domains]
        if twice := sorted({one for one in domains if domains.count(one) > 1}):
            raise PatchError(f"another virtual host is for {', '.join(twice)[:200]} already")

    def _is_host(self, patch: ReadPatch, host: Message) -> bool:
        match = patch.match.route_configuration
        if match is None:
            return True
        known = {"", host.name, f"{host.name}:{self._spot.port}", f"inbound|http|{self._spot.port}"}
        return match.vhost.name in known and match.vhost.domain_name in {"", *host.domains}

    # ---- routes

    def _routes(self, patch: ReadPatch) -> bool:
        found = [one for one in self.message.virtual_hosts if self._is_host(patch, one)]
        # Each of them, whatever becomes of the first.
        done = [_changed(one, patch) for one in found]
        return any(done)

    def _matches(self, patch: ReadPatch) -> bool:
        if patch.match.waypoint is not None:
            return patch.match.waypoint.port_number in {0, self._spot.port}
        match = patch.match.route_configuration
        return match is None or (
            match.name in {"", self.message.name}
            and match.port_number in {0, self._spot.port}
            and match.port_name in {"", *self._names.port_names}
            and match.gateway in {"", *self._names.gateways}
        )


def _changed(host: Message, patch: ReadPatch) -> bool:
    """Whether a patch of routes had a say in a virtual host."""
    wanted = _route_match(patch)
    places = [at for at, one in enumerate(host.routes) if wanted is None or _is_route(wanted, one)]
    match patch.operation:
        case Operation.MERGE:
            for at in places:
                merge(host.routes[at], patch.message)
            return bool(places)
        case Operation.REMOVE:
            for at in reversed(places):
                del host.routes[at]
            return bool(places)
    place = _position(patch.operation, len(host.routes), places, named=wanted is not None)
    if place is not None:
        host.routes.insert(place, patch.message)
    return place is not None


def _position(operation: Operation, count: int, places: list[int], *, named: bool) -> int | None:
    """Where a route is put; None where the one that it is to stand beside is not there."""
    if operation is Operation.ADD:
        return count
    if named and not places:
        return None
    if operation is Operation.INSERT_AFTER:
        return places[0] + 1 if named else count
    return places[0] if named and operation is Operation.INSERT_BEFORE else 0


def _route_match(patch: ReadPatch) -> RouteMatch | NamedMatch | None:
    if patch.match.waypoint is not None:
        return patch.match.waypoint.route
    return patch.match.route_configuration.vhost.route if patch.match.route_configuration is not None else None


def _is_route(match: RouteMatch | NamedMatch, route: Message) -> bool:
    if match.name not in {"", route.name or _DEFAULT}:
        return False
    action = match.action if isinstance(match, RouteMatch) else RouteAction.ANY
    return action is RouteAction.ANY or _ACTIONS.get(route.WhichOneof("action")) is action
