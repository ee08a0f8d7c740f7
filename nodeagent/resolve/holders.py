"""Whose address an endpoint has: what a workload of the mesh holds is reached as that workload, whoever lists it as something else.

An endpoint that shares its address (of a slice that names no pod, or on a node's own network) is described by whoever lists it. Were
it believed, a list of pod addresses would lead around the pods' identities and policies, in plaintext.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from meshapi.workload import NetworkMode, TunnelProtocol, Workload
from nodeagent.resolve.endpoints import Candidate
from nodeagent.snapshot.view import Missing, View, address_dependency


@dataclass(frozen=True, slots=True)
class HeldCandidates:
    """`unknown` are the keys to ask for before any can be used."""

    candidates: tuple[Candidate, ...]
    unknown: tuple[str, ...]


def as_held(view: View, network: str, candidates: Iterable[Candidate]) -> HeldCandidates:
    """The candidates as who they are, each once; those at an address of which nothing can be understood are left out."""
    kept: list[Candidate] = []
    unknown: list[str] = []
    for candidate in candidates:
        if candidate.workload.network_mode is not NetworkMode.HOST_NETWORK or candidate.workload.tunnel_protocol is TunnelProtocol.HBONE:
            kept.append(candidate)
            continue
        holder = view.workload_at(network, candidate.address)
        if isinstance(holder, Workload):
            if holder.tunnel_protocol is not TunnelProtocol.LEGACY_ISTIO_MTLS:
                kept.append(msgspec.structs.replace(candidate, workload=holder))
        elif holder is Missing.UNKNOWN:
            unknown.append(address_dependency(network, candidate.address))
        elif holder is Missing.ABSENT:
            kept.append(candidate)
    return HeldCandidates(_each_once(kept), tuple(unknown))


def _each_once(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """A pod may be listed beside being an endpoint of its own; the nearer tier stays."""
    found: dict[tuple[str, str, int], Candidate] = {}
    for candidate in candidates:
        found.setdefault((candidate.workload.uid, str(candidate.address), candidate.port), candidate)
    return tuple(found.values())
