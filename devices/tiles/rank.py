"""Ranking of the configurations of one kernel for one shape on one machine, by predicted time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...workloads.records import Records
from .config import I8, NAMES, KernelConfig, by_name
from .form import F8, Shape, TiledKernel
from .machine import Machine
from .product import most_registers_of

TERMS = ("launch", "matrix", "shared", "step", "latency", "cache", "memory", "start", "partial_wave")
"""Terms of a cost, each the time in isolation [s]."""
HALVES = ("launch", "start", "partial_wave")
"""Terms that are the bound of a call only if they exceed half of its time."""
MOST_THREADS = 1024
GROUP = NAMES.index("group_m")
EQUAL = 1e-9
"""Relative difference below which two predictions count as equal."""
NOT_POWER, TOO_THIN, TOO_MANY, TOO_LARGE, SPILLS = (
    "blocks, warps and group must be powers of two", "fewer than 16 rows, columns or values of k",
    "more than 1,024 threads", "shared memory of a block", "the sums spill twice the registers",
)  # fmt: skip
"""Reasons why a configuration cannot run, in the order of their check."""


@dataclass(frozen=True, slots=True)
class Priced:
    """One configuration with its predicted cost.

    Attributes
    ----------
    terms : dict of str to float
        Each term in isolation [s]; they overlap.
    bound : str
        The term that bounds it.
    blocks_per_core, waves, registers, shared_bytes, in_flight_bytes, wait_s : float
        Resident blocks; waves of blocks; registers of a thread; shared memory of a block; bytes in flight to a core;
        seconds that a step waits for them.
    also : tuple of int
        Larger groups that are predicted equal.
    """

    config: KernelConfig
    seconds: float
    terms: dict[str, float]
    bound: str
    blocks_per_core: float
    waves: float
    registers: float
    shared_bytes: float
    in_flight_bytes: float
    wait_s: float
    also: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ranking:
    """All configurations of a search, with their predicted costs.

    Attributes
    ----------
    configs : int64 array, shape (n, fields)
        Configurations that can run, the fastest first; equal ones by group.
    prices : records of `TILE_COST`
    searched : int
        Configurations in the space, those that cannot run included.
    invalid : dict of str to int
        Reason -> how many cannot run because of it.
    """

    configs: I8
    prices: Records
    searched: int
    invalid: dict[str, int]

    def __len__(self) -> int:
        return len(self.configs)

    def top(self, count: int) -> list[Priced]:
        """Return the first `count` configurations; groups with equal predictions count as one."""
        places: list[list[int]] = []
        last: dict[tuple[int, ...], list[int]] = {}
        seconds = self.prices["seconds"]
        for i, row in enumerate(self.configs.tolist()):
            rest = (*row[:GROUP], *row[GROUP + 1 :])
            same = last.get(rest)
            if same and seconds[i] <= seconds[same[0]] * (1.0 + EQUAL):
                same.append(i)
            elif len(places) < count:
                last[rest] = [i]
                places.append(last[rest])
            elif not same and seconds[i] > seconds[places[-1][0]] * (1.0 + EQUAL):
                break
        groups = by_name(self.configs)["group_m"]
        return [priced(self.configs[i], self.prices[i], tuple(map(int, groups[also]))) for i, *also in places]


def priced(config: I8 | Sequence[int], price: Records, also: tuple[int, ...] = ()) -> Priced:
    """Return a cost row with its terms and bound by name."""
    terms = {name: float(price[name]) for name in TERMS}
    seconds = float(price.seconds)
    large = [name for name in HALVES if terms[name] > 0.5 * seconds]
    rest = {name: value for name, value in terms.items() if name not in HALVES}
    bound = max(large, key=terms.__getitem__) if large else max(rest, key=rest.__getitem__)
    return Priced(
        KernelConfig.of(config), seconds, terms, bound, float(price.blocks), float(price.waves),
        float(price.registers), float(price.shared_bytes), float(price.in_flight),
        float(price.wait), also,
    )  # fmt: skip


def reasons(form: TiledKernel, machine: Machine, configs: I8, prices: Records) -> npt.NDArray[np.object_]:
    """Return the reason why each configuration cannot run; empty if it can."""
    h = machine.vector
    named, sides = by_name(configs), configs[:, :3]
    powers = configs[:, : NAMES.index("warps") + 1]
    sums = named["block_m"] * named["block_n"] / (h.lanes * named["warps"])
    limit = most_registers_of(machine)
    wrong = {
        SPILLS: sums > 2.0 * limit,
        TOO_LARGE: prices["shared_bytes"] > h.shared_block,
        TOO_MANY: named["warps"] * h.lanes > MOST_THREADS,
        TOO_THIN: (sides < 16).any(axis=1),
        NOT_POWER: ((powers & (powers - 1)) != 0).any(axis=1),
    }
    out = np.full(len(configs), "", dtype=object)
    for reason, mask in wrong.items():
        if not form.threads and reason in (SPILLS, TOO_MANY, TOO_THIN):
            continue
        out[mask] = reason
    return out


def rank(form: TiledKernel, machine: Machine, shape: Shape, parameters: F8, configs: I8 | None = None) -> Ranking:
    """Compute the cost of all configurations, and sort the feasible ones.

    Parameters
    ----------
    shape : mapping
        Checked, of `TiledKernel.shape`.
    parameters : float64 array
        Constants (`store`).
    configs : int64 array, optional
        By default the form's own space.
    """
    every = form.space(machine, shape) if configs is None else configs
    prices = form.prices(parameters, machine, shape, every)
    why = reasons(form, machine, every, prices)
    can = why == ""
    invalid = {str(r): int((why == r).sum()) for r in dict.fromkeys(why[~can].tolist())}
    feasible, costs = every[can], prices[can]
    order = np.lexsort((by_name(feasible)["group_m"], np.round(np.log(costs["seconds"]) / EQUAL)))
    return Ranking(feasible[order], costs[order], len(every), invalid)


def price_one(form: TiledKernel, machine: Machine, shape: Shape, parameters: F8, config: KernelConfig) -> Priced:
    """Return the cost of one configuration, feasible or not."""
    row = config.row[None]
    return priced(row[0], form.prices(parameters, machine, shape, row)[0])


def reason_of(form: TiledKernel, machine: Machine, shape: Shape, config: KernelConfig) -> str:
    """Return the reason why a configuration cannot run; empty if it can."""
    from .store import UNFITTED

    row = config.row[None]
    return str(reasons(form, machine, row, form.prices(UNFITTED.p, machine, shape, row))[0])


KIB, US = 1024.0, 1e6


def why(form: TiledKernel, machine: Machine, shape: Shape, parameters: F8, of: Priced) -> str:
    """Return a sentence on what bounds a configuration."""
    terms, config = of.terms, of.config
    said = {
        "memory": lambda: (
            f"memory-bound: its bytes take {_us(terms['memory'])} of {_us(of.seconds)} at "
            f"{machine.vector.bandwidth / 1e9:,.0f} GB/s"
        ),
        "cache": lambda: (
            f"bound by the last-level cache: blocks read {_us(terms['cache'])} from it at "
            f"{machine.vector.cache_bandwidth / 1e9:,.0f} GB/s"
        ),
        "matrix": lambda: (
            f"bound by matrix units: the busiest core multiplies for {_us(terms['matrix'])}, its shared "
            f"memory works {_us(terms['shared'])}"
        ),
        "shared": lambda: (
            f"bound by shared memory: operands and copies take {_us(terms['shared'])} of the busiest core, "
            f"arithmetic {_us(terms['matrix'])}"
        ),
        "step": lambda: f"bound by barriers and addresses, {_us(terms['step'])} of the busiest core",
        "latency": lambda: f"bound by latency: {of.waves:.2g} waves wait {_us(terms['latency'])} in all",
        "launch": lambda: f"bound by its launch, {_us(terms['launch'])} of {_us(of.seconds)}",
        "start": lambda: f"bound by starts of blocks, {_us(terms['start'])} of {_us(of.seconds)}",
        "partial_wave": lambda: (
            f"bound by its last wave: {of.waves:.2f} waves leave cores idle for {_us(terms['partial_wave'])}"
        ),
    }[of.bound]()
    if not form.threads:
        shared_KiB = of.shared_bytes / KIB
        return f"{said}; a module's buffer holds {shared_KiB:,.1f} KiB of inputs and sums"
    text = (
        f"{said}; {config.stages} stages keep {of.in_flight_bytes / KIB:,.0f} KiB on their way to a core"
        f"{_fewer(form, machine, shape, parameters, of)}"
    )
    spilled = of.registers - most_registers_of(machine)
    if spilled > 0:
        text += f"; {spilled:.0f} registers of a thread spill"
    return text


def _fewer(form: TiledKernel, machine: Machine, shape: Shape, parameters: F8, of: Priced) -> str:
    """Return a clause on the effect of one stage less, or one stage more."""
    for change, word in ((-1, "would wait"), (1, "would wait")):
        other = replace(of.config, stages=of.config.stages + change) if of.config.stages + change >= 2 else None
        if other is None or "stages" not in form.used or reason_of(form, machine, shape, other):
            continue
        waits = price_one(form, machine, shape, parameters, other).wait_s
        return f" and a step waits {_us(of.wait_s)}, {other.stages} {word} {_us(waits)}"
    return f" and a step waits {_us(of.wait_s)}"


def _us(seconds: float) -> str:
    return f"{float(f'{seconds * US:.3g}'):,g} us"
