"""What is kept of resolvers' answers: as long as they hold, and never more than there is room for."""

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.dns import wire
from nodeagent.dns.cache import MAX_NEGATIVE_LIFE_S, Cache, key_of
from nodeagent.dns.wire import Query, Response


def query(name: str, flags: int = 0x100) -> Query:
    question = wire.write_name(name) + b"\0\1\0\1"
    return Query(1, flags, question, name.lower(), 1, 1)


def response(lives_s: int | None, code: int = 0) -> Response:
    return Response(1, 0x8180, code, b"", (), lives_s)


def test_until_it_no_longer_holds() -> None:
    cache = Cache()
    key = key_of(query("a.example"), "10.0.0.53", by_tcp=False)
    cache.put(key, b"packet", response(60), 100.0)
    assert cache.get(key, 159.9) is not None
    assert cache.get(key, 160.0) is None
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_what_is_not_to_be_kept() -> None:
    cache = Cache()
    for lives_s in (None, 0):
        cache.put(key_of(query("a.example"), "s", by_tcp=False), b"", response(lives_s), 0.0)
    cache.put(key_of(query("big.example"), "s", by_tcp=False), bytes(600 * 1024), response(60), 0.0)
    assert len(cache) == 0


def test_that_there_is_nothing_is_not_believed_for_hours() -> None:
    cache = Cache()
    key = key_of(query("a.example"), "s", by_tcp=False)
    cache.put(key, b"", response(100_000, code=3), 0.0)
    assert cache.get(key, MAX_NEGATIVE_LIFE_S - 1.0) is not None
    assert cache.get(key, MAX_NEGATIVE_LIFE_S) is None


def test_one_answer_for_all_ways_to_write_a_name_and_for_one_resolver_only() -> None:
    assert key_of(query("A.Example"), "s", by_tcp=False) == key_of(query("a.example"), "s", by_tcp=False)
    keys = {
        key_of(query("a.example"), "s", by_tcp=False),
        key_of(query("a.example"), "t", by_tcp=False),
        key_of(query("a.example"), "s", by_tcp=True),
        key_of(query("a.example", flags=0x110), "s", by_tcp=False),
    }
    assert len(keys) == 4


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3000), st.integers(1, 50)), max_size=80))
def test_it_never_grows_beyond_its_room(puts: list[tuple[int, int, int]]) -> None:
    cache = Cache(max_entries=6, max_bytes=9000)
    for now, (name, size, lives_s) in enumerate(puts):
        key = key_of(query(f"n{name}.example"), "s", by_tcp=False)
        cache.put(key, bytes(size), response(lives_s), float(now))
        assert len(cache) <= 6
        assert 0 <= cache.size_bytes <= 9000
        cache.get(key_of(query(f"n{(name + 1) % 20}.example"), "s", by_tcp=False), float(now))
    for name in range(21):
        cache.get(key_of(query(f"n{name}.example"), "s", by_tcp=False), 1e9)
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_the_least_used_makes_room() -> None:
    cache = Cache(max_entries=2)
    first, second, third = (key_of(query(f"n{number}.example"), "s", by_tcp=False) for number in range(3))
    cache.put(first, b"", response(60), 0.0)
    cache.put(second, b"", response(60), 1.0)
    assert cache.get(first, 2.0) is not None
    cache.put(third, b"", response(60), 3.0)
    assert cache.get(second, 4.0) is None
    assert cache.get(first, 4.0) is not None
