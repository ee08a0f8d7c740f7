"""Which flow a series number of the proxy stands for.

Numbers are of one session, and the proxy never takes one back: the one that was unused longest makes room.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from nodeagent.telemetry.labels import LABELS, LOG, RESPONSE_FLAGS, UNKNOWN
from nodeagent.ztunnel.protocol import GivenBack

MAX_SERIES: Final = 20_000

MAX_VALUE_CHARS: Final = 2048

_SPLIT: Final = LABELS.index(RESPONSE_FLAGS)


@dataclass(frozen=True, slots=True)
class Flow:
    """The labels as text, before and after the response flags, and the access log's own fields."""

    labels: tuple[str, str]
    log: dict[str, str]


class SeriesTable:
    """Series numbers of one session."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        self._max_series = max_series
        self._flows: OrderedDict[int, Flow] = OrderedDict()
        self._texts: dict[tuple[str, str], tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def define(self, number: int, attributes: GivenBack) -> None:
        """Says what a number stands for."""
        labels = label_text(attributes)
        known = attributes.get(LOG)
        log = {str(name): str(value) for name, value in known.items()} if isinstance(known, dict) else {}
        self._flows[number] = Flow(self._texts.setdefault(labels, labels), log)
        self._flows.move_to_end(number)
        if len(self._flows) > self._max_series:
            self._flows.popitem(last=False)
            if len(self._texts) > self._max_series:
                self._texts = {flow.labels: flow.labels for flow in self._flows.values()}

    def find(self, number: int | None) -> Flow | None:
        """The flow of a number that is known."""
        if number is None or number not in self._flows:
            return None
        self._flows.move_to_end(number)
        return self._flows[number]


def label_text(attributes: GivenBack) -> tuple[str, str]:
    """The labels in the text format of Prometheus, in their order, before and after the response flags."""
    pairs = [f'{name}="{escape(str(attributes.get(name, UNKNOWN))[:MAX_VALUE_CHARS])}"' for name in LABELS]
    return ",".join(pairs[:_SPLIT]), ",".join(pairs[_SPLIT + 1 :])


def escape(value: str) -> str:
    """Escapes a label's value for the text format (backslash, quote and line feed)."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
