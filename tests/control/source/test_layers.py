"""Two layers of objects: whatever happens in either, the whole is the first with the second showing through."""

from hypothesis import given
from hypothesis import strategies as st

from control.kinds import Meta, ObjectKey, ServiceAccount
from control.source import Change, Reject, Remove, Upsert
from control.source.layers import Layers
from control.validation.finding import Origin

NAMES = ("a", "b")


def key(name: str) -> ObjectKey:
    return ServiceAccount(Meta(name, "x")).key


def upsert(name: str, version: int, layer: str) -> Upsert:
    return Upsert(ServiceAccount(Meta(name, "x", labels={"v": str(version), "layer": layer})), Origin(layer), {})


EVENTS = st.tuples(st.sampled_from(["first", "second"]), st.sampled_from(["put", "reject", "remove"]), st.sampled_from(NAMES))


@given(st.lists(EVENTS, max_size=20))
def test_the_first_layer_wins_and_the_second_shows_through(events: list[tuple[str, str, str]]) -> None:
    layers = Layers()
    first: dict[ObjectKey, Change] = {}
    second: dict[ObjectKey, Change] = {}
    seen: dict[ObjectKey, Change] = {}
    for version, (layer, what, name) in enumerate(events):
        if layer == "second":
            change = upsert(name, version, layer)
            out = layers.put(change) if what != "remove" else layers.remove(key(name))
            second = second | {change.key: change} if what != "remove" else {one: held for one, held in second.items() if one != key(name)}
        else:
            said: Change = upsert(name, version, layer)
            if what != "put":
                said = Reject(key(name), Origin("f"), ()) if what == "reject" else Remove(key(name))
            out = layers.first([said])
            first = {one: held for one, held in first.items() if one != key(name)} | ({} if what == "remove" else {key(name): said})
        for change in out:
            assert isinstance(change, Upsert | Reject | Remove)
            one = change.key
            if isinstance(change, Remove):
                seen.pop(one, None)
            else:
                seen[one] = change
        assert seen == second | first
        assert all(layers.defines(one) == (one in first) for one in map(key, NAMES))
