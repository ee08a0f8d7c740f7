"""PeerAuthentication: which mode holds for a workload, and the DENY policies that enforce it.

As in Istio, STRICT is a policy that denies peers without identity: one for the whole mesh, which strict workloads name, and one of its
own for each PeerAuthentication whose ports differ from the rest.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from control.kinds import PeerAuthentication
from control.kinds.security import MTLSMode
from meshapi.authorization import Action, Match, Policy, PolicyScope, Present

# Names with `_` can't clash: no object of Kubernetes has them.
STATIC_STRICT: Final = "istio_converted_static_strict"
_CONVERTED_PREFIX: Final = "converted_peer_authentication_"
_NO_IDENTITY: Final = (Match(not_principals=(Present(),)),)


class PeerModes(Struct, frozen=True):
    """What holds for one workload: its mode, and the names of the policies that enforce it and its ports' modes."""

    mode: MTLSMode
    policies: tuple[str, ...] = ()


def oldest(candidates: Iterable[PeerAuthentication]) -> PeerAuthentication | None:
    """Of several for the same scope, the oldest one holds."""
    return min(candidates, key=lambda peer: peer.metadata.age_rank, default=None)


def inherited(mesh: PeerAuthentication | None, namespace: PeerAuthentication | None) -> MTLSMode:
    """The mode for workloads of a namespace that do not set their own."""
    modes = [peer.spec.mtls.mode for peer in (namespace, mesh) if peer is not None]
    return next((mode for mode in modes if mode is not MTLSMode.UNSET), MTLSMode.PERMISSIVE)


def modes_of(own: PeerAuthentication | None, parent: MTLSMode, root_namespace: str) -> PeerModes:
    """What holds for a workload with its `own` PeerAuthentication, if any selects it."""
    mode = _mode(own, parent)
    if own is not None and _needs_policy(own, parent):
        return PeerModes(mode, (f"{own.metadata.namespace}/{_CONVERTED_PREFIX}{own.metadata.name}",))
    return PeerModes(mode, (f"{root_namespace}/{STATIC_STRICT}",) if mode is MTLSMode.STRICT else ())


def static_strict(root_namespace: str) -> Policy:
    """The policy that every strict workload names."""
    return Policy(STATIC_STRICT, root_namespace, PolicyScope.WORKLOAD_SELECTOR, Action.DENY, ((_NO_IDENTITY,),))


def port_policy(peer: PeerAuthentication, parent: MTLSMode) -> Policy | None:
    """The policy for a PeerAuthentication with ports that differ from its mode; None if there are none."""
    if not _needs_policy(peer, parent):
        return None
    if _mode(peer, parent) is MTLSMode.STRICT:
        exempt = tuple((Match(not_destination_ports=(port,)),) for port, mode in _port_modes(peer, parent) if mode is not MTLSMode.STRICT)
        rules: tuple[tuple[tuple[Match, ...], ...], ...] = ((_NO_IDENTITY, *exempt),)
    else:
        strict = (port for port, mode in _port_modes(peer, parent) if mode is MTLSMode.STRICT)
        rules = tuple(((Match(not_principals=(Present(),), destination_ports=(port,)),),) for port in strict)
    name = f"{_CONVERTED_PREFIX}{peer.metadata.name}"
    return Policy(name, peer.metadata.namespace, PolicyScope.WORKLOAD_SELECTOR, Action.DENY, rules)


def _mode(own: PeerAuthentication | None, parent: MTLSMode) -> MTLSMode:
    return parent if own is None or own.spec.mtls.mode is MTLSMode.UNSET else own.spec.mtls.mode


def _port_modes(peer: PeerAuthentication, parent: MTLSMode) -> list[tuple[int, MTLSMode]]:
    base = _mode(peer, parent)
    return [(port, base if mode is MTLSMode.UNSET else mode) for port, mode in peer.ports.items()]


def _needs_policy(peer: PeerAuthentication, parent: MTLSMode) -> bool:
    strict = _mode(peer, parent) is MTLSMode.STRICT
    return any((mode is MTLSMode.STRICT) != strict for _, mode in _port_modes(peer, parent))
