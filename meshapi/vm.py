"""What a virtual machine is called as a node of the mesh: a name that no node of a cluster can have, and the groups that it may join.

The groups stand in the name, and the name in the machine's certificate: so who holds it can join these groups and no others, whichever
controller is asked, and whatever was forgotten meanwhile.
"""

import re
from typing import Final, Self

from msgspec import Struct

from meshapi.spiffe import IdentityError, check_segment

PREFIX: Final = "vm"
MAX_GROUPS: Final = 16
# Names of Kubernetes have no underscore: neither can be taken for the other, nor one part for two.
_SEPARATOR: Final = "_"
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z", re.ASCII)


class GroupName(Struct, frozen=True, order=True):
    """A WorkloadGroup."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `namespace/name`; raises IdentityError."""
        namespace, _, name = text.partition("/")
        return cls(_checked(namespace), _checked(name))

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class VMName(Struct, frozen=True):
    """A machine by its own name, and its groups in the order in which they were given."""

    name: str
    groups: tuple[GroupName, ...]

    @classmethod
    def make(cls, name: str, groups: tuple[GroupName, ...]) -> Self:
        """Raises IdentityError for what can't be one."""
        if not 0 < len(groups) <= MAX_GROUPS or len(set(groups)) != len(groups):
            raise IdentityError(f"a machine joins 1 to {MAX_GROUPS} groups, each once")
        for part in (name, *(part for group in groups for part in (group.namespace, group.name))):
            _checked(part)
        made = cls(name, groups)
        check_segment(made.node)
        return made

    @property
    def node(self) -> str:
        """As which it is a node of the mesh."""
        parts = [part for group in self.groups for part in (group.namespace, group.name)]
        return _SEPARATOR.join((PREFIX, self.name, *parts))


def is_vm(node: str) -> bool:
    """Whether a node's name is of this form: then it is none of a cluster."""
    return node.startswith(PREFIX + _SEPARATOR)


def parse_vm(node: str) -> VMName | None:
    """The machine that a node's name stands for; None for a node of a cluster, and for what is neither."""
    prefix, *parts = node.split(_SEPARATOR)
    if prefix != PREFIX or len(parts) < 3 or len(parts) % 2 == 0:
        return None
    try:
        name, *rest = parts
        return VMName.make(name, tuple(GroupName(rest[at], rest[at + 1]) for at in range(0, len(rest), 2)))
    except IdentityError:
        return None


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise IdentityError(f"{name[:80]!r} is no name: lower-case letters, digits, - and ., at most 253")
    return name
