"""Istio's PeerAuthentication and AuthorizationPolicy. Unknown fields are errors here: they never widen."""

from enum import StrEnum
from typing import ClassVar

from msgspec import Struct

from control.kinds.core import Object
from control.kinds.metadata import Kind


class Selector(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    match_labels: dict[str, str] = {}


class MTLSMode(StrEnum):
    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


class MutualTLS(Struct, frozen=True, forbid_unknown_fields=True):
    mode: MTLSMode = MTLSMode.UNSET


class PeerAuthenticationSpec(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    selector: Selector | None = None
    mtls: MutualTLS = MutualTLS()
    port_level_mtls: dict[str, MutualTLS] = {}


class PeerAuthentication(Object, frozen=True, rename="camel"):
    kind_of: ClassVar[Kind] = Kind.PEER_AUTHENTICATION
    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()

    @property
    def selector(self) -> dict[str, str]:
        return self.spec.selector.match_labels if self.spec.selector else {}

    @property
    def ports(self) -> dict[int, MTLSMode]:
        """Modes by port number, in order of the numbers."""
        return dict(sorted((int(port), mtls.mode) for port, mtls in self.spec.port_level_mtls.items()))


class PolicyAction(StrEnum):
    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


class PolicySource(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    principals: tuple[str, ...] = ()
    not_principals: tuple[str, ...] = ()
    request_principals: tuple[str, ...] = ()
    not_request_principals: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    not_namespaces: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    not_service_accounts: tuple[str, ...] = ()
    ip_blocks: tuple[str, ...] = ()
    not_ip_blocks: tuple[str, ...] = ()
    remote_ip_blocks: tuple[str, ...] = ()
    not_remote_ip_blocks: tuple[str, ...] = ()


class PolicyOperation(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    hosts: tuple[str, ...] = ()
    not_hosts: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    not_ports: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    not_methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    not_paths: tuple[str, ...] = ()


class PolicyFrom(Struct, frozen=True, forbid_unknown_fields=True):
    source: PolicySource


class PolicyTo(Struct, frozen=True, forbid_unknown_fields=True):
    operation: PolicyOperation


class PolicyCondition(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    key: str
    values: tuple[str, ...] = ()
    not_values: tuple[str, ...] = ()


class PolicyRule(Struct, frozen=True, rename={"sources": "from", "operations": "to", "conditions": "when"}, forbid_unknown_fields=True):
    """A rule; None means that the part is absent and restricts nothing, which an empty list is not allowed to mean."""

    sources: tuple[PolicyFrom, ...] | None = None
    operations: tuple[PolicyTo, ...] | None = None
    conditions: tuple[PolicyCondition, ...] | None = None


class PolicyTarget(Struct, frozen=True, forbid_unknown_fields=True):
    kind: str
    name: str
    group: str = ""
    namespace: str = ""


class PolicyProvider(Struct, frozen=True, forbid_unknown_fields=True):
    name: str = ""


class AuthorizationPolicySpec(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    selector: Selector | None = None
    target_ref: PolicyTarget | None = None
    target_refs: tuple[PolicyTarget, ...] = ()
    action: PolicyAction = PolicyAction.ALLOW
    provider: PolicyProvider | None = None
    rules: tuple[PolicyRule, ...] = ()


class AuthorizationPolicy(Object, frozen=True, rename="camel"):
    kind_of: ClassVar[Kind] = Kind.AUTHORIZATION_POLICY
    spec: AuthorizationPolicySpec = AuthorizationPolicySpec()

    @property
    def selector(self) -> dict[str, str]:
        return self.spec.selector.match_labels if self.spec.selector else {}

    @property
    def targets(self) -> tuple[PolicyTarget, ...]:
        """What it is for, where that is not workloads but what their waypoint or a gateway is asked for."""
        return (*((self.spec.target_ref,) if self.spec.target_ref else ()), *self.spec.target_refs)

    @property
    def for_waypoint(self) -> bool:
        return bool(self.targets)
