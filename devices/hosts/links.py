"""Collectives of calibrated devices over a host's links.

The device's own rows were timed in some host; another host adds its effect. A time follows the device's formula with
the host's rate, never below the device's rows if the host's link is no faster, so that no class is better than the
next. Without peer access a collective takes the maximum of the library's ring and the framework's own kernel. Tables of
the host itself have priority; then the fitted numbers apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...workloads.errors import InputError
from ...workloads.kernel_tables import KernelTable, read_tables
from ...workloads.ops import Op
from ...workloads.records import Records
from ..calibrated.allreduce import ALLREDUCE, LIBRARY
from ..calibrated.collectives import KINDS
from ..calibrated.family import Family
from ..calibrated.model import CalibratedModel, Model
from ..calibrated.rules import LINKS
from ..cost import BOUNDS, Cost, Evidence, Roof, bound_code
from ..link import collective
from ..prices import PriceRow, Probe, by_count
from ..ratios import Ratios
from .spec import HostSpec, SpreadSpec

F8 = npt.NDArray[np.float64]
WHERE = "links within a node"
"""Group of the errors of a host's links, which are correlated over all collectives."""
TABLE_KINDS = {"all_reduce": "all_reduce", "all_gather": "all_gather", "send_recv": "send_recv",
               "reduce_scatter": "reduce_scatter", "alltoall": "all_to_all"}  # fmt: skip
"""Kind of op for each name of a collective in tables."""


@dataclass(frozen=True, slots=True)
class TimedCollective:
    """Measured seconds of one collective for one number of ranks by message size, both increasing, shape (n,)."""

    moved: F8
    seconds: F8

    def at(self, moved: F8, model: F8, edges: F8) -> F8:
        """Return the seconds, linear between measured sizes; outside, the model scaled to the nearest measured size.

        Parameters
        ----------
        model : float64 array, shape (m,)
            The model's seconds at `moved`.
        edges : float64 array, shape (2,)
            The model's at the first and the last measured size.
        """
        inside = np.interp(moved, self.moved, self.seconds)
        below = model * self.seconds[0] / edges[0]
        above = model * self.seconds[-1] / edges[1]
        out: F8 = np.where(moved < self.moved[0], below, np.where(moved > self.moved[-1], above, inside))
        return out


@dataclass(frozen=True, slots=True)
class HostedLinks:
    """A kernel model of the collectives inside one node of a host.

    Attributes
    ----------
    base : CalibratedModel
        The device's own model.
    assumed : bool
        Whether the host is not named, so that it is the class in the device's description.
    timed : mapping of (str, int) to TimedCollective
        By kind of op and ranks.
    rows : int
        Rows of those tables.
    other : bool
        Whether the host represents another server with peer access, in which a ring may get more of the link.
    """

    base: CalibratedModel
    host: HostSpec
    assumed: bool
    timed: Mapping[tuple[str, int], TimedCollective]
    rows: int = 0
    other: bool = False

    def knows(self, op: Op) -> bool:
        return op.kind in ("all_reduce", *KINDS) and self.base.knows(op)

    def cost(self, op: Op) -> Cost:
        known = self.base.cost(op)
        x = self._quantities(op)
        seconds, compute, memory, fixed, bound = self._priced(op, x[None])[:, 0]
        return replace(
            known, seconds=float(seconds), compute_s=float(compute), memory_s=float(memory),
            fixed_s=float(fixed), bound=BOUNDS[int(bound)],
        )  # fmt: skip

    def row(self, op: Op, probe: Probe) -> PriceRow:
        return replace(self.base.row(op, probe), curve=by_count(op, probe, self._quantities, self._curve))

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        if not ops:
            return []
        host_link, fit = self.host.link, self.host.fitted
        if self.host.link_fitted and fit is not None:
            return [Evidence("host's links", WHERE, "fitted", None, host_link.rows, why=f"a run: {fit.run}",
                             ratios=self._fit_ratios())]  # fmt: skip
        if all(self._timed(op) is not None for op in ops):
            return [Evidence("tables of the host", WHERE, "measured", None, self.rows)]
        named = "assumed: no host is named, class" if self.assumed else "class"
        of_pairs = all(op.shape["ranks"] <= 2.0 for op in ops)
        if host_link.spread is None or (
            host_link.peer_access and (host_link.rate or of_pairs)
        ):  # as the device's rows have it
            text = f"{named} {self.host.name}"
            return [replace(e, why=f"{text}; {e.why}" if e.why else text) for e in self.base.evidence(ops)]
        ratios = self._spread(ops, host_link.spread)
        return [
            Evidence("host's links", WHERE, "transferred", ratios.median_error, host_link.rows,
                     why=f"{named} {self.host.name}: {host_link.rests_on}", ratios=ratios)
        ]  # fmt: skip

    def roof(self, dtype: str) -> Roof:
        return self.base.roof(dtype)

    def of_family(self, family: Family, inputs: F8) -> F8:
        """Return the seconds of rows of a family's quantities in the host's class, without the host's fit."""
        seconds: F8 = self._by_class(self.base.models[family.kinds[0]], inputs)["seconds"]
        return seconds

    def _quantities(self, op: Op) -> F8:
        x = self.base.quantities(op)
        assert x is not None
        return x

    def _curve(self, op: Op, inputs: F8) -> tuple[F8, F8]:
        out = self._priced(op, inputs)
        return out[0], out[4]

    def _priced(self, op: Op, inputs: F8) -> F8:
        """Return the times on this host, and the code of the bound; shape (5, n).

        The times are those of the op, its arithmetic, its wire and its fixed part [s]. They are the costs in the host's
        class, or the host's measured times, then changed by the host's hops, multiple and link rate.
        """
        price = self._by_class(self.base.models[op.kind], inputs)
        seconds, compute, memory, fixed = (price[name] for name in ("seconds", "compute", "memory", "fixed"))
        timed = self._timed(op)
        if timed is not None:
            # Outside the measured sizes, `at` scales the class's costs: it needs them at the smallest and largest size.
            ends = np.repeat(inputs[:1], 2, axis=0)
            ends[:, 0] = timed.moved[[0, -1]]
            edges = self._by_class(self.base.models[op.kind], ends)["seconds"]
            timed_s = timed.at(inputs[:, 0], seconds, edges)
            memory = memory * timed_s / np.maximum(seconds, 1e-300)
            seconds = timed_s
        there = seconds > 0.0
        added = np.where(there, self.host.hop_s * self._hops(op), 0.0)
        floor, multiple = price["floor_link"], self.host.multiple
        seconds = np.maximum(seconds * multiple, floor) + added
        memory = np.maximum(memory * multiple, np.where(there, floor, 0.0))
        fixed = fixed * multiple + added
        if self.host.plain and timed is None:
            return np.array([seconds, compute, memory, fixed, price["bound"]])
        bound = bound_code(seconds, compute, memory, fixed)
        return np.array([seconds, compute, memory, fixed, bound])

    @staticmethod
    def _hops(op: Op) -> float:
        return collective(op.kind, int(op.shape["ranks"])).hops

    def _timed(self, op: Op) -> TimedCollective | None:
        return self.timed.get((op.kind, int(op.shape["ranks"])))

    def _by_class(self, model: Model, inputs: F8) -> Records:
        """Return the costs in the host's class, records of `KERNEL_COST`."""
        device_prices, link = model.prices(inputs), self.host.link
        nominal = link.bandwidth_bytes_per_s
        if link.peer_access and not (link.rate or nominal):
            return device_prices
        h = model.h.copy()
        if nominal is not None:
            h.link_bandwidth = nominal
        values = self._parameters(model)
        host_prices = model.family.prices(values, h, inputs)
        if model.family is ALLREDUCE and not link.peer_access:
            library = inputs.copy()
            ALLREDUCE.records(library)["own_kernel"] = LIBRARY
            host_prices = _slower(host_prices, model.family.prices(values, h, library))
        # A link faster than that of the device, such as a bridge between two cards, may be quicker.
        return (
            host_prices
            if self.other or h.link_bandwidth > model.h.link_bandwidth
            else _slower(host_prices, device_prices)
        )

    def _parameters(self, model: Model) -> F8:
        """Return the device's parameters with the host's rate of all-reduces; other collectives are reduced in proportion."""
        rate = self.host.link.rate
        values = model.known.fit.values.copy()
        if rate is not None:
            shares = rate / np.cumprod(self.base.models["all_reduce"].known.fit.values[_rates(ALLREDUCE)])
            shares = shares if self.other else np.minimum(1.0, shares)
            values[_rates(model.family)] *= shares / np.append(1.0, shares[:-1])
        return values

    def _spread(self, ops: Sequence[Op], spread: SpreadSpec) -> Ratios:
        """Return the spread of the class's hosts in these calls: larger for large ones."""

        def logs(rate: float) -> F8:
            link = self.host.link.model_copy(update={"rate": rate})
            other = replace(self, host=self.host.model_copy(update={"link": link}), other=link.peer_access)
            return np.log([other.cost(op).seconds / self.cost(op).seconds for op in ops])

        fast, slow = logs(spread.fast_rate).min(), logs(spread.slow_rate).max()
        return Ratios(min(float(fast), 0.0), 0.0, max(float(slow), 0.0))

    def _fit_ratios(self) -> Ratios | None:
        """Return the errors of fitted links: the interval of the multiple, or of the latency if only it was fitted."""
        fit = self.host.fitted
        number = None if fit is None else fit.link_multiple
        if number is None or number.low <= 0.0:
            return None
        low, high = np.log(number.low / number.value), np.log(number.high / number.value)
        return Ratios(float(low), 0.0, float(high))


def _rates(family: Family) -> slice:
    """Return the positions of a family's parameters for the rate of two ranks and its multiples for four and eight."""
    first = family.index("link_2")
    return slice(first, first + 3)


def _slower(one: Records, other: Records) -> Records:
    """Return the slower of each pair of cost rows."""
    return np.where(one["seconds"] >= other["seconds"], one, other)


def hosted(base: CalibratedModel, host: HostSpec | None, assumed: bool) -> CalibratedModel | HostedLinks:
    """Return a device's collectives in a host; unchanged without a host.

    Raises
    ------
    InputError
        Tables of the host that cannot be read, or hold no collective.
    """
    if host is None:
        return base
    timed, rows = _tables(host)
    return HostedLinks(base, host, assumed, timed, rows)


def _tables(host: HostSpec) -> tuple[dict[tuple[str, int], TimedCollective], int]:
    """Return the measured collectives of the host itself; rows of equal size count with their median."""
    if not host.link.tables:
        return {}, 0
    read, _ = read_tables(host.link.tables)
    collectives = [table for name, table in read.items() if name in LINKS]
    by_message: dict[tuple[str, int], dict[float, list[float]]] = {}
    for table in collectives:
        for kind, ranks, moved, seconds in _rows(table):
            by_message.setdefault((kind, ranks), {}).setdefault(moved, []).append(seconds)
    if not by_message:
        raise InputError(f"tables of host {host.name}", "hold no rows of allreduce or collectives")
    return {key: _curve(points) for key, points in by_message.items()}, sum(map(len, collectives))


def _rows(table: KernelTable) -> list[tuple[str, int, float, float]]:
    kinds = [TABLE_KINDS[str(name).partition(":")[2]] for name in table["kernel"]]
    columns = (table[c].tolist() for c in ("ranks", "bytes", "measured_s"))
    return [(k, int(r), float(b), float(s)) for k, r, b, s in zip(kinds, *columns, strict=True)]


def _curve(points: Mapping[float, list[float]]) -> TimedCollective:
    """Return a monotonic curve: more bytes take no less, also if a late rank slowed smaller ones."""
    sizes = sorted(points)
    medians = np.array([np.median(points[size]) for size in sizes])
    return TimedCollective(np.array(sizes), np.maximum.accumulate(medians))
