"""What a producer of filters gives."""

from msgspec import Struct

from control.envoy.built import Problem
from control.envoy.messages import Message
from control.kinds import ObjectKey


class Parts(Struct, frozen=True):
    """Filters in their order (`HttpFilter` or network `Filter` messages), and the objects that shaped them."""

    filters: tuple[Message, ...] = ()
    sources: tuple[ObjectKey, ...] = ()
    problems: tuple[Problem, ...] = ()
