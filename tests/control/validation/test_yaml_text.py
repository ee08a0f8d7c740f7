"""Text that is YAML is read with its lines; text that is not, or too much, is an error and nothing worse."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.validation.yaml_text import MAX_DEPTH, MAX_NODES, YAMLError, read_document, split_documents


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: [x, 'y', \"z\"]", {"a": 1, "b": ["x", "y", "z"]}),
        ("a: true\nb: no\nc: On\nd: 'true'", {"a": True, "b": False, "c": True, "d": "true"}),
        ("8080: {mode: x}", {"8080": {"mode": "x"}}),
        ("a: 0777\nb: 1_000\nc: 0x10\nd: 1e3\ne: 80:80", {"a": "0777", "b": "1_000", "c": "0x10", "d": "1e3", "e": "80:80"}),
        ("a: 2030-01-01T00:00:00Z", {"a": "2030-01-01T00:00:00Z"}),
        ("a: 1.5\nb: -3\nc: 12345678901234567890", {"a": 1.5, "b": -3, "c": "12345678901234567890"}),
        ("a: ~\nb:\nc: null\nd: ''", {"d": ""}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ('{"json": [1, {"a": null}]}', {"json": [1, {}]}),
        ("# nothing\n", None),
        ("", None),
        ("---\n", None),
    ],
)
def test_values(text: str, value: object) -> None:
    node = read_document(text, 1)
    assert (node.plain() if node else None) == value


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: b: c", 10, "not YAML"),
        ("a: 1\nb: 2\na: 3", 12, "stands here twice, first in line 10"),
        ("a: !!python/object:os.system x", 10, "tags"),
        ("a: !env x", 10, "tags"),
        ("<<: {a: 1}", 10, "merge keys"),
        ("? [a]\n: b", 10, "must be a single value"),
        ("*a : b", 10, "unknown alias"),
        ("- &a [*a]", 10, "unknown alias"),
        ("a: 1\r---\rb: 2", 12, "second document"),
        ("a: 1\n...\nb: 2", 12, "not YAML"),
        ("a: \x00", 10, "not YAML"),
        ("a: \ud800", 10, "not YAML"),
        ("[" * (MAX_DEPTH + 1), 10, "nested deeper"),
    ],
)
def test_what_is_refused_says_where(text: str, line: int, what: str) -> None:
    with pytest.raises(YAMLError, match=what) as caught:
        read_document(text, 10)
    assert caught.value.line == line


BOMB = "a0: &a0 [" + ",".join("x" * 10) + "]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "text",
    ["[" * 1_000_000, "{a: " * 250_000, "- " * 400_000, BOMB, "x" * 2_000_000, "[" + "a," * (MAX_NODES + 1) + "]"],
    ids=["brackets", "braces", "dashes", "aliases", "long", "wide"],
)
def test_bombs_are_errors_and_cost_little(text: str) -> None:
    start = time.process_time()
    with pytest.raises(YAMLError):
        read_document(text, 1)
    assert time.process_time() - start < 2


def test_nodes_know_their_place() -> None:
    node = read_document("a:\n  b:\n  - c\n  - d: 1\n", 5)
    assert node is not None
    assert [(node.at(path).line, node.at(path).column) for path in [(), ("a",), ("a", "b", 1), ("a", "b", 1, "d"), ("a", "x", "y")]] == [
        (5, 1),
        (6, 3),
        (8, 5),
        (8, 8),
        (6, 3),
    ]


def test_documents_are_cut_at_their_marks_with_their_lines() -> None:
    text = "a: 1\n---\nb: |\n  --- not a mark\n--- # mark\nc: 1\n----\n"
    parts = list(split_documents(text))
    assert [line for line, _ in parts] == [1, 2, 5]
    assert "".join(part for _, part in parts) == text


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"\n #,?%@`~<\t\r0."), max_size=60))
def test_garbage_is_read_or_refused(text: str) -> None:
    for line, part in split_documents(text):
        try:
            node = read_document(part, line)
            begins = node.line if node else line
        except YAMLError as error:
            begins = error.line
        assert line <= begins <= line + text.count("\n") + text.count("\r") + 1
