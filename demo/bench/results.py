"""What a part of the benchmarks found, and how it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from demo.bench.measure import Metric


@dataclass(frozen=True)
class Comparison:
    """Lanes side by side. `figures` by lane and name of what was measured; `baseline` is the lane that others are compared with."""

    title: str
    metrics: tuple[Metric, ...]
    figures: Mapping[tuple[str, str], float]
    baseline: str | None = None

    @property
    def lanes(self) -> list[str]:
        return list(dict.fromkeys(lane for lane, _ in self.figures))

    def rows(self) -> dict[str, float]:
        """By one name each, for a file."""
        return {f"{self.title} | {lane} | {name}": value for (lane, name), value in self.figures.items()}

    def show(self, console: Console) -> None:
        """A table, a lane in each column; in brackets, how much more or less than the base line it is."""
        table = Table(title=self.title)
        table.add_column("")
        for lane in self.lanes:
            table.add_column(lane, justify="right")
        for metric in self.metrics:
            table.add_row(f"{metric.name} ({metric.unit}, {metric.better} is better)", *self._cells(metric.name, ",.1f"))
            if metric.cost is not None:
                table.add_row(f"{metric.cost.name} ({metric.cost.unit}, less is better)", *self._cells(metric.cost.name, ",.3f"))
        console.print(table)

    def _cells(self, name: str, form: str) -> list[str]:
        return [self._cell(lane, name, form) for lane in self.lanes]

    def _cell(self, lane: str, name: str, form: str) -> str:
        if (value := self.figures.get((lane, name))) is None:
            return "-"
        base = self.figures.get((self.baseline, name)) if self.baseline not in {None, lane} else None
        return format(value, form) + (f" ({value / base - 1:+.0%})" if base else "")


@dataclass(frozen=True)
class Figures:
    """Single figures by name, the unit in the name."""

    values: Mapping[str, float]

    def rows(self) -> dict[str, float]:
        return dict(self.values)

    def show(self, console: Console) -> None:
        """One below the other."""
        table = Table()
        table.add_column("")
        table.add_column("", justify="right")
        for name, value in self.values.items():
            table.add_row(name, f"{value:,.1f}")
        console.print(table)


Result = Comparison | Figures
