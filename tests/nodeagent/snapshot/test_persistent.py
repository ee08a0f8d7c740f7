"""The persistent map behaves as a dict that is copied at each change, and shares what did not change."""

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.snapshot.persistent import SHARDS, PersistentMap

_changes = st.lists(st.dictionaries(st.integers(0, 600), st.one_of(st.none(), st.integers()), max_size=30), max_size=6)


@given(_changes)
def test_each_version_stays_what_it_was(batches: list[dict[int, int | None]]) -> None:
    versions: list[tuple[PersistentMap[int, int], dict[int, int]]] = [(PersistentMap(), {})]
    for batch in batches:
        last, model = versions[-1]
        following = {**model, **{key: value for key, value in batch.items() if value is not None}}
        for key in (key for key, value in batch.items() if value is None):
            following.pop(key, None)
        versions.append((last.changed(batch), following))
    for version, model in versions:
        assert dict(version.items()) == model
        assert len(version) == len(model)
        assert sorted(version) == sorted(model)
        assert sorted(version.values()) == sorted(model.values())
        assert all(version.get(key) == model.get(key) and (key in version) == (key in model) for key in range(600))


def test_a_change_copies_one_shard_only() -> None:
    before: PersistentMap[int, int] = PersistentMap[int, int]().changed({key: key for key in range(10_000)})
    after = before.changed({7: 0})
    copied = [number for number in range(SHARDS) if before._shards[number] is not after._shards[number]]
    assert copied == [hash(7) % SHARDS]
