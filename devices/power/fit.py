"""Fit of the power model and of the monitor's readings to measured tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from ...workloads.kernel_tables import KernelTable
from ..calibrated.family import Parameter, parameters_of
from .model import PowerModel
from .reading import Before, StartPower, before, reading
from .work import FROM_TABLE, Work

F8 = npt.NDArray[np.float64]

*DEVICE, SENSOR = parameters_of("power")
"""Parameters of the device, and of the sensor that shows it."""

STARTS: Mapping[str, tuple[Parameter, ...]] = {"moe": parameters_of("power start moe")} | dict.fromkeys(
    ("attention_prefill", "attention_decode"), parameters_of("power start attention")
)
"""Parameters of a loop's start, by family."""

PRIOR, LOSS_SCALE = 1.0, 0.1
FOLDS = 5
CONFIG = {
    "moe": ("hidden", "inter", "experts", "topk", "tp", "ep", "gated", "dtype"),
    "attention_prefill": ("heads_q", "heads_kv", "head_dim", "window", "kv_dtype"),
    "attention_decode": ("heads_q", "heads_kv", "head_dim", "window", "kv_dtype"),
}
"""Columns that make up a model's shape: cross-validation holds out whole ones."""


@dataclass(frozen=True, slots=True)
class PowerRows:
    """Measured rows of one family on one device.

    Attributes
    ----------
    ran : Before
        What ran before each row.
    measured : float64 array, shape (n,)
        Mean of the readings [W].
    """

    table: KernelTable
    work: Work
    ran: Before
    measured: F8

    @classmethod
    def of(cls, table: KernelTable) -> PowerRows:
        """Rows of a table with ``power_W``."""
        return cls(table, FROM_TABLE[table.family](table), before(table), table["power_W"])

    def take(self, rows: npt.NDArray[np.bool_]) -> PowerRows:
        """The rows of a mask."""
        ran = Before(*(getattr(self.ran, f.name)[rows] for f in fields(Before)))
        return PowerRows(self.table.take(rows), self.work.take(rows), ran, self.measured[rows])

    def folds(self) -> npt.NDArray[np.int64]:
        """Fold of each row: rows of one model's shape share it."""
        names = CONFIG[self.table.family]
        keys = list(zip(*(self.table[name].tolist() for name in names), strict=True))
        ids = {key: i for i, key in enumerate(sorted(set(keys)))}
        order = np.random.default_rng(0).permutation(len(ids)) % FOLDS
        return np.array([order[ids[key]] for key in keys], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class PowerFit:
    """A device's coefficients, and how its tables were read.

    Attributes
    ----------
    starts : mapping of str to StartPower
        By family.
    memory_s : float
        Time constant of the sensor.
    """

    model: PowerModel
    starts: Mapping[str, StartPower]
    memory_s: float

    def power(self, rows: PowerRows) -> F8:
        """Power of the kernels themselves [W]."""
        return self.model.power_W(rows.work, again=True)

    def predict(self, rows: PowerRows) -> F8:
        """Mean of the readings that the collector takes of each row [W]."""
        start = self.starts[rows.table.family]
        return reading(start, self.memory_s, rows.ran, rows.work.seconds, self.power(rows))


def parameters(families: Sequence[str]) -> list[Parameter]:
    """All parameters of a fit to the tables of some families, in the order of its vector."""
    return [*DEVICE, SENSOR, *(p for family in families for p in STARTS[family])]


def unpack(base: PowerModel, families: Sequence[str], values: F8) -> PowerFit:
    """A fit from its vector; `base` gives limit, idle power and cores."""
    device = {p.name: float(v) for p, v in zip(DEVICE, values[: len(DEVICE)], strict=True)}
    # No row computes in 4 bits: half of an 8-bit FLOP, as an 8-bit one is of a 16-bit one.
    model = replace(base, **device, J_per_flop_4=0.5 * device["J_per_flop_8"])
    at, starts = len(DEVICE) + 1, {}
    for family in families:
        starts_own = STARTS[family]
        named = zip(starts_own, values[at : at + len(starts_own)], strict=True)
        starts[family] = StartPower(**{p.name: float(v) for p, v in named})
        at += len(starts_own)
    return PowerFit(model, starts, float(values[len(DEVICE)]))


def fit_power(base: PowerModel, rows: Sequence[PowerRows], start: F8 | None = None) -> F8:
    """Vector of parameters, in the order of `parameters`, for the rows of one device.

    Least squares on ``log(predicted / measured)`` with a soft absolute loss, every family with equal weight per row,
    with the parameters' defaults as a weak prior.
    """
    from scipy.optimize import least_squares

    families = [r.table.family for r in rows]
    known = parameters(families)
    low, high = np.log([p.low for p in known]), np.log([p.high for p in known])
    center, spread = np.log([p.default for p in known]), np.array([p.spread for p in known])

    def residuals(theta: F8) -> F8:
        done = unpack(base, families, np.exp(theta))
        errors = [np.log(done.predict(r) / r.measured) for r in rows]
        return np.concatenate([*errors, PRIOR * (theta - center) / spread])

    margin = 1e-6 * (high - low)
    first = np.clip(center if start is None else np.log(start), low + margin, high - margin)
    end = least_squares(
        residuals, first, bounds=(low, high), loss="soft_l1", f_scale=LOSS_SCALE,
        diff_step=np.full(len(first), 1e-4), x_scale=spread, max_nfev=60, ftol=1e-5, xtol=1e-5,
    )  # fmt: skip
    out: F8 = np.exp(end.x)
    return out


def unseen(base: PowerModel, rows: Sequence[PowerRows], start: F8) -> list[F8]:
    """Predicted readings of each row from a fit on the other folds' model shapes."""
    families = [r.table.family for r in rows]
    folds, out = [r.folds() for r in rows], [np.empty(len(r.measured)) for r in rows]
    for number in range(FOLDS):
        masks = [fold == number for fold in folds]
        rest = [r.take(~h) for r, h in zip(rows, masks, strict=True)]
        done = unpack(base, families, fit_power(base, rest, start))
        for part, r, h in zip(out, rows, masks, strict=True):
            part[h] = done.predict(r.take(h))
    return out
