"""What the guest says on its console, line by line, and what the host believes of it: only a verdict with its own nonce that adds up."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

STEP, VERDICT = "NODEMESH-STEP ", "NODEMESH-VERDICT "


@dataclass(frozen=True)
class Step:
    """One thing that was tried. `error` is empty if it went as it must."""

    stage: str
    name: str
    took_s: float
    error: str = ""

    def line(self) -> str:
        return STEP + json.dumps(asdict(self))


@dataclass(frozen=True)
class Verdict:
    """The guest's last word."""

    nonce: str
    kernel: str
    stages: tuple[str, ...]
    """Those that ran to their end."""
    steps: int

    def line(self) -> str:
        return VERDICT + json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        fields = json.loads(text)
        return cls(**fields | {"stages": tuple(fields["stages"])})


def read_step(line: str) -> Step | None:
    """The step that a line of the console tells of, None for any other line."""
    return Step(**json.loads(line.removeprefix(STEP))) if line.startswith(STEP) else None


def judge(lines: Iterable[str], *, nonce: str, stages: Sequence[str]) -> list[str]:
    """Why a run has not passed, in words; nothing if it has: every stage, every step, and an end that is its own."""
    kept = list(lines)
    steps = [step for line in kept if (step := read_step(line))]
    verdicts = [Verdict.read(line.removeprefix(VERDICT)) for line in kept if line.startswith(VERDICT)]
    problems = [f"{step.stage}: {step.name}: {step.error}" for step in steps if step.error]
    if len(verdicts) != 1 or verdicts[0].nonce != nonce:
        return [*problems, "the machine ended without a verdict"]
    [verdict] = verdicts
    if verdict.steps != len(steps):
        problems.append(f"the machine took {verdict.steps} steps, {len(steps)} arrived")
    if missing := [stage for stage in stages if stage not in verdict.stages]:
        problems.append(f"not run to the end: {', '.join(missing)}")
    return problems
