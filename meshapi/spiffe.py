"""SPIFFE ids: parsing refuses whatever is not exactly one of the two forms that this mesh issues."""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Self

MAX_ID_BYTES = 2048
MAX_TRUST_DOMAIN_BYTES = 255
PARSED_IDENTITIES: Final = 2048
"""How many are kept parsed: the peers of a node's workloads ask again and again."""
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}\Z", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+\Z", re.ASCII)


class IdentityError(ValueError):
    """A string that is no identity of this mesh."""


def check_trust_domain(name: str) -> str:
    """Returns `name` if it is a trust domain by the SPIFFE standard (section 2.1), else raises IdentityError."""
    if not _TRUST_DOMAIN.match(name):
        raise IdentityError(f"{name[:80]!r} is no trust domain: 1 to 255 of a-z 0-9 . _ -")
    return name


def check_segment(segment: str) -> str:
    """Returns `segment` if it may stand in a SPIFFE path (section 2.2), else raises IdentityError."""
    if not _SEGMENT.match(segment) or segment in {".", ".."}:
        raise IdentityError(f"{segment[:80]!r} is no path segment: letters, digits, . _ -, and neither . nor ..")
    return segment


def _split(text: str) -> tuple[str, list[str]]:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise IdentityError(f"longer than {MAX_ID_BYTES} bytes")
    if not text.startswith("spiffe://"):
        raise IdentityError(f"{text[:80]!r} does not begin with spiffe://")
    trust_domain, slash, path = text.removeprefix("spiffe://").partition("/")
    check_trust_domain(trust_domain)
    if not slash:
        raise IdentityError("has no path")
    return trust_domain, [check_segment(segment) for segment in path.split("/")]


@dataclass(frozen=True, slots=True, order=True)
class WorkloadIdentity:
    """Who a workload is: `spiffe://<trust_domain>/ns/<namespace>/sa/<service_account>`."""

    trust_domain: str
    namespace: str
    service_account: str
    principal: str = field(init=False, compare=False, repr=False)
    """The form that policies compare: without `spiffe://`."""

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        check_segment(self.namespace)
        check_segment(self.service_account)
        object.__setattr__(self, "principal", f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}")
        if len(str(self)) > MAX_ID_BYTES:
            raise IdentityError(f"longer than {MAX_ID_BYTES} bytes")

    @staticmethod
    def parse(text: str) -> "WorkloadIdentity":
        """Reads the URI form; raises IdentityError on anything else."""
        return _parse_workload(text)

    def __str__(self) -> str:
        return f"spiffe://{self.principal}"


@lru_cache(PARSED_IDENTITIES)
def _parse_workload(text: str) -> WorkloadIdentity:
    trust_domain, path = _split(text)
    match path:
        case ["ns", namespace, "sa", service_account]:
            return WorkloadIdentity(trust_domain, namespace, service_account)
    raise IdentityError(f"{text[:200]!r} is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>")


@dataclass(frozen=True, slots=True, order=True)
class AgentIdentity:
    """Which node an agent serves: `spiffe://<trust_domain>/nodemesh/node/<node>`. Never accepted between workloads."""

    trust_domain: str
    node: str

    def __post_init__(self) -> None:
        check_trust_domain(self.trust_domain)
        check_segment(self.node)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the URI form; raises IdentityError on anything else."""
        trust_domain, path = _split(text)
        match path:
            case ["nodemesh", "node", node]:
                return cls(trust_domain, node)
        raise IdentityError(f"{text[:200]!r} is not spiffe://<trust domain>/nodemesh/node/<node>")

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/nodemesh/node/{self.node}"
