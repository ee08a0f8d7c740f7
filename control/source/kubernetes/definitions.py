"""Which of the custom kinds the API server serves now: read from their definitions, which are watched like anything else."""

from typing import Final

import msgspec
from msgspec import Struct

from control.source.kubernetes.resources import CUSTOM, ResourceType, custom_type
from kubeapi.watching import Delivery


class _Version(Struct, frozen=True):
    name: str
    served: bool = False


class _Spec(Struct, frozen=True):
    versions: tuple[_Version, ...] = ()


class _Condition(Struct, frozen=True):
    type: str
    status: str


class _Status(Struct, frozen=True):
    conditions: tuple[_Condition, ...] | None = None


class _Definition(Struct, frozen=True):
    spec: _Spec = _Spec()
    status: _Status = _Status()


_decoder: Final = msgspec.json.Decoder(_Definition)


class Definitions:
    """`served` is what can be read now, by the name of the definition."""

    def __init__(self) -> None:
        self.served: dict[str, ResourceType] = {}

    def learn(self, delivery: Delivery) -> None:
        """Takes what a follower of the definitions brings."""
        for _, name in delivery.gone:
            self.served.pop(name, None)
        for item in delivery.present:
            if item.name not in CUSTOM:
                continue
            found = custom_type(item.name, _served(item.raw))
            if found is None:
                self.served.pop(item.name, None)
            else:
                self.served[item.name] = found


def _served(raw: bytes) -> tuple[str, ...]:
    """The versions of a definition that is established."""
    try:
        definition = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()
    established = any(one.type == "Established" and one.status == "True" for one in definition.status.conditions or ())
    return tuple(one.name for one in definition.spec.versions if one.served) if established else ()
