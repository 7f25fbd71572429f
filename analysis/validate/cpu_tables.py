"""Tables of `opbyte measure configs` as a check: every configuration was timed, so regrets are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...kernels.configs import SPACES
from ...workloads.csvfile import numbers, read_whole
from ...workloads.errors import InputError
from ...workloads.kernel_tables import Skipped
from .cpu_configs import FEWEST, Choice, choice

STEM = "configs_"
REGRET = 1.10
"""Geometric mean of the model's regret that a quiet machine must stay within."""
TEXT = ("device", "kernel")


@dataclass(frozen=True, slots=True)
class CpuCheck:
    """One kernel on one machine: the model's choices against the best of all that were timed."""

    device: str
    found: Choice

    @property
    def passed(self) -> bool:
        """Whether the model's choice is as good as it should be, on shapes that it was not fitted on."""
        return self.found.fitted.geomean <= REGRET

    def row(self) -> dict[str, Any]:
        """Return the values of the check; None for censored tables."""
        c = self.found
        unknown = dict.fromkeys(
            ("hit", "random", "look_up", "default1", "tile1", "gain", "best_p90_ape", "best_bias",
             "default_median_ape", "grid_median_ape", "speedup_median_ape")
        )  # fmt: skip
        regret = {"model": c.fitted, "unfitted": c.unfitted, "default": c.default, "random": c.random}
        return {
            "device": self.device, "kernel": c.kernel, "n": c.shapes,
            "searched": c.configs // max(c.shapes, 1), **unknown, "best_median_ape": c.median_ape,
            "regret": {name: asdict(value) for name, value in regret.items()}, "passed": self.passed,
        }  # fmt: skip


def tables_in(paths: Iterable[str | Path]) -> list[Path]:
    """Tables of configurations of CPU kernels, of files and of folders and their ``tables``."""
    out: list[Path] = []
    for path in map(Path, paths):
        inside = [*path.glob("*.csv"), *path.glob("tables/*.csv")] if path.is_dir() else [path]
        out += sorted(file for file in inside if file.stem.startswith(STEM))
    return out


def check_cpu(paths: Iterable[Path]) -> tuple[list[CpuCheck], list[Skipped]]:
    """Judge the model of the CPU kernels on what `measure configs` wrote.

    Raises
    ------
    InputError
        A table of an unknown kernel, or a bad cell; with file, line and column.
    """
    spaces = {space.name: space for space in SPACES}
    checks, skipped = [], []
    for path in paths:
        kernel = path.stem.removeprefix(STEM)
        if kernel not in spaces:
            raise InputError(path, f"is of no kernel with configurations ({', '.join(spaces)})")
        default = asdict(spaces[kernel].default)
        wanted = ["device", *spaces[kernel].shape, *default, "seconds", "steady"]
        columns = read_whole(path, wanted)
        values = {name: numbers(c).tolist() for name, c in columns.items() if name not in TEXT}
        keys = {*spaces[kernel].shape, *default}
        rows = [
            {n: int(v) if n in keys else v for n, v in zip(values, line, strict=True)}
            for line in zip(*values.values(), strict=True)
        ]
        chosen = choice(kernel, rows, default)
        if chosen is None:
            reason = f"fewer than {FEWEST} shapes count, the machine did not hold still"
            skipped.append(Skipped(str(path), 0, reason))
        else:
            checks.append(CpuCheck(str(columns["device"].cells[0]), chosen))
    return checks, skipped
