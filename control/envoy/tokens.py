"""RequestAuthentication as Envoy's token filter: a bad token is 401, none passes, and what a good one says is there for policies to ask."""

from collections.abc import Iterable, Sequence
from typing import Any as Message
from typing import Final

from msgspec import Struct

from control.envoy.messages import new, packed
from control.envoy.rbac.matchers import JWT_FILTER, JWT_PAYLOAD
from control.envoy.unsigned import nobodys_key_set
from control.kinds.tokens import RequestAuthentication, TokenRule
from control.validation.durations import seconds
from control.validation.token_checks import key_address

_PREFIX: Final = "envoy.extensions.filters.http.jwt_authn.v3."
_FETCH_S: Final = 5.0
_KEYS_KEPT_S: Final = 20 * 60
_REFETCH_S: Final = 10


class KeyServer(Struct, frozen=True, order=True):
    """Where a key set is fetched from; `cluster` is the name of Envoy's cluster for it."""

    host: str
    port: int
    tls: bool

    @property
    def cluster(self) -> str:
        return f"keys|{self.port}|{'tls' if self.tls else 'plain'}|{self.host}"


class Tokens(Struct, frozen=True):
    """The filter, None where no policy asks for it; the servers of keys that it fetches from; and why a rule's tokens are all refused."""

    filter: Message | None
    key_servers: tuple[KeyServer, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    """Of policies (namespace/name)."""


def token_filter(policies: Iterable[RequestAuthentication], allowed_hosts: frozenset[str]) -> Tokens:
    """Of all policies of one place, whose rules hold as if they were one's.

    Keys are fetched from `allowed_hosts` only (`*.suffix` stands for any host below): a rule with keys elsewhere accepts no token.
    """
    ordered = sorted(policies, key=lambda policy: (policy.metadata.namespace, policy.metadata.name))
    providers: dict[str, Message] = {}
    servers: set[KeyServer] = set()
    refused: list[tuple[str, str]] = []
    for policy in ordered:
        for index, rule in enumerate(policy.spec.jwt_rules):
            server, why = _server(rule, allowed_hosts)
            if server is not None:
                servers.add(server)
            if why:
                refused.append((f"{policy.metadata.namespace}/{policy.metadata.name}", why))
            providers[f"{policy.metadata.namespace}/{policy.metadata.name}/{index}"] = _provider(rule, server)
    if not providers:
        return Tokens(None, refused=tuple(refused))
    config = new(
        f"{_PREFIX}JwtAuthentication",
        providers=providers,
        rules=[{"match": {"prefix": "/"}, "requires": _requirement(list(providers))}],
        # What is wrong with a token is its sender's business only; the flags of the log tell the operator.
        strip_failure_response=True,
        bypass_cors_preflight=True,
    )
    name = "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter"
    return Tokens(new(name, name=JWT_FILTER, typed_config=packed(config)), tuple(sorted(servers)), tuple(refused))


def may_fetch(host: str, allowed_hosts: frozenset[str]) -> bool:
    """Whether a host is among those that an operator allows keys to be fetched from."""
    parents = host.split(".")
    return host in allowed_hosts or any(f"*.{'.'.join(parents[at:])}" in allowed_hosts for at in range(1, len(parents)))


def _server(rule: TokenRule, allowed_hosts: frozenset[str]) -> tuple[KeyServer | None, str]:
    if rule.jwks:
        return None, ""
    scheme, host, port = key_address(rule.jwks_uri)
    if not may_fetch(host, allowed_hosts):
        why = f"no key of {rule.issuer[:80]} is fetched from {host}, which is not among the allowed hosts: its tokens are refused"
        return None, why
    return KeyServer(host, port, scheme == "https"), ""


def _provider(rule: TokenRule, server: KeyServer | None) -> Message:
    fields: dict[str, object] = {
        "issuer": rule.issuer,
        "audiences": rule.audiences,
        "forward": rule.forward_original_token,
        "payload_in_metadata": JWT_PAYLOAD,
        "from_headers": [{"name": header.name, "value_prefix": header.prefix} for header in rule.from_headers],
        "from_params": rule.from_params,
        "from_cookies": rule.from_cookies,
        "forward_payload_header": rule.output_payload_to_header,
        "claim_to_headers": [{"header_name": one.header, "claim_name": one.claim} for one in rule.output_claim_to_headers],
    }
    if server is None:
        fields["local_jwks"] = {"inline_string": rule.jwks or nobodys_key_set()}
    else:
        timeout_s = seconds(rule.timeout) if rule.timeout else _FETCH_S
        fields["remote_jwks"] = {
            "http_uri": {"uri": rule.jwks_uri, "cluster": server.cluster, "timeout": duration(timeout_s)},
            "cache_duration": duration(_KEYS_KEPT_S),
            # Listeners do not wait for keys: while there are none, tokens are refused and all else is served.
            "async_fetch": {"fast_listener": True, "failed_refetch_duration": duration(_REFETCH_S)},
        }
    return new(f"{_PREFIX}JwtProvider", **fields)


def _requirement(providers: Sequence[str]) -> Message:
    """A token of any of them, or none at all; a token that none of them takes is refused."""
    some = [{"provider_name": name} for name in providers]
    return new(f"{_PREFIX}JwtRequirement", requires_any={"requirements": [*some, {"allow_missing": {}}]})


def duration(length_s: float) -> Message:
    """A length of time; to the nanosecond."""
    whole = int(length_s)
    return new("google.protobuf.Duration", seconds=whole, nanos=round((length_s - whole) * 1e9))
