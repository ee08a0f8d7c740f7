"""Pages and events as bytes: read right, whatever way they are cut; and what is none is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeapi.watching import Bookmark, Deleted, Item, Page, Seen
from kubeapi.wire import Lines, WireError, read_event, read_page

POD = {"metadata": {"name": "a", "namespace": "ns", "resourceVersion": "7"}, "spec": {"x": [1, {}]}}


def event(kind: str, item: object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode()


def test_a_page() -> None:
    page = read_page(json.dumps({"metadata": {"resourceVersion": "9", "continue": "next"}, "items": [POD]}).encode())
    assert page == Page((Item("ns", "a", "7", json.dumps(POD).encode()),), "next", "9")
    assert read_page(b'{"metadata": {"resourceVersion": "9"}, "items": null}') == Page((), "", "9")


def test_events() -> None:
    item = Item("ns", "a", "7", json.dumps(POD).encode())
    assert read_event(event("ADDED", POD)) == read_event(event("MODIFIED", POD)) == Seen(item)
    assert read_event(event("DELETED", POD)) == Deleted(item)
    assert read_event(event("BOOKMARK", {"metadata": {"resourceVersion": "8"}})) == Bookmark("8")


def test_an_event_that_says_that_the_watch_failed() -> None:
    with pytest.raises(WireError) as error:
        read_event(event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}))
    assert error.value.status == 410


@given(
    st.one_of(
        st.binary(),
        st.text().map(str.encode),
        st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps).map(str.encode),
    )
)
def test_anything_else_is_an_error_and_nothing_worse(body: bytes) -> None:
    with pytest.raises(WireError):
        read_page(body)
    with pytest.raises(WireError):
        read_event(body)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"type":"ADDED","object":' + b"[" * 100_000, b'{"type":"NEW","object":{"metadata":{"resourceVersion":"1"}}}']
)
def test_bombs_and_words_of_another_version(body: bytes) -> None:
    with pytest.raises(WireError):
        read_event(body)


@given(st.lists(st.binary(min_size=1).filter(lambda line: b"\n" not in line and line.strip() != b"")), st.data())
def test_lines_come_out_whole_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    reader, out = Lines(), []
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        out += reader.feed(whole[begin:end])
    assert out == lines


def test_a_line_without_end_is_refused() -> None:
    reader, piece = Lines(), b"x" * (1 << 20)
    for _ in range(16):
        assert reader.feed(piece) == []
    with pytest.raises(WireError):
        reader.feed(piece)
