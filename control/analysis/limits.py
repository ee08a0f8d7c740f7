"""Limits that nobody counts, and in words for people."""

from collections.abc import Iterable, Iterator

from control.analysis.message import Level, Message, about
from control.envoy.limits.server import limit_server
from control.envoy.world import World
from control.kinds import RateLimit
from control.kinds.rate_limits import OnFailure, Scope


def uncounted(world: World) -> Iterator[Message]:
    """Global limits where there is no rate limit server: by `onFailure` all requests are refused, or none."""
    problem = world.ask(limit_server).problem
    for item in world.objects(RateLimit) if problem else ():
        if item.spec.scope is Scope.GLOBAL:
            refused = item.spec.on_failure is OnFailure.DENY
            what = "all requests that it matches are refused" if refused else "it limits nothing"
            yield about(
                item.key, "NM0007", Level.ERROR if refused else Level.WARNING, f"{problem}: {what}", "run `meshctl ratelimit serve`"
            )


def in_words(items: Iterable[RateLimit]) -> Iterator[str]:
    """Each rule in a line."""
    for item in items:
        name = f"{item.spec.scope} {item.metadata.namespace}/{item.metadata.name}"
        for rule in item.spec.rules:
            which = " of some" if rule.sources or rule.operations or rule.conditions else ""
            apart = f" for each {', '.join(rule.by)}" if rule.by else ""
            yield f"{name}: {rule.limit}{which}{apart}"
        if not item.spec.rules:
            yield f"{name}: can't be read, lets nothing through"
