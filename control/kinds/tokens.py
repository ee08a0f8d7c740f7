"""Istio's RequestAuthentication: whose tokens are good. Unknown fields are errors here: without one, a rule could accept more."""

from typing import ClassVar

from msgspec import Struct

from control.kinds.core import Object
from control.kinds.metadata import Kind
from control.kinds.security import PolicyTarget, Selector


class TokenHeader(Struct, frozen=True, forbid_unknown_fields=True):
    """A header that may bear the token, after `prefix`."""

    name: str
    prefix: str = ""


class ClaimHeader(Struct, frozen=True, forbid_unknown_fields=True):
    """A header that is set to a claim of the token."""

    header: str
    claim: str


class TokenRule(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """An issuer, and where its tokens and keys are. `jwks` is a key set as JSON, `jwks_uri` where to get one."""

    issuer: str
    audiences: tuple[str, ...] = ()
    jwks_uri: str = ""
    jwks: str = ""
    from_headers: tuple[TokenHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    output_payload_to_header: str = ""
    forward_original_token: bool = False
    output_claim_to_headers: tuple[ClaimHeader, ...] = ()
    timeout: str = ""


class RequestAuthenticationSpec(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    selector: Selector | None = None
    target_ref: PolicyTarget | None = None
    target_refs: tuple[PolicyTarget, ...] = ()
    jwt_rules: tuple[TokenRule, ...] = ()


class RequestAuthentication(Object, frozen=True, rename="camel"):
    kind_of: ClassVar[Kind] = Kind.REQUEST_AUTHENTICATION
    spec: RequestAuthenticationSpec = RequestAuthenticationSpec()

    @property
    def targets(self) -> tuple[PolicyTarget, ...]:
        return (*((self.spec.target_ref,) if self.spec.target_ref else ()), *self.spec.target_refs)
