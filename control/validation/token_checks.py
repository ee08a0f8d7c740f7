"""Checks of RequestAuthentication: what Envoy would refuse, or what would accept more than its author meant, is an error."""

import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from control.kinds.tokens import RequestAuthentication, TokenRule
from control.validation.core_checks import Path, attempt
from control.validation.durations import seconds
from control.validation.finding import Remark
from control.validation.policy_checks import selector_remarks

_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}\Z")
_MAX_RULES: Final = 64
_MAX_KEYS_BYTES: Final = 64 * 1024
_FORBIDDEN: Final = frozenset({"host", "connection", "content-length", "transfer-encoding", "te", "upgrade"})


def request_authentication_remarks(item: RequestAuthentication) -> Iterator[Remark]:
    spec = item.spec
    yield from selector_remarks(spec.selector)
    if spec.selector is not None and item.targets:
        yield Remark(("spec", "selector"), "has both a selector and targetRefs", "keep one of them")
    if len(spec.jwt_rules) > _MAX_RULES:
        yield Remark(("spec", "jwtRules"), f"more than {_MAX_RULES} rules")
    for index, rule in enumerate(spec.jwt_rules):
        yield from _rule_remarks(rule, ("spec", "jwtRules", index))


def _rule_remarks(rule: TokenRule, path: Path) -> Iterator[Remark]:
    if not rule.issuer:
        yield Remark((*path, "issuer"), "an empty issuer")
    if "" in rule.audiences:
        yield Remark((*path, "audiences"), "an empty audience")
    yield from _key_remarks(rule, path)
    if rule.timeout:
        yield from attempt(seconds, rule.timeout, (*path, "timeout"))
    yield from _places_remarks(rule, path)
    yield from _output_remarks(rule, path)


def _key_remarks(rule: TokenRule, path: Path) -> Iterator[Remark]:
    if rule.jwks and rule.jwks_uri:
        yield Remark((*path, "jwks"), "has both jwks and jwksUri", "keep one of them")
    if not rule.jwks and not rule.jwks_uri:
        yield Remark((*path, "jwksUri"), "has neither jwks nor jwksUri", "the issuer is not asked where its keys are: say it")
    if rule.jwks:
        yield from attempt(key_set, rule.jwks, (*path, "jwks"))
    if rule.jwks_uri:
        yield from attempt(key_address, rule.jwks_uri, (*path, "jwksUri"))


def _places_remarks(rule: TokenRule, path: Path) -> Iterator[Remark]:
    for at, header in enumerate(rule.from_headers):
        yield from attempt(header_name, header.name, (*path, "fromHeaders", at, "name"))
        if not header.prefix.isprintable():
            yield Remark((*path, "fromHeaders", at, "prefix"), "a prefix with what no header can have")
    for name, texts in (("fromParams", rule.from_params), ("fromCookies", rule.from_cookies)):
        for at, text in enumerate(texts):
            if not text.isprintable() or not text:
                yield Remark((*path, name, at), f"{text[:80]!r} is no name")


def _output_remarks(rule: TokenRule, path: Path) -> Iterator[Remark]:
    if rule.output_payload_to_header:
        yield from attempt(header_name, rule.output_payload_to_header, (*path, "outputPayloadToHeader"))
    for at, claim in enumerate(rule.output_claim_to_headers):
        yield from attempt(header_name, claim.header, (*path, "outputClaimToHeaders", at, "header"))
        if not claim.claim or not all(claim.claim.split(".")):
            yield Remark((*path, "outputClaimToHeaders", at, "claim"), f"{claim.claim[:80]!r} is no claim")


def header_name(text: str) -> str:
    """A header's name that a policy may read or set."""
    if not _HEADER.match(text) or text.lower() in _FORBIDDEN:
        raise ValueError(f"{text[:80]!r} is no header's name that may be used here")
    return text


def key_set(text: str) -> str:
    """A JSON Web Key Set with at least one public key (RFC 7517)."""
    if len(text) > _MAX_KEYS_BYTES:
        raise ValueError(f"longer than {_MAX_KEYS_BYTES} bytes")
    try:
        keys = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    found = keys.get("keys") if isinstance(keys, dict) else None
    if not isinstance(found, list) or not found or not all(isinstance(key, dict) for key in found):
        raise ValueError('has no keys: {"keys": [{...}]} is expected')
    kinds = [key.get("kty") for key in found]
    if not any(kind in {"RSA", "EC", "OKP"} for kind in kinds) or "oct" in kinds:
        raise ValueError("public keys are expected: RSA, EC or OKP")
    # What signs stays with the issuer: here everybody who may read policies could make tokens.
    if any(field in key for key in found for field in ("d", "p", "q", "k")):
        raise ValueError("holds a private key")
    return text


def key_address(text: str) -> tuple[str, str, int]:
    """Scheme, host and port of a key set; raises ValueError for what is no address to fetch one from."""
    if not text.isprintable() or " " in text or len(text) > 2048:
        raise ValueError("is no address")
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None or parts.password is not None:
        raise ValueError(f"{text[:80]!r} is no http or https address of a host")
    if parts.fragment:
        raise ValueError("a fragment has no meaning here")
    return parts.scheme, parts.hostname.lower(), parts.port or (443 if parts.scheme == "https" else 80)
