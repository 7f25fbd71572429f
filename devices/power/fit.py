"""Fit of the power model and of the sensor's readings to measured tables.

The measured tables come from one collector (``benchmark_with_power`` and ``PowerMonitor`` in ai-dynamo/aiconfigurator,
``collector/helper.py``). It repeats a kernel's graph for a second, but at most 3,000 times, and averages readings of
the board's sensor every 100 ms, **the first before the loop**. The sensor is a moving average. So a kernel of under 33
us has ended before the second reading, and its row measures the work before it: the preparation of its inputs and
earlier shapes. Longer loops mix the two. Three effects are therefore fitted with the kernel's power: the sensor's time
constant, its value at the start of a loop, and, for MoE layers (measured from few to many tokens in one process), the
change of this value along the sweep. The order of attention runs is not in the tables, so only a mean over shapes can
be predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from ...workloads.kernel_tables import KernelTable
from ..calibrated.family import Parameter, parameters_of
from .model import PowerModel
from .work import FROM_TABLE, WEIGHT_BYTES, Work

SAMPLE_S = 0.1
"""Time between two readings of the sensor [s]."""
MOST_REPLAYS = 3000.0
LONG_S = 1.0
"""Duration of a loop that is not cut short [s]. The collector stops after 0.3 s if a call takes under 0.1 ms; its 3,000
replays end before that time."""
SWEEP = (1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 1536,
         2048, 3072, 4096, 6144, 8192, 12288, 16384)  # fmt: skip
"""Token counts of every MoE layer's measurements, in the order of measurement."""


@dataclass(frozen=True, slots=True)
class Before:
    """Work that precedes each row's loop; arrays of shape (n,).

    Attributes
    ----------
    step : float64 array
        Shapes measured before in the same process; -1 if each has a separate process.
    made : float64 array
        Size of what was prepared, in its unit (weights or rows of queries), for `StartPower.half`.
    batch, length : float64 array
        Logarithms (base 2) of sequences and of tokens a sequence.
    """

    step: F8
    made: F8
    batch: F8
    length: F8


@dataclass(frozen=True, slots=True)
class StartPower:
    """Power that the sensor shows at the start of a loop, for one family.

    Attributes
    ----------
    still_W : float
        A board between two shapes.
    setup_W : float
        Additional power while large inputs are made.
    half : float
        Size of the inputs at which half of that is seen.
    fades_batch, fades_length : float
        Decline of it per doubling of sequences and of their length, which take the host time.
    neighbour : float
        Share of the kernel's own power above `still_W`: shapes measured before are like it.
    far : float
        Tokens a sequence at which that has faded, for the host prepares long prompts for long.
    gap_s : float
        Time between two shapes of one process.
    """

    still_W: float
    setup_W: float
    half: float
    fades_batch: float = 0.0
    fades_length: float = 0.0
    neighbour: float = 0.0
    far: float = np.inf
    gap_s: float = 0.0


def loop_seconds(seconds: F8) -> F8:
    """Return the duration of the loop of a kernel of `seconds` [s]."""
    return np.minimum(LONG_S / seconds, MOST_REPLAYS) * seconds


def read_while_running(seconds: F8) -> npt.NDArray[np.bool_]:
    """Return whether at least one reading was taken while the kernel ran."""
    return loop_seconds(seconds) >= SAMPLE_S


def reading(start: StartPower, memory_s: float, before: Before, seconds: F8, power: F8) -> F8:
    """Return the mean of the readings of a loop [W].

    Parameters
    ----------
    memory_s : float
        Time constant of the sensor.
    seconds, power : float64 array
        Duration [s] and power [W] of the kernel, shape (n,).
    """
    loop = loop_seconds(seconds)
    first = _sweep_start(start, memory_s, before, loop, power)
    count = np.floor(loop / SAMPLE_S) + 1.0
    memory = np.exp(-SAMPLE_S / memory_s)
    old = (1.0 - memory**count) / (1.0 - memory) / count
    out: F8 = power + (first - power) * old
    return out


def _sweep_start(start: StartPower, memory_s: float, before: Before, loop: F8, power: F8) -> F8:
    seen = before.made / (before.made + start.half)
    fades = start.fades_batch * before.batch + start.fades_length * before.length
    near = np.exp(-((2.0**before.length / start.far) ** 2))
    alone = start.still_W + start.setup_W * seen * np.exp(-fades) + start.neighbour * near * (power - start.still_W)
    # Each earlier shape of the sweep takes the sensor towards its power, each gap towards rest.
    # They are like this one, so the start after many is the fixed point of loop and gap.
    ran, rested = np.exp(-loop / memory_s), np.exp(-start.gap_s / memory_s)
    settled = (start.still_W * (1.0 - rested) + rested * power * (1.0 - ran)) / (1.0 - ran * rested)
    swept = settled + (alone - settled) * (ran * rested) ** np.maximum(before.step, 0.0)
    out: F8 = np.where(before.step >= 0.0, swept, alone)
    return out


def before(table: KernelTable) -> Before:
    """Return the work of the device before each row of a table."""
    n = np.zeros(len(table))
    if table.family == "moe":
        stored = np.array([WEIGHT_BYTES.get(d, 2.0) for d in table["dtype"]])
        local = table["experts"] / table["ep"] * table["hidden"] * table["inter"] / table["tp"]
        step = np.searchsorted(np.array(SWEEP, dtype=np.float64), table["tokens"])
        return Before(step.astype(np.float64), (2.0 + table["gated"]) * local * stored, n, n)
    length = table["q_len" if table.family == "attention_prefill" else "kv_len"]
    heads = table["heads_q" if table.family == "attention_prefill" else "heads_kv"]
    cached = np.array([WEIGHT_BYTES.get(d, 2.0) for d in table["kv_dtype"]])
    made = heads * table["head_dim"] * cached
    return Before(n - 1.0, made, np.log2(table["batch"]), np.log2(length))


F8 = npt.NDArray[np.float64]

*DEVICE, SENSOR = parameters_of("power")
"""Parameters of the device's power, and the parameter of the sensor."""

STARTS: Mapping[str, tuple[Parameter, ...]] = {"moe": parameters_of("power start moe")} | dict.fromkeys(
    ("attention_prefill", "attention_decode"), parameters_of("power start attention")
)
"""Parameters of the power at a loop's start, by family."""

PRIOR, LOSS_SCALE = 1.0, 0.1
FOLDS = 5
CONFIG = {
    "moe": ("hidden", "inter", "experts", "topk", "tp", "ep", "gated", "dtype"),
    "attention_prefill": ("heads_q", "heads_kv", "head_dim", "window", "kv_dtype"),
    "attention_decode": ("heads_q", "heads_kv", "head_dim", "window", "kv_dtype"),
}
"""Columns that define a model's shape; cross-validation leaves out whole shapes."""


@dataclass(frozen=True, slots=True)
class PowerRows:
    """Measured power rows of one family on one device.

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
        """Return the rows of a table with the column ``power_W``."""
        return cls(table, FROM_TABLE[table.family](table), before(table), table["power_W"])

    def take(self, rows: npt.NDArray[np.bool_]) -> PowerRows:
        """Return the rows that a mask selects."""
        ran = Before(*(getattr(self.ran, f.name)[rows] for f in fields(Before)))
        return PowerRows(self.table.take(rows), self.work.take(rows), ran, self.measured[rows])

    def folds(self) -> npt.NDArray[np.int64]:
        """Return the fold of each row; rows of one model's shape are in one fold."""
        names = CONFIG[self.table.family]
        keys = list(zip(*(self.table[name].tolist() for name in names), strict=True))
        ids = {key: i for i, key in enumerate(sorted(set(keys)))}
        order = np.random.default_rng(0).permutation(len(ids)) % FOLDS
        return np.array([order[ids[key]] for key in keys], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class PowerFit:
    """Fitted power coefficients of a device and of its sensor's readings.

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
        """Return the power of the kernels themselves [W]."""
        return self.model.power_W(rows.work, again=True)

    def predict(self, rows: PowerRows) -> F8:
        """Return the predicted mean of the collector's readings of each row [W]."""
        start = self.starts[rows.table.family]
        return reading(start, self.memory_s, rows.ran, rows.work.seconds, self.power(rows))


def parameters(families: Sequence[str]) -> list[Parameter]:
    """Return all parameters of a fit to the tables of some families, in the order of its vector."""
    return [*DEVICE, SENSOR, *(p for family in families for p in STARTS[family])]


def unpack(base: PowerModel, families: Sequence[str], values: F8) -> PowerFit:
    """Return a fit from its vector of parameters; `base` gives limit, idle power and cores."""
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
    """Fit the parameters to the rows of one device; return them in the order of `parameters`.

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
    """Return predicted readings of each row from a fit to the model shapes of the other folds."""
    families = [r.table.family for r in rows]
    folds, out = [r.folds() for r in rows], [np.empty(len(r.measured)) for r in rows]
    for number in range(FOLDS):
        masks = [fold == number for fold in folds]
        rest = [r.take(~h) for r, h in zip(rows, masks, strict=True)]
        done = unpack(base, families, fit_power(base, rest, start))
        for part, r, h in zip(out, rows, masks, strict=True):
            part[h] = done.predict(r.take(h))
    return out
