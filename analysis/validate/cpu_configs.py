"""Quality of the CPU kernels' configuration model.

Every configuration was timed here. *Regret* is the time of the chosen configuration over the best one's, 1 at best. The
model's constants are fitted on half of the shapes and choose on the other half, both ways round. They are compared with
the default constants, the kernel's default and a random choice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...devices.tiles.cpu import FORMS, Core, CpuForm
from ...kernels.configs import SPACES
from ...workloads.csvfile import numbers, read_whole
from ...workloads.errors import InputError
from ...workloads.kernel_tables import Skipped

STEM = "configs_"
REGRET = 1.10
"""Geometric mean of the model's regret that a quiet machine must stay within."""
TEXT = ("device", "kernel")
UNKNOWN = dict.fromkeys(
    (
        "hit",
        "random",
        "look_up",
        "default1",
        "tile1",
        "gain",
        "default_median_ape",
        "grid_median_ape",
        "speedup_median_ape",
    )
)
"""Values of a check of configurations that only censored tables have."""


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
        regret = {"model": c.fitted, "unfitted": c.unfitted, "default": c.default, "random": c.random}
        return {
            "device": self.device, "kernel": c.kernel, "n": c.shapes,
            "searched": c.configs // max(c.shapes, 1), **UNKNOWN, "best_p90_ape": None, "best_bias": None, "best_median_ape": c.median_ape,
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
            raise InputError(path, f"must be a table of a kernel with configurations ({', '.join(spaces)})")
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
            reason = f"fewer than {FEWEST} undisturbed shapes; stop other programs and measure again"
            skipped.append(Skipped(str(path), 0, reason))
        else:
            checks.append(CpuCheck(str(columns["device"].cells[0]), chosen))
    return checks, skipped


F8 = npt.NDArray[np.float64]
Row = Mapping[str, Any]
NOISE = 0.05
"""Relative error of a time that weighs as much as a constant one `factor` from its start."""


@dataclass(frozen=True, slots=True)
class TimedShape:
    """One shape with all its configurations that count.

    Attributes
    ----------
    seconds : float64 array, shape (configs,)
    default : int
        Which configuration is the kernel's default.
    """

    shape: Mapping[str, int]
    configs: Sequence[Mapping[str, int]]
    core: Core
    seconds: F8
    default: int

    def predicted(self, form: CpuForm, p: Mapping[str, float]) -> F8:
        """The model's seconds of every configuration."""
        return np.array([form.seconds(p, self.core, self.shape, c) for c in self.configs])

    def regret(self, predicted: F8) -> float:
        return float(self.seconds[predicted.argmin()] / self.seconds.min())


@dataclass(frozen=True, slots=True)
class Regret:
    """Regrets over shapes: geometric mean and 90th percentile."""

    geomean: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Regret:
        return cls(float(np.exp(np.mean(np.log(values)))), float(np.quantile(values, 0.9)))


@dataclass(frozen=True, slots=True)
class Choice:
    """What the model of one kernel comes to.

    Attributes
    ----------
    shapes, configs, left_out : int
        Shapes and configurations judged, and shapes that the machine disturbed.
    fitted, unfitted, default, random : Regret
        `fitted` on shapes that its constants were not fitted on.
    median_ape : float
        Of the fitted model's seconds on those shapes.
    parameters : dict of str to float
        Fitted on all shapes.
    """

    kernel: str
    shapes: int
    configs: int
    left_out: int
    fitted: Regret
    unfitted: Regret
    default: Regret
    random: Regret
    median_ape: float
    parameters: dict[str, float]


FEWEST = 4
"""Configurations of a shape that must count, and shapes that can be halved."""


def choice(kernel: str, rows: Sequence[Row], default: Mapping[str, int]) -> Choice | None:
    """Judge the model of one kernel on rows of one machine; None with too few that count."""
    form, (shapes, left_out) = FORMS[kernel], timed(rows, default)
    if len(shapes) < FEWEST:
        return None
    order = np.random.default_rng(0).permutation(len(shapes))
    halves = [[shapes[i] for i in order[h::2]] for h in range(2)]
    fitted, errors = [], []
    for known, unseen in (halves, halves[::-1]):
        p = fit(form, known)
        for one in unseen:
            predicted = one.predicted(form, p)
            fitted.append(one.regret(predicted))
            errors.extend(np.abs(predicted / one.seconds - 1.0).tolist())
    plain = [one.regret(one.predicted(form, form.start)) for one in shapes]
    usual = [float(one.seconds[one.default] / one.seconds.min()) for one in shapes]
    drawn = [float(np.exp(np.log(one.seconds / one.seconds.min()).mean())) for one in shapes]
    return Choice(
        kernel, len(shapes), sum(len(one.configs) for one in shapes), left_out, Regret.of(fitted),
        Regret.of(plain), Regret.of(usual), Regret.of(drawn), float(np.median(errors)),
        fit(form, shapes),
    )  # fmt: skip


def timed(rows: Sequence[Row], default: Mapping[str, int]) -> tuple[list[TimedShape], int]:
    """Shapes with the configurations that count, and how many shapes were left out."""
    groups: dict[tuple[int, ...], list[Row]] = defaultdict(list)
    fields = tuple(default)
    shape = tuple(n for n in rows[0] if n in SHAPE) if rows else ()
    for row in rows:
        groups[tuple(row[n] for n in shape)].append(row)
    out = []
    for key, group in groups.items():
        good = [row for row in group if row["steady"]]
        at = [i for i, row in enumerate(good) if all(row[n] == default[n] for n in fields)]
        if len(good) < FEWEST or not at:
            continue
        core = Core.of(good[0])
        configs = [{n: row[n] for n in fields} for row in good]
        seconds = np.array([row["seconds"] for row in good])
        out.append(TimedShape(dict(zip(shape, key, strict=True)), configs, core, seconds, at[0]))
    return out, len(groups) - len(out)


SHAPE = ("m", "n", "k", "batch", "kv_len", "q_len", "kv_prefix", "heads_q", "heads_kv", "head_dim", "window")


def fit(form: CpuForm, shapes: Sequence[TimedShape]) -> dict[str, float]:
    """Constants of a form from timed shapes, each shape with equal weight, held near their starts."""
    from scipy.optimize import least_squares

    names = list(form.parameters)
    start = np.log([form.parameters[n].start for n in names])
    width = np.log([form.parameters[n].factor for n in names])
    weight = [1.0 / (NOISE * np.sqrt(len(one.configs))) for one in shapes]

    def named(x: F8) -> dict[str, float]:
        return dict(zip(names, np.exp(x).tolist(), strict=True))

    def residuals(x: F8) -> F8:
        p = named(x)
        errors = [w * np.log(one.predicted(form, p) / one.seconds) for one, w in zip(shapes, weight, strict=True)]
        return np.concatenate([*errors, (x - start) / width])

    return named(least_squares(residuals, start, loss="soft_l1").x)
