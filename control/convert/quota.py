"""`config.istio.io/v1alpha2`: memquota (redisquota), quota, rule, QuotaSpec and QuotaSpecBinding become RateLimits, counted for all Envoys.

Older still or not, they are one mechanism: a binding has the requests of services charge a quota, a rule hands it to a handler, which says
how much there is for each combination of the quota's dimensions. What was shared by several services can't be: each counts for itself.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from msgspec import Struct

from control.convert.quota_expressions import Attribute, Dimension, OfDestination, condition, conditions, dimension, value_of
from control.convert.quota_limits import limit_of, rate
from control.convert.targets import (
    ConversionError,
    KnownService,
    Manifest,
    Services,
    guarded_by_waypoint,
    manifest,
    name_of,
    only,
    part,
    parts,
)

VERSION: Final = "config.istio.io/v1alpha2"
LIMITS: Final = "nodemesh.io/v1alpha1"
_ADAPTERS: Final = ("memquota", "redisquota")
_CHARGE: Final = re.compile(r"[1-9][0-9]{0,8}\Z", re.ASCII)
_BOUND: Final = frozenset({"name", "namespace", "domain"})
_QUOTA: Final = frozenset({"name", "maxAmount", "validDuration", "bucketDuration", "rateLimitAlgorithm", "overrides"})


class Quotas(Struct, frozen=True):
    """The documents that only mean something together. `handlers`: their quotas by namespace and name; `dimensions` likewise."""

    handlers: dict[tuple[str, str], list[Manifest]]
    dimensions: dict[tuple[str, str], Manifest]
    rules: tuple[Manifest, ...]
    specs: dict[tuple[str, str], Manifest]
    bindings: tuple[Manifest, ...]

    def has(self, document: Manifest) -> bool:
        """Whether a document is one of these, so that nothing is made of it by itself."""
        match document.get("kind"):
            case "memquota" | "redisquota" | "quota" | "QuotaSpec":
                return True
            case "handler":
                return part(document, "spec").get("compiledAdapter") in _ADAPTERS
            case "instance":
                return part(document, "spec").get("compiledTemplate") == "quota"
            case "rule":
                handlers = [_reference(one.get("handler"), name_of(document)[0]) for one in parts(part(document, "spec"), "actions")]
                return bool(handlers) and all(one in self.handlers for one in handlers)
        return False


class Place(Struct, frozen=True):
    """Where old documents are turned into new ones."""

    services: Services
    domain: str


class Charged(Struct, frozen=True):
    """A quota that requests use up, and the conditions under which they do."""

    name: tuple[str, str]
    dimensions: dict[str, Dimension]
    quota: Manifest
    charge: int
    match: str


def gather(documents: Iterable[Manifest]) -> Quotas:
    """From all documents."""
    found = Quotas({}, {}, (), {}, ())
    rules: list[Manifest] = []
    bindings: list[Manifest] = []
    for document in documents:
        if document.get("apiVersion") != VERSION:
            continue
        spec = part(document, "spec")
        match document.get("kind"):
            case "handler" if spec.get("compiledAdapter") in _ADAPTERS:
                found.handlers[name_of(document)] = parts(part(spec, "params"), "quotas")
            case "memquota" | "redisquota":
                found.handlers[name_of(document)] = parts(spec, "quotas")
            case "instance" if spec.get("compiledTemplate") == "quota":
                found.dimensions[name_of(document)] = part(part(spec, "params"), "dimensions")
            case "quota":
                found.dimensions[name_of(document)] = part(spec, "dimensions")
            case "rule":
                rules.append(document)
            case "QuotaSpec":
                found.specs[name_of(document)] = document
            case "QuotaSpecBinding":
                bindings.append(document)
    return Quotas(found.handlers, found.dimensions, tuple(rules), found.specs, tuple(bindings))


def convert_binding(binding: Manifest, quotas: Quotas, place: Place) -> tuple[list[Manifest], list[str]]:
    """A RateLimit for each service of a binding, and what to know; raises ConversionError."""
    namespace, name = name_of(binding)
    spec = part(binding, "spec")
    only(spec, frozenset({"quotaSpecs", "services"}), "spec")
    charged = [one for reference in parts(spec, "quotaSpecs") for one in _charged(reference, namespace, quotas)]
    if not charged:
        raise ConversionError("a binding without quotas limited nothing")
    notes = ["a RateLimit for all Envoys needs the rate limit server (meshctl ratelimit serve)"]
    made: list[Manifest] = []
    for service in _services(spec, namespace, place):
        rules: list[Manifest] = []
        for one in charged:
            _check_sharing(one, quotas, place)
            more, words = _rules(one, service, place)
            rules += more
            notes += words
        if rules:
            limits = {**guarded_by_waypoint(service.name), "scope": "global", "rules": rules}
            made.append(manifest(LIMITS, "RateLimit", (service.namespace, f"{name}-{service.name}"), limits))
            notes.append(f"service {service.name} needs a waypoint to look at requests: label it with istio.io/use-waypoint")
    return made, list(dict.fromkeys(notes))


def _services(spec: Manifest, namespace: str, place: Place) -> Iterator[KnownService]:
    for stated in parts(spec, "services"):
        if "*" in str(stated.get("service", "")):
            raise ConversionError("it is bound to every service: name them, or write a RateLimit for the class of the waypoints")
        only(stated, _BOUND, "a service")
        name, of = stated.get("name"), stated.get("namespace") or namespace
        if not isinstance(name, str) or not name or not isinstance(of, str):
            raise ConversionError("a service without name")
        yield place.services.get((of, name)) or KnownService(of, name, {}, {})


def _charged(reference: Manifest, namespace: str, quotas: Quotas) -> Iterator[Charged]:
    key = (str(reference.get("namespace") or namespace), str(reference.get("name")))
    found = quotas.specs.get(key)
    if found is None:
        raise ConversionError(f"its QuotaSpec {key[1]} of namespace {key[0]} is not among the documents")
    for rule in parts(part(found, "spec"), "rules"):
        if rule.get("match"):
            raise ConversionError("a QuotaSpec that matches some requests only: write `match` into the rule, or a RateLimit by hand")
        for one in parts(rule, "quotas"):
            charge = str(one.get("charge", 1))
            if _CHARGE.match(charge) is None:
                raise ConversionError(f"charge {charge[:40]!r} is no number")
            yield _handled(str(one.get("quota")), key[0], int(charge), quotas)


def _handled(stated: str, namespace: str, charge: int, quotas: Quotas) -> Charged:
    """The quota that a rule hands to a handler."""
    name = _reference(stated, namespace)
    handing = [
        (rule, action) for rule in quotas.rules for action in parts(part(rule, "spec"), "actions") if name in _instances(rule, action)
    ]
    if len(handing) != 1:
        how = "more than one rule hands" if handing else "no rule among the documents hands"
        raise ConversionError(f"{how} the quota {stated[:80]} to a handler")
    rule, action = handing[0]
    handler = quotas.handlers.get(_reference(action.get("handler"), name_of(rule)[0]))
    if handler is None:
        raise ConversionError(f"the handler {str(action.get('handler'))[:80]} of quota {stated[:80]} is not among the documents")
    if name not in quotas.dimensions:
        raise ConversionError(f"the quota {stated[:80]}, which says its dimensions, is not among the documents")
    dimensions = {key: dimension(one) for key, one in quotas.dimensions[name].items()}
    for quota in handler:
        if _reference(quota.get("name"), name_of(rule)[0]) == name:
            only(quota, _QUOTA, "a quota")
            return Charged(name, dimensions, quota, charge, str(part(rule, "spec").get("match") or ""))
    raise ConversionError(f"its handler has no quota {stated[:80]}")


def _instances(rule: Manifest, action: Manifest) -> list[tuple[str, str]]:
    stated = action.get("instances")
    return [_reference(one, name_of(rule)[0]) for one in stated] if isinstance(stated, list) else []


def _reference(stated: Any, namespace: str) -> tuple[str, str]:
    """`name`, `name.kind` or `name.kind.namespace` as namespace and name."""
    name, _, rest = str(stated).partition(".")
    _, _, of = rest.partition(".")
    return of or namespace, name


def _check_sharing(charged: Charged, quotas: Quotas, place: Place) -> None:
    """Raises ConversionError where services that would count apart used one quota up together."""
    telling = [one.first for one in charged.dimensions.values() if isinstance(one.first, OfDestination)]
    services = {
        (service.namespace, service.name): service
        for binding in quotas.bindings
        if charged.name in _quotas_of(binding, quotas)
        for service in _services(part(binding, "spec"), name_of(binding)[0], place)
    }
    if len(services) < 2:
        return
    values = [tuple(value_of(term, service, place.domain) for term in telling) for service in services.values()]
    if len(set(values)) < len(values):
        raise ConversionError("several services used this quota up together, which RateLimits can't: give each a quota of its own")


def _quotas_of(binding: Manifest, quotas: Quotas) -> Iterator[tuple[str, str]]:
    """The names of the quotas that the services of a binding use up."""
    for reference in parts(part(binding, "spec"), "quotaSpecs"):
        key = (str(reference.get("namespace") or name_of(binding)[0]), str(reference.get("name")))
        for rule in parts(part(quotas.specs.get(key, {}), "spec"), "rules"):
            yield from (_reference(one.get("quota"), key[0]) for one in parts(rule, "quotas"))


def _rules(charged: Charged, service: KnownService, place: Place) -> tuple[list[Manifest], list[str]]:
    """The rules of a quota for a service: those of its overrides, then that of all the rest."""
    asked = conditions(charged.match, service, place.domain) if charged.match else []
    if asked is None:
        return [], []
    keys, notes = _keys(charged.dimensions)
    usual, note = limit_of(charged.quota, charged.charge)
    notes += [note] if note else []
    rules: list[Manifest] = []
    beside: list[Manifest] = []
    """Of overrides so far: what the later rules must not match."""
    for override in parts(charged.quota, "overrides"):
        only(override, frozenset({"dimensions", "maxAmount", "validDuration"}), "an override")
        met = _met(part(override, "dimensions"), charged.dimensions, service, place)
        if met is None:
            continue
        own, note = limit_of({"validDuration": charged.quota.get("validDuration"), **override}, charged.charge)
        notes += [note] if note else []
        if not met:
            return [*rules, _rule(own, keys, [*asked, *beside])], notes
        if len(met) > 1 and rate(own) > rate(usual):
            notes.append("an override by several dimensions that allowed more is left out: those requests have the usual quota")
            continue
        rules.append(_rule(own, keys, [*asked, *beside, *met]))
        if len(met) == 1:
            beside += [{"key": met[0]["key"], "notValues": met[0]["values"]}]
    return [*rules, _rule(usual, keys, [*asked, *beside])], notes


def _keys(dimensions: dict[str, Dimension]) -> tuple[list[str], list[str]]:
    """What requests are counted apart by, and what they are no longer."""
    keys: dict[str, None] = {}
    notes = []
    for name, one in dimensions.items():
        first = one.first
        if isinstance(first, Attribute) and first.key:
            keys[first.key] = None
            if len(one.terms) > 1:
                notes.append(f"dimension {name}: requests without the first of its attributes are counted together")
        elif isinstance(first, Attribute):
            notes.append(f"dimension {name} has no word in a RateLimit: requests are counted together whatever it is, which is stricter")
    return list(keys), notes


def _met(wanted: Manifest, dimensions: dict[str, Dimension], service: KnownService, place: Place) -> list[Manifest] | None:
    """The conditions of an override; None if it is not for this service."""
    found = []
    for name, value in wanted.items():
        one = dimensions.get(name, Dimension((), ()))
        if isinstance(one.first, OfDestination):
            if str(value) != value_of(one.first, service, place.domain):
                return None
            continue
        if one.first is None or len(one.terms) != 1 or str(value) in one.missing:
            raise ConversionError(f"an override asks for dimension {name[:80]}, which is not one attribute of requests that have it")
        if str(value).startswith("*") or str(value).endswith("*"):
            raise ConversionError(f"{str(value)[:80]!r} would be a pattern in a RateLimit")
        found.append(condition(one.first, str(value), wanted=True))
    return found


def _rule(limit: Manifest, keys: list[str], asked: list[Manifest]) -> Manifest:
    rule: Manifest = {}
    by_path = [one for one in asked if one["key"] == "request.path"]
    if by_path:
        # Paths have a place of their own; each condition is one more that must hold, which one operation can say of each kind once.
        wanted = [one["values"] for one in by_path if "values" in one]
        if len(wanted) > 1:
            raise ConversionError("several conditions on the path")
        unwanted = [text for one in by_path for text in one.get("notValues", ())]
        rule["to"] = [{"operation": {**({"paths": wanted[0]} if wanted else {}), **({"notPaths": unwanted} if unwanted else {})}}]
    others = [one for one in asked if one["key"] != "request.path"]
    if others:
        rule["when"] = others
    if keys:
        rule["by"] = keys
    return {**rule, "limit": limit}
