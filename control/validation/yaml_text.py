"""Reads YAML into nodes that remember their lines, within limits on size, depth and expansion.

Works on libyaml's events with a stack of its own: a nesting bomb can't overflow the C stack, and an alias bomb is counted
before it is expanded. Tags, merge keys and duplicate keys are refused: two readers could understand them differently.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml
from msgspec import Struct

from control.validation.finding import Finding, Origin, Severity

MAX_FILE_BYTES: Final = 8 << 20
MAX_DOCUMENT_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 64
MAX_NODES: Final = 100_000
_DOCUMENT_START = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})\Z", re.ASCII)
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})\.[0-9]{1,17}\Z", re.ASCII)
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    # The words of YAML 1.1, which kubectl reads as booleans too.
    **{form: truth for truth, words in ((True, "true yes on"), (False, "false no off")) for word in words.split()
       for form in (word, word.capitalize(), word.upper())},
}  # fmt: skip

Scalar = str | int | float | bool | None


class YAMLError(ValueError):
    """Text that is not acceptable YAML, with the line (from 1) and column."""

    def __init__(self, what: str, line: int, column: int = 1) -> None:
        super().__init__(what)
        self.line = line
        self.column = column


class YAMLNode(Struct):
    """A value and where it begins. `weight` is how many nodes it expands to."""

    value: "Scalar | list[YAMLNode] | dict[str, YAMLNode]"
    line: int
    column: int
    weight: int = 1

    def plain(self) -> object:
        """The value as builtin types; entries of a map that are null are left out, as if they were not there."""
        match self.value:
            case dict() as entries:
                return {key: node.plain() for key, node in entries.items() if node.value is not None}
            case list() as items:
                return [node.plain() for node in items]
            case scalar:
                return scalar

    def at(self, path: tuple[str | int, ...]) -> "YAMLNode":
        """The node a path leads to, or the last one on the way that exists."""
        node = self
        for step in path:
            match node.value, step:
                case dict() as entries, str() if step in entries:
                    node = entries[step]
                case list() as items, int() if step < len(items):
                    node = items[step]
                case _:
                    return node
        return node


class _Open(Struct):
    """A collection that is still being read."""

    node: YAMLNode
    anchor: str | None
    key: str | None = None


def split_documents(text: str) -> Iterator[tuple[int, str]]:
    """Cuts a file at its `---` lines, so that a broken document spoils no other; yields each with its first line's number."""
    start, line = 0, 1
    for end in [*(mark.start() for mark in _DOCUMENT_START.finditer(text)), len(text)]:
        yield line, text[start:end]
        line += text.count("\n", start, end)
        start = end


def read_document(text: str, first_line: int) -> YAMLNode | None:
    """Reads one document; None if it holds nothing. Raises YAMLError."""
    if len(text) > MAX_DOCUMENT_BYTES:
        raise YAMLError(f"the document is longer than {MAX_DOCUMENT_BYTES} characters", first_line)
    try:
        return _Composer(first_line).compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + first_line, mark.column + 1) if mark else (first_line, 1)
        raise YAMLError(f"not YAML: {error.problem or error.context}", line, column) from error
    except (yaml.YAMLError, UnicodeError, ValueError) as error:
        if isinstance(error, YAMLError):
            raise
        raise YAMLError(f"not YAML: {' '.join(str(error).split())}", first_line) from error


class _Composer:
    def __init__(self, first_line: int) -> None:
        self._first_line = first_line
        self._anchors: dict[str, YAMLNode] = {}
        self._stack: list[_Open] = []
        self._root: YAMLNode | None = None
        self._nodes = 0

    def compose(self, text: str) -> YAMLNode | None:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            mark: Any = event.start_mark
            line, column = mark.line + self._first_line, mark.column + 1
            match event:
                case yaml.ScalarEvent():
                    self._scalar(event, line, column)
                case yaml.MappingStartEvent():
                    self._open(event, YAMLNode({}, line, column))
                case yaml.SequenceStartEvent():
                    self._open(event, YAMLNode([], line, column))
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    closed = self._stack.pop()
                    self._add(closed.node, closed.anchor)
                case yaml.AliasEvent():
                    if event.anchor not in self._anchors:
                        raise YAMLError(f"unknown alias *{event.anchor}", line, column)
                    self._add(self._anchors[event.anchor], None)
        empty = self._root is None or (self._root.value is None and self._root.weight == 1)
        return None if empty else self._root

    def _open(self, event: yaml.CollectionStartEvent, node: YAMLNode) -> None:
        _refuse_tag(event.tag, node)
        if len(self._stack) >= MAX_DEPTH:
            raise YAMLError(f"nested deeper than {MAX_DEPTH}", node.line, node.column)
        if self._stack and isinstance(self._stack[-1].node.value, dict) and self._stack[-1].key is None:
            raise YAMLError("a map's key must be a single value", node.line, node.column)
        self._stack.append(_Open(node, event.anchor))

    def _scalar(self, event: yaml.ScalarEvent, line: int, column: int) -> None:
        node = YAMLNode(event.value, line, column)
        _refuse_tag(event.tag, node)
        parent = self._stack[-1] if self._stack else None
        if parent is not None and isinstance(parent.node.value, dict) and parent.key is None:
            self._key(parent, parent.node.value, node)
            return
        if event.implicit[0]:
            node.value = _resolve(event.value)
        self._add(node, event.anchor)

    @staticmethod
    def _key(parent: _Open, entries: dict[str, YAMLNode], node: YAMLNode) -> None:
        key = str(node.value)
        if key == "<<":
            raise YAMLError("merge keys (<<) are not supported", node.line, node.column)
        if key in entries:
            raise YAMLError(f"the key {key[:80]!r} stands here twice, first in line {entries[key].line}", node.line, node.column)
        parent.key = key

    def _add(self, node: YAMLNode, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        self._nodes += 1
        if not self._stack:
            if self._root is not None:
                raise YAMLError("a second document begins without a line --- between them", node.line, node.column)
            self._root = node
            return
        parent = self._stack[-1]
        parent.node.weight += node.weight
        if parent.node.weight > MAX_NODES or self._nodes > MAX_NODES:
            raise YAMLError(f"the document expands to more than {MAX_NODES} values", node.line, node.column)
        match parent.node.value:
            case dict() as entries:
                if parent.key is None:
                    raise YAMLError("a map's key must be a single value", node.line, node.column)
                entries[parent.key] = node
                parent.key = None
            case list() as items:
                items.append(node)


def _refuse_tag(tag: str | None, node: YAMLNode) -> None:
    # libyaml gives "!" to a scalar that is only marked as not plain.
    if tag not in {None, "!"}:
        raise YAMLError(f"tags ({tag}) are not supported", node.line, node.column)


def _resolve(text: str) -> Scalar:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text):
        return int(text)
    return float(text) if _FLOAT.match(text) else text


def syntax_finding(file: str, error: YAMLError) -> Finding:
    """A YAMLError as a finding."""
    hint = "correct it; until then what the controller last read from here stays in use"
    return Finding(Origin(file, error.line, error.column), Severity.ERROR, str(error), hint)
