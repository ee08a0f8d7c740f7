"""What answers are made of: refusals in words, what is still to be asked, and who may be at the other end of a tunnel."""

from dataclasses import dataclass
from typing import Final

from meshapi.spiffe import IdentityError, WorkloadIdentity
from meshapi.workload import Service, Workload
from nodeagent.telemetry.labels import Reporter, flow_attributes
from nodeagent.ztunnel.protocol import Refuse

NO_ROUTE: Final = "NR"
NO_HEALTHY_UPSTREAM: Final = "UH"


@dataclass(frozen=True, slots=True)
class Unknown:
    """Can't be answered until these keys have been asked for; `waiting_for` says it in words."""

    keys: tuple[str, ...]
    waiting_for: str


def refuse(reason: str, *, flag: str = NO_ROUTE, source: Workload | None = None, service: Service | None = None) -> Refuse:
    """A refusal with its labels."""
    principal = str(source.identity) if source is not None else None
    return Refuse(flag, reason, flow_attributes(Reporter.SOURCE, source=source, service=service, source_principal=principal))


def expected(target: Workload, service: Service | None) -> tuple[str, ...]:
    """The workload's identity, and those that the service allows for beside it (ServiceEntry subjectAltNames)."""
    if service is None or not service.subject_alt_names:
        return (str(target.identity),)
    return tuple(dict.fromkeys([str(target.identity), *filter(_is_identity, service.subject_alt_names)]))


def _is_identity(name: str) -> bool:
    try:
        WorkloadIdentity.parse(name)
    except IdentityError:
        return False
    return True
