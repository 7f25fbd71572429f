"""Plans of policy ``vllm`` against those that vLLM's own scheduler made (``validate schedules``)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...simulator.frameworks.replay import ScheduleCase, read_cases, replay
from ...workloads.errors import errors_in
from ..parallel import OnProgress
from ..show.text import Blocks, Rows
from .check import Compared


@dataclass(frozen=True, slots=True)
class Difference:
    """The first plan of a case that is not the expected one.

    Attributes
    ----------
    plan : int or None
        Its position; None if all plans are equal and a request's timestamps differ.
    expected, got
        The plan or the timestamps, None if there is none.
    """

    name: str
    plan: int | None
    expected: Any
    got: Any


@dataclass(frozen=True, slots=True)
class SchedulesValidation(Compared):
    """Result of comparing schedules: the cases, and those with a difference.

    Attributes
    ----------
    names : tuple of str
        All cases.
    differences : tuple of Difference
        One of each case that was not.
    """

    FILE = "schedules.json"

    names: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        return not self.differences

    @property
    def equal(self) -> int:
        """Cases without a difference."""
        return len(self.names) - len(self.differences)

    def to_dict(self) -> dict[str, Any]:
        return {"cases": len(self.names), "equal": self.equal, "differences": list(self.records())}

    def records(self) -> Rows:
        return [asdict(d) for d in self.differences]

    def rows(self) -> Rows:
        return [
            {"case": d.name, "plan": "stamps" if d.plan is None else d.plan, "expected": _short(d.expected),
             "got": _short(d.got)}
            for d in self.differences
        ]  # fmt: skip

    def blocks(self) -> Blocks:
        line = f"schedules: {self.equal} of {len(self.names)} cases planned alike"
        return [line, self.rows()] if self.differences else [line]


def _short(value: Any, most: int = 60) -> str:
    """Return a plan as text of at most `most` characters."""
    text = "-" if value is None else json.dumps(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def validate_schedules(path: str | Path, *, progress: OnProgress | None = None) -> SchedulesValidation:
    """Plan the cases of a file and compare every plan.

    Parameters
    ----------
    path : path-like
        One case a line, in the form of ``$OPBYTE_DATA/vllm_schedules/schedules.jsonl``.
    progress : callable, optional
        Called with (cases done, cases).

    Raises
    ------
    InputError
        A file, line or setting that cannot be used.
    """
    cases = read_cases(Path(path))
    results = []
    for k, case in enumerate(cases):
        with errors_in(f"{path}: case {case.name!r}"):
            difference = compare(case)
        if difference is not None:
            results.append(difference)
        if progress:
            progress(k + 1, len(cases))
    return SchedulesValidation(tuple(case.name for case in cases), tuple(results))


def compare(case: ScheduleCase) -> Difference | None:
    """Return the first difference between a case's plans and OpByte's; None without one.

    Steps are planned one by one to record them. A second run with fast-forwarded decode steps must have identical
    timestamps.
    """
    plans, done = replay(case, record=True)
    for k in range(max(len(plans), len(case.plans))):
        expected = case.plans[k] if k < len(case.plans) else None
        got = plans[k] if k < len(plans) else None
        if expected != got:
            return Difference(case.name, k, expected, got)
    for stamps in (done, replay(case, record=False)[1]):
        for expected, got in zip(case.done, stamps, strict=True):
            if expected != got:
                return Difference(case.name, None, expected, got)
    return None
