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
"""Largest accepted geometric mean of the model's regret."""
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
"""Values of a `ConfigCheck` that checks of CPU kernels and of fixed tiles lack."""


@dataclass(frozen=True, slots=True)
class CpuCheck:
    """Check of one kernel on one machine: times of the model's choices over the best times of all configurations."""

    device: str
    found: Choice

    @property
    def passed(self) -> bool:
        """Return whether the mean regret on shapes that the model was not fitted to is at most `REGRET`."""
        return self.found.fitted.geomean <= REGRET

    def row(self) -> dict[str, Any]:
        """Return the values of the check; None for those that it lacks (`UNKNOWN`)."""
        c = self.found
        regret = {"model": c.fitted, "unfitted": c.unfitted, "default": c.default, "random": c.random}
        return {
            "device": self.device, "kernel": c.kernel, "n": c.shapes,
            "searched": c.configs // max(c.shapes, 1), **UNKNOWN, "best_p90_ape": None, "best_bias": None, "best_median_ape": c.median_ape,
            "regret": {name: asdict(value) for name, value in regret.items()}, "passed": self.passed,
        }  # fmt: skip


def tables_in(paths: Iterable[str | Path]) -> list[Path]:
    """Return the given files, and files in the given folders and their ``tables``, whose names start with `STEM`."""
    out: list[Path] = []
    for path in map(Path, paths):
        inside = [*path.glob("*.csv"), *path.glob("tables/*.csv")] if path.is_dir() else [path]
        out += sorted(file for file in inside if file.stem.startswith(STEM))
    return out


def check_cpu(paths: Iterable[Path]) -> tuple[list[CpuCheck], list[Skipped]]:
    """Compute the regret of the CPU kernels' model on tables that `measure configs` wrote.

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
"""Relative error of a time that costs a fit as much as a constant that differs from its start by its `factor`."""


@dataclass(frozen=True, slots=True)
class TimedShape:
    """One shape with all configurations whose times were steady.

    Attributes
    ----------
    seconds : float64 array, shape (configs,)
        Measured times [s].
    default : int
        Index of the kernel's default configuration.
    """

    shape: Mapping[str, int]
    configs: Sequence[Mapping[str, int]]
    core: Core
    seconds: F8
    default: int

    def predicted(self, form: CpuForm, p: Mapping[str, float]) -> F8:
        """Return the model's time of every configuration with parameters `p`, shape (configs,) [s]."""
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
    """Quality of the model of one kernel.

    Attributes
    ----------
    shapes, configs, left_out : int
        Number of shapes and configurations used, and number of shapes with too few steady times.
    fitted, unfitted, default, random : Regret
        Regret of the fitted model on shapes that it was not fitted to, and of the model with its initial constants, the
        kernel's default and a random choice on all shapes.
    median_ape : float
        Median relative error of the fitted model's times on shapes that it was not fitted to.
    parameters : dict of str to float
        Constants fitted to all shapes.
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
"""Minimum number of steady configurations of a shape, and of shapes of a kernel."""


def choice(kernel: str, rows: Sequence[Row], default: Mapping[str, int]) -> Choice | None:
    """Fit the model of one kernel to each half of a machine's shapes and test it on the other half.

    Returns None if fewer than `FEWEST` shapes have enough steady times.
    """
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
    """Return the shapes with their steady configurations, and the number of shapes with too few of them."""
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
    """Fit a form's constants to timed shapes of equal weight, with a penalty on their distance from the initial values."""
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
