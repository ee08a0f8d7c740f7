"""JSON as the nodes that YAML is read into, so that one set of checks serves both; there are no lines."""

from typing import Any

import msgspec

from control.validation.yaml_text import MAX_DEPTH, MAX_NODES, YAMLError, YAMLNode


def read_json(raw: bytes) -> YAMLNode:
    """Raises YAMLError for what is no JSON, or nested or sized beyond what YAML may be."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise YAMLError(str(error), 0, 0) from error
    return _Builder().node(value, 0)


class _Builder:
    def __init__(self) -> None:
        self._nodes = 0

    def node(self, value: Any, depth: int) -> YAMLNode:
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise YAMLError(f"nested deeper than {MAX_DEPTH}" if depth > MAX_DEPTH else f"more than {MAX_NODES} values", 0, 0)
        match value:
            case dict():
                return YAMLNode({key: self.node(one, depth + 1) for key, one in value.items()}, 0, 0)
            case list():
                return YAMLNode([self.node(one, depth + 1) for one in value], 0, 0)
            case _:
                return YAMLNode(value, 0, 0)
