"""`authentication.istio.io/v1alpha1`: Policy and MeshPolicy become PeerAuthentication, RequestAuthentication and AuthorizationPolicy."""

from typing import Final

from msgspec import Struct

from control.convert.targets import (
    SECURITY,
    ConversionError,
    Manifest,
    Services,
    guarded_at,
    guarded_by_waypoint,
    manifest,
    name_of,
    only,
    part,
    parts,
    selector_of,
    texts,
)

VERSION: Final = "authentication.istio.io/v1alpha1"
_SPEC: Final = frozenset({"targets", "peers", "peerIsOptional", "origins", "originIsOptional", "principalBinding"})
_JWT: Final = frozenset({"issuer", "audiences", "jwksUri", "jwks", "jwtHeaders", "jwtParams", "triggerRules"})


class Authentication(Struct, frozen=True):
    """The new documents of one old policy, and what to know about them."""

    documents: tuple[Manifest, ...]
    notes: tuple[str, ...]


class _Target(Struct, frozen=True):
    service: str
    ports: tuple[Manifest, ...]


def convert_authentication(document: Manifest, services: Services, root_namespace: str, waypoint: str) -> Authentication:
    """Of a Policy or a MeshPolicy; raises ConversionError for what today's kinds can't say."""
    mesh_wide = document.get("kind") == "MeshPolicy"
    namespace, name = name_of(document)
    if mesh_wide:
        namespace = root_namespace
    spec = part(document, "spec")
    only(spec, _SPEC, "spec")
    targets = [_target(one) for one in parts(spec, "targets")]
    if mesh_wide and targets:
        raise ConversionError("a MeshPolicy has no targets")
    notes: list[str] = []
    documents = _peers(spec, (namespace, name), targets, services, notes)
    documents += _origins(spec, (namespace, name), targets, notes, waypoint)
    if spec.get("principalBinding") == "USE_ORIGIN":
        notes.append("principalBinding has no new form: today policies say `principals` or `requestPrincipals` where they mean one of them")
    return Authentication(tuple(documents), tuple(notes))


def _target(target: Manifest) -> _Target:
    only(target, frozenset({"name", "ports"}), "a target")
    service = target.get("name")
    if not isinstance(service, str):
        raise ConversionError("a target has no name")
    return _Target(service, tuple(parts(target, "ports")))


# ---- mutual TLS


def _peers(spec: Manifest, name: tuple[str, str], targets: list[_Target], services: Services, notes: list[str]) -> list[Manifest]:
    mode = _mode(spec, notes)
    if not targets:
        return [manifest(SECURITY, "PeerAuthentication", name, {"mtls": {"mode": mode}})]
    found = []
    for index, target in enumerate(targets):
        body: Manifest = {"selector": {"matchLabels": selector_of(services, name[0], target.service)}}
        if target.ports:
            body["mtls"] = {"mode": "UNSET"}
            body["portLevelMtls"] = {_workload_port(port, services, name[0], target.service): {"mode": mode} for port in target.ports}
        else:
            body["mtls"] = {"mode": mode}
        found.append(manifest(SECURITY, "PeerAuthentication", (name[0], _numbered(name[1], index, len(targets))), body))
    return found


def _mode(spec: Manifest, notes: list[str]) -> str:
    peers = parts(spec, "peers")
    if not peers:
        notes.append("without `peers` plaintext was accepted, and still is: PERMISSIVE; write STRICT if nobody needs it any more")
        return "PERMISSIVE"
    if len(peers) > 1:
        raise ConversionError("more than one way for peers to authenticate: only mutual TLS there is")
    only(peers[0], frozenset({"mtls"}), "peers")
    if "mtls" not in peers[0]:
        raise ConversionError("peers without mtls: other ways never worked")
    mtls = part(peers[0], "mtls")
    only(mtls, frozenset({"mode", "allowTls"}), "mtls")
    mode = mtls.get("mode") or "STRICT"
    if mode not in {"STRICT", "PERMISSIVE"}:
        raise ConversionError(f"mtls.mode is {str(mode)[:80]!r}: STRICT or PERMISSIVE are known")
    if spec.get("peerIsOptional") is True or mtls.get("allowTls") is True:
        notes.append("peerIsOptional and allowTls mean PERMISSIVE today")
        return "PERMISSIVE"
    return str(mode)


def _workload_port(port: Manifest, services: Services, namespace: str, service: str) -> str:
    """Policies named the service's port, by number or name; portLevelMtls names the workload's."""
    stated = str(port.get("number") or port.get("name") or "")
    known = services[(namespace, service)].targets
    if stated not in known:
        raise ConversionError(f"port {stated[:80]!r} of service {service} is not known by number, which portLevelMtls needs")
    return str(known[stated])


# ---- tokens


def _origins(spec: Manifest, name: tuple[str, str], targets: list[_Target], notes: list[str], waypoint: str) -> list[Manifest]:
    tokens = [_token(origin) for origin in parts(spec, "origins")]
    if not tokens:
        return []
    if any(target.ports for target in targets):
        raise ConversionError("origins for single ports have no new form: make a policy for the service")
    if targets:
        notes.append("tokens are verified by the waypoint of the services: label them with istio.io/use-waypoint")
    else:
        notes.append(f"tokens of a whole namespace are verified by its waypoint, named {waypoint} in the new documents")
    rules = [_rule(token) for token in tokens]
    optional = spec.get("originIsOptional") is True
    found = []
    places = [guarded_by_waypoint(target.service) for target in targets] or [guarded_at(waypoint)]
    for index, place in enumerate(places):
        named = (name[0], _numbered(name[1], index, len(places)))
        found.append(manifest(SECURITY, "RequestAuthentication", named, {**place, "jwtRules": rules}))
        if not optional:
            required = {**place, "action": "DENY", "rules": _without_token(tokens)}
            found.append(manifest(SECURITY, "AuthorizationPolicy", (named[0], f"{named[1]}-token-required"), required))
    return found


def _token(origin: Manifest) -> Manifest:
    only(origin, frozenset({"jwt"}), "an origin")
    token = part(origin, "jwt")
    only(token, _JWT, "jwt")
    if not isinstance(token.get("issuer"), str):
        raise ConversionError("jwt without an issuer")
    return token


def _rule(token: Manifest) -> Manifest:
    rule: Manifest = {"issuer": token["issuer"]}
    for field in ("audiences", "jwksUri", "jwks"):
        if field in token:
            rule[field] = token[field]
    if token.get("jwtHeaders"):
        rule["fromHeaders"] = [{"name": header} for header in texts(token["jwtHeaders"], "jwtHeaders")]
    if token.get("jwtParams"):
        rule["fromParams"] = texts(token["jwtParams"], "jwtParams")
    # The token went on to the application, which it does today only if asked to.
    return {**rule, "forwardOriginalToken": True}


def _without_token(tokens: list[Manifest]) -> list[Manifest]:
    """Denies what bears no valid token, on the paths on which one was asked for."""
    rules = []
    triggers = [trigger for token in tokens for trigger in parts(token, "triggerRules")]
    if triggers and len(tokens) > 1:
        raise ConversionError("triggerRules of several issuers have no new form: make a policy for each")
    for trigger in triggers or [{}]:
        only(trigger, frozenset({"includedPaths", "excludedPaths"}), "triggerRules")
        operation: Manifest = {}
        if trigger.get("includedPaths"):
            operation["paths"] = [_path(one) for one in parts(trigger, "includedPaths")]
        if trigger.get("excludedPaths"):
            operation["notPaths"] = [_path(one) for one in parts(trigger, "excludedPaths")]
        rule: Manifest = {"from": [{"source": {"notRequestPrincipals": ["*"]}}]}
        if operation:
            rule["to"] = [{"operation": operation}]
        rules.append(rule)
    return rules


def _path(match: Manifest) -> str:
    if len(match) != 1:
        raise ConversionError("a path is matched in one way")
    ((how, value),) = match.items()
    if how not in {"exact", "prefix", "suffix"}:
        raise ConversionError(f"a path can't be matched by {str(how)[:40]!r} today: exact, prefix and suffix are left")
    if not isinstance(value, str) or "*" in value:
        raise ConversionError("a path that is no text, or has a * of its own")
    return {"exact": value, "prefix": f"{value}*", "suffix": f"*{value}"}[how]


def _numbered(name: str, index: int, count: int) -> str:
    return name if count == 1 else f"{name}-{index + 1}"
