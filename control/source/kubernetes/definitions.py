"""Which of the custom kinds the API server serves now: read from their definitions, which are watched like anything else."""

import logging
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


log = logging.getLogger(__name__)
_decoder: Final = msgspec.json.Decoder(_Definition)


class Definitions:
    """What can be read now, by the name of the definition.

    A kind is only gone with its definition. One that is there and can't be read (in no version that is understood) is `unreadable`; if it
    was served before it stays `served`, as it was: its objects are still there, and policies among them must not vanish.
    """

    def __init__(self) -> None:
        self.served: dict[str, ResourceType] = {}
        self.unreadable: set[str] = set()

    def learn(self, delivery: Delivery) -> None:
        """Takes what a follower of the definitions brings."""
        for _, name in delivery.gone:
            self.served.pop(name, None)
            self.unreadable.discard(name)
        for item in delivery.present:
            if item.name not in CUSTOM:
                continue
            found = custom_type(item.name, served_versions(item.raw))
            if found is None:
                self.unreadable.add(item.name)
                log.warning(
                    "%s is served in no version that is understood: what was read of it stays in use, and who starts waits", item.name
                )
            else:
                self.unreadable.discard(item.name)
                self.served[item.name] = found


def served_versions(raw: bytes) -> tuple[str, ...]:
    """The versions of a definition that is established."""
    try:
        definition = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()
    established = any(one.type == "Established" and one.status == "True" for one in definition.status.conditions or ())
    return tuple(one.name for one in definition.spec.versions if one.served) if established else ()
