"""What a row of patches leaves behind: the objects that had a say, and what they asked for in vain."""

from control.envoy.built import Problem
from control.envoy.patches.allowed import PatchError
from control.envoy.patches.holding import Bound
from control.kinds import ObjectKey


class Applied:
    """Collects while patches are applied one by one; what can't be applied becomes a problem, and the others go on."""

    def __init__(self, root_namespace: str) -> None:
        self.root_namespace = root_namespace
        self.sources: dict[ObjectKey, None] = {}
        self.problems: list[Problem] = []

    def did(self, bound: Bound) -> None:
        """A patch had a say."""
        self.sources[bound.object] = None

    def refused(self, bound: Bound, why: PatchError) -> None:
        """A patch can't be applied here."""
        self.problems.append(Problem(bound.object, f"{bound.name}: {why}"))

    def may_change(self, bound: Bound, added: ObjectKey | None) -> bool:
        """Whether what an object added is a patch's to change: its own namespace's is, and for the root namespace everybody's."""
        return added is not None and bound.object.namespace in {added.namespace, self.root_namespace}
