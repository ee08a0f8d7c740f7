"""Routes and conditions of a VirtualService that no request comes to, since an earlier route takes all that they would."""

from collections.abc import Iterator, Mapping

from control.analysis.message import Level, Message, about
from control.envoy.world import World
from control.kinds import ObjectKey, VirtualService
from control.kinds.routing import HTTPMatch, StringMatch
from control.validation.routing_checks import catches_all

_TEXTS = ("scheme", "method", "authority")


def unreachable(world: World) -> Iterator[Message]:
    """Of each VirtualService; what follows a route that takes everything is said by its own checks."""
    for service in world.objects(VirtualService):
        yield from _of(service)


def _of(service: VirtualService) -> Iterator[Message]:
    earlier: list[tuple[str, HTTPMatch]] = []
    for index, route in enumerate(service.spec.http):
        covered = [(at, by) for at, match in enumerate(route.match) if (by := _by(match, earlier))]
        for at, by in covered if len(covered) < len(route.match) else ():
            yield _message(service.key, "IST0131", f"http[{index}].match[{at}] is never met: {by} takes all of it")
        if covered and len(covered) == len(route.match):
            yield _message(service.key, "IST0130", f"http[{index}] is never reached: {covered[0][1]} takes all that it would")
        if catches_all(route):
            return
        # A delegate may leave requests to the routes behind it.
        if route.delegate is None:
            earlier += [(f"http[{index}].match[{at}]", match) for at, match in enumerate(route.match)]


def _by(match: HTTPMatch, earlier: list[tuple[str, HTTPMatch]]) -> str:
    return next((name for name, one in earlier if covers(one, match)), "")


def covers(outer: HTTPMatch, inner: HTTPMatch) -> bool:
    """Whether all requests that meet `inner` meet `outer`, as far as that can be told from the words."""
    if not _path_covers(outer, inner) or not all(_text_covers(getattr(outer, name), getattr(inner, name)) for name in _TEXTS):
        return False
    if not all(_values_cover(getattr(outer, name), getattr(inner, name)) for name in ("headers", "query_params")):
        return False
    return (
        all(inner.without_headers.get(name) == value for name, value in outer.without_headers.items())
        and outer.source_labels.items() <= inner.source_labels.items()
        and outer.port in {0, inner.port}
        and outer.source_namespace in {"", inner.source_namespace}
        and (not outer.gateways or (bool(inner.gateways) and set(inner.gateways) <= set(outer.gateways)))
    )


def _path_covers(outer: HTTPMatch, inner: HTTPMatch) -> bool:
    if outer.uri is None or outer.uri.prefix == "/":
        return True
    if inner.ignore_uri_case and not outer.ignore_uri_case:
        return False
    return _text_covers(outer.uri, inner.uri, fold=outer.ignore_uri_case)


def _values_cover(outer: Mapping[str, StringMatch], inner: Mapping[str, StringMatch]) -> bool:
    return all(name in inner and (one.presence or _text_covers(one, inner[name])) for name, one in outer.items())


def _text_covers(outer: StringMatch | None, inner: StringMatch | None, *, fold: bool = False) -> bool:
    if outer is None or inner is None:
        return outer is None
    if outer.prefix is None:
        return outer == inner
    stated = inner.exact if inner.exact is not None else inner.prefix
    wanted = outer.prefix
    return stated is not None and (stated.lower().startswith(wanted.lower()) if fold else stated.startswith(wanted))


def _message(key: ObjectKey, code: str, what: str) -> Message:
    return about(key, code, Level.WARNING, what, "put the more exact condition first, or remove this one")
