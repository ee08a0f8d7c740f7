"""For whom routes are made, what came of a rule there."""

from msgspec import Struct

from control.envoy.naming import ClusterRef
from control.envoy.proxies import ProxyKey
from control.kinds.routing import MESH


class Scope(Struct, frozen=True, order=True):
    """One port of a proxy. `gateways`: what it goes by in rules, `mesh` or `namespace/name`; `secure`: clients speak TLS to it.

    `peers`: the identities of clients are known, in filter state.
    """

    proxy: ProxyKey
    port: int
    gateways: tuple[str, ...] = (MESH,)
    secure: bool = False
    peers: bool = True


class Target(Struct, frozen=True):
    """Where a destination of a rule leads: `cluster` is None where there is nothing of that name, and requests get 503."""

    name: str
    cluster: ClusterRef | None
    problem: str = ""


def full_host(host: str, namespace: str, domain: str) -> str:
    """A host as rules of a namespace mean it: a name without a dot is a service of the namespace."""
    return host if "." in host or ":" in host or host == "*" else f"{host}.{namespace}.svc.{domain}"


def full_gateway(name: str, namespace: str) -> str:
    """A gateway as rules of a namespace mean it."""
    where, slash, rest = name.rpartition("/")
    if name == MESH or (slash and where != "."):
        return name
    return f"{namespace}/{rest}"


def exported(export_to: tuple[str, ...], own: str, to: str) -> bool:
    """Whether an object of the namespace `own` is for the namespace `to`; without a list it is for all."""
    return not export_to or "*" in export_to or to in export_to or ("." in export_to and own == to)
