"""ReferenceGrants: whether an object may name one of another namespace."""

from msgspec import Struct

from control.envoy.world import World
from control.kinds import ReferenceGrant


class Reference(Struct, frozen=True):
    """From objects of a kind in a namespace to one object."""

    from_group: str
    from_kind: str
    from_namespace: str
    to_group: str
    to_kind: str
    to_namespace: str
    to_name: str


def granted(world: World, reference: Reference) -> bool:
    """Within a namespace always; else where the other namespace has a grant of it."""
    if reference.from_namespace == reference.to_namespace:
        return True
    origin = (reference.from_group, reference.from_kind, reference.from_namespace)
    return any(_grants(one, origin, reference) for one in world.ask(_of_namespace, reference.to_namespace))


def _of_namespace(world: World, namespace: str) -> tuple[ReferenceGrant, ...]:
    return tuple(one for one in world.objects(ReferenceGrant) if one.metadata.namespace == namespace)


def _grants(grant: ReferenceGrant, origin: tuple[str, str, str], reference: Reference) -> bool:
    if not any((one.group, one.kind, one.namespace) == origin for one in grant.spec.origins):
        return False
    named = (one for one in grant.spec.to if (_group(one.group), one.kind) == (_group(reference.to_group), reference.to_kind))
    return any(one.name in {"", reference.to_name} for one in named)


def _group(group: str) -> str:
    """Kubernetes' own is the empty one."""
    return "" if group == "core" else group
