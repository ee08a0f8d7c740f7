"""What becomes of patches that only an Envoy can judge: each new form of an object is on trial until Envoys have taken it.

Envoy refuses a whole listener or table of routes, and with it every later change, a new policy, too. So a form that is refused is taken
out again, and what it was before is in force: the last form that was taken; nothing, if the object is new or was never changed; or a form
that denies, where it can't be known what was in force, because the controller started since. A
plugin without a former form fails requests, unless it may be missed. Of several forms on trial in one resource
the newest is doubted first; what turns out not to have been the cause comes back.

Whoever runs an Envoy may have it refuse what it likes. So what the root namespace brings to the proxies of others is not taken out
because those of one namespace refuse it, while there are others, and not at all where those of another have taken it.
"""

from collections.abc import Collection, Mapping
from typing import Final

from msgspec import Struct, field

from control.envoy.patches.closed import closed
from control.envoy.proxies import ProxyKey
from control.kinds import EnvoyFilter, MeshObject, ObjectKey

Place = tuple[ProxyKey, str, str]
"""A resource of a proxy: whose, its type and its name."""


_ENOUGH: Final = 2


class Trial(Struct, eq=False):
    """A form of an object, and which of its forms. `refused`: Envoy's words, where it is not in force."""

    form: MeshObject
    number: int
    taken: set[Place]
    refused: str = ""
    retried: bool = False
    refusing: set[str] = field(default_factory=set)
    """The namespaces of the proxies that do."""

    def refused_at(self, proxy: ProxyKey, namespaces: int) -> bool:
        """Notes it; whether that is enough to take the form out. `namespaces`: of how many there are proxies."""
        self.refusing.add(proxy.namespace)
        if proxy.namespace == self.form.metadata.namespace:
            return True
        taken = {place[0].namespace for place in self.taken} - self.refusing
        return not taken and len(self.refusing) >= min(_ENOUGH, namespaces)


class Trials:
    """Follows the objects, and hears what Envoys say to resources."""

    def __init__(self) -> None:
        self._trials: dict[ObjectKey, Trial] = {}
        self._good: dict[ObjectKey, Trial] = {}
        """The last form before the present one that was taken."""
        self._new: set[ObjectKey] = set()
        """Objects that came while this controller ran: before them there was nothing."""
        self._doubted: dict[Place, list[ObjectKey]] = {}

    def follow(self, key: ObjectKey, form: MeshObject | None, *, running: bool) -> None:
        """An object has another form, or is gone (None). `running`: not what was there at the start."""
        before = self._trials.pop(key, None)
        if form is None:
            self._good.pop(key, None)
            self._new.discard(key)
            return
        if before is None and running:
            self._new.add(key)
        elif before is not None and before.taken and not before.refused:
            self._good[key] = before
        self._trials[key] = Trial(form, before.number + 1 if before is not None else 0, set())

    def forms(self, sources: Collection[ObjectKey]) -> Mapping[ObjectKey, Trial]:
        """Of these objects those that are on trial, in their present forms."""
        return {key: one for key in sources if (one := self._trials.get(key)) is not None and not one.refused}

    def took(self, place: Place, forms: Mapping[ObjectKey, Trial]) -> bool:
        """An Envoy has a resource that these forms shaped; whether that changes what is in force."""
        changed = False
        for key, form in forms.items():
            form.taken.add(place)
            present, good = self._trials.get(key), self._good.get(key)
            former = present is not None and present is not form and not form.refused
            # It was on its way when the object became another.
            if present is not None and former and (good is None or good.number < form.number):
                self._good[key] = form
                changed |= bool(present.refused)
        chain = self._doubted.pop(place, [])
        back = [one for key in chain[:-1] if (one := self._trials.get(key)) is not None and one.refused and not one.retried]
        for one in back:
            one.refused, one.retried = "", True
        return changed or bool(back)

    def refuse(self, place: Place, forms: Mapping[ObjectKey, Trial], words: str, namespaces: int = 1) -> bool:
        """An Envoy refuses a resource that these forms shaped; whether that changes what is in force. `namespaces`: with proxies."""
        present = {key: one for key, one in forms.items() if self._trials.get(key) is one}
        doubted = [key for key, one in present.items() if not one.refused and place not in one.taken]
        suspects = [key for key in doubted if present[key].refused_at(place[0], namespaces)]
        if not suspects:
            return False
        key = max(suspects, key=lambda one: (present[one].retried, present[one].form.metadata.age_rank))
        present[key].refused = words
        self._doubted.setdefault(place, []).append(key)
        return True

    @property
    def stand_ins(self) -> Mapping[ObjectKey, MeshObject | None]:
        """What is in force instead of forms that are refused."""
        return {key: self._stand_in(key, one.form) for key, one in self._trials.items() if one.refused}

    @property
    def refused(self) -> Mapping[ObjectKey, str]:
        """Which objects' present forms are refused, and what is said of it."""
        return {key: f"{self._instead(key, one.form)}: Envoy says {one.refused}" for key, one in self._trials.items() if one.refused}

    def _stand_in(self, key: ObjectKey, form: MeshObject) -> MeshObject | None:
        if key in self._good:
            return self._good[key].form
        # A plugin says itself what becomes of requests without it.
        new = isinstance(form, EnvoyFilter) and (key in self._new or form.metadata.generation == 1)
        return None if new else closed(form)

    def _instead(self, key: ObjectKey, form: MeshObject) -> str:
        if key in self._good:
            return "is refused, and its former form holds"
        if self._stand_in(key, form) is None:
            return "is refused, and has no effect"
        return "is refused, and requests are denied in its place"
