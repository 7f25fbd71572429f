"""The capacities of systems, with every load that was tried; see `capacity`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...devices.spec import SystemSpec
from ...simulator.results.steady import Window
from ...workloads.latencies import column_of
from ..answers.bases import NONE, Bases, not_like_for_like
from ..answers.evidence import evidence_blocks
from ..answers.interval import LEVEL, Interval, chance_text, interval_dict, spoken
from ..answers.limits import Limit
from ..answers.price import WORTH
from ..answers.ranges import Ranges
from ..answers.summary import window_dict, window_text
from ..show.result import Drawing, Result
from ..show.text import Blocks, Records, Rows, show
from .loads import ATTAINMENT, Tried, figure_text, limit_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class ByChance:
    """A load that is sustained with a given probability: steps take at most `slow` times the predicted time."""

    slow: float
    load_per_s: float


@dataclass(frozen=True, slots=True)
class SystemCapacity:
    """The capacity of one system.

    Attributes
    ----------
    load_per_s : float or None
        Highest load that meets the SLO; None if no tried load meets it.
    next_load_per_s : float or None
        Lowest tried load that exceeds the SLO.
    joules_per_token, usd_per_million_tokens : float or None
        Values at that load; None without a price or a load.
    limit : Limit or None
        Reason why the next load fails.
    reason : str
        The reason as a sentence.
    tried : tuple of Tried
        Every load, in order.
    spec, sources, evidence
        Evidence of the values; see `Simulation`.
    bases : Bases
        The same as text.
    served : str
        Layout, policy and kernels as text.
    window : Window or None
        Measurement window of the rates at that load, see `results.steady`.
    held : Interval or None
        Factors on the load and the rate, see `answers.interval`; the cost has the inverse ones. Both ends are searched
        like the load, with the fastest and slowest steps (`capacity.ends`).
    ranges : Ranges or None
        The part that is out of range at that load.
    by_chance : mapping of float to ByChance
        Load by the probability that it meets the SLO, as `plan` sizes its replicas.
    """

    system: str
    devices: int
    reason: str
    spec: SystemSpec
    load_per_s: float | None = None
    next_load_per_s: float | None = None
    output_tokens_per_s: float | None = None
    joules_per_token: float | None = None
    usd_per_million_tokens: float | None = None
    limit: Limit | None = None
    tried: tuple[Tried, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    evidence: Rows = ()
    bases: Bases = NONE
    served: str = ""
    window: Window | None = None
    held: Interval | None = None
    ranges: Ranges | None = None
    by_chance: Mapping[float, ByChance] = field(default_factory=dict)

    @property
    def undecided(self) -> bool:
        """Return whether the smallest load above the highest sustained one is undecided."""
        return any(t.open for t in self.tried if t.load_per_s == self.next_load_per_s)

    @property
    def best(self) -> Tried | None:
        """Return the simulated point at the highest sustained load; None without one."""
        return next((t for t in self.tried if t.load_per_s == self.load_per_s), None)

    @property
    def load_by_chance(self) -> dict[str, float]:
        """Return the sustained load [1/s] for each probability, which is the key as text."""
        return {str(q): c.load_per_s for q, c in self.by_chance.items()}

    @property
    def window_entry(self) -> dict[str, Any] | None:
        """Return the measurement window as plain data for JSON; None without a window."""
        return window_dict(self.window) if self.window else None

    @property
    def intervals(self) -> dict[str, Any] | None:
        """Return the intervals of the values at the load."""
        if self.held is None:
            return None
        factors = {
            "load_per_s": self.held,
            "output_tokens_per_s": self.held,
            "usd_per_million_tokens": self.held.inverse,
        }
        return {name: interval_dict(getattr(self, name), factor) for name, factor in factors.items()}

    @property
    def load_text(self) -> str:
        """Return the highest sustained load as text, with the next load if that is undecided."""
        if self.load_per_s is None:
            return "not decided" if self.undecided else "none"
        above = f" ({show(self.next_load_per_s)} not decided)" if self.undecided else ""
        return f"{show(self.load_per_s)}{above}"


@dataclass(frozen=True, slots=True)
class Capacity(Result):
    """Highest loads that meet an SLO; see `capacity`."""

    PICTURES = ("capacity.png", "front.png")
    TABLES = (("loads.csv", "curve", "%.17g"),)

    model: str
    workload: str
    level: dict[str, float]
    found: tuple[SystemCapacity, ...]
    tolerance: float
    why: bool = False

    def curve(self) -> Records:
        """One row per simulated load: run, load, throughput, measures of worth, latencies, whether it meets the SLO."""
        return [
            {
                "run": f.system, "load_per_s": t.load_per_s,
                "output_tokens_per_s": t.output_tokens_per_s,
                **(t.worth.to_dict() if t.worth else dict.fromkeys(WORTH)),
                **{column_of(name): t.figures[name] for name in self.level},
                "within": t.holds, "requests": t.requests,
            }
            for f in self.found for t in f.tried
        ]  # fmt: skip

    def records(self) -> Rows:
        rows: Records = self.to_dict()["rows"]
        return [
            {k: v for k, v in row.items() if k not in _NESTED} | (row["at_load"] or dict.fromkeys(self.level))
            for row in rows
        ]

    def rows(self) -> Rows:
        return [
            {
                "system": f.system, "served as": f.served,
                "requests/s": f.load_text,
                f"{LEVEL:.0%} interval": spoken(f.held) if f.held else None,
                "output tokens/s": f.output_tokens_per_s,
                **{n.replace("_", " "): best and figure_text(n, best.figures[n]) for n in self.level},
                "J/token": f.joules_per_token, "USD/M tokens": f.usd_per_million_tokens,
                "limited by": f.limit.resource if f.limit else "-",
            }
            for f in self.found
            for best in [f.best]
        ]  # fmt: skip

    def blocks(self) -> Blocks:
        level = ", ".join(limit_text(n, x) for n, x in self.level.items())
        return [
            f"{self.model}, {self.workload}: highest load with {level}",
            self.rows(),
            *(f"{f.system}: {f.reason}" for f in self.found),
            *(f"{f.system}: requests/s {_chances(f)}." for f in self.found if f.by_chance),
            *self._windows(),
            *not_like_for_like((f.system, f.bases) for f in self.found),
            *evidence_blocks([(f.evidence, f.system, f.ranges) for f in self.found if f.evidence], self.why),
        ]

    def headline(self) -> str:
        """Return the highest load of each system, best first, and its limit."""
        able = [f for f in self.found if f.load_per_s is not None]
        able.sort(key=lambda f: -(f.load_per_s or 0.0))
        parts = []
        for f in able[:4]:
            limit = f", limited by {f.limit.resource}" if f.limit else ""
            parts.append(f"{f.system} serves {show(f.load_per_s)} requests/s{limit}")
        without = [f.system for f in self.found if f.load_per_s is None]
        if without:
            parts.append(f"no load meets it on {', '.join(without[:4])}")
        return "; ".join(parts) + "."

    def _windows(self) -> list[str]:
        """Return one line per system: the measurement window of its rates."""
        return [f"{f.system}: {window_text(f.window)}" for f in self.found if f.window]

    def drawings(self) -> Sequence[Drawing]:
        if not self._latencies():
            return []
        caption = "Latencies of the SLO against load; dashed: the limits."
        front = "What each system makes of its devices against what a user gets, at every load tried."
        return [Drawing(self.figure(), caption), Drawing(self.front(), front)]

    def _latencies(self) -> dict[str, float]:
        """Return the latencies of the SLO with their limits [s]."""
        return {column_of(n): most for n, most in self.level.items() if n != ATTAINMENT}

    def figure(self) -> Figure:
        """Plot the latencies of the SLO against load."""
        import pandas as pd

        from ..plots import throughput_latency

        names = tuple(self._latencies())[:3]
        limits = self._latencies()
        title = f"{self.model}, {self.workload}"
        return throughput_latency(pd.DataFrame(self.curve()), names, title, load="load_per_s", limits=limits)

    def front(self) -> Figure:
        """Plot throughput per device against output tokens/s per user, one curve per system."""
        import pandas as pd

        from ..plots import throughput_pace

        rows = [row | {"load": f"{row['load_per_s']:.6g} requests/s"} for row in self.curve()]
        return throughput_pace(pd.DataFrame(rows), ("load",), f"{self.model}, {self.workload}")


_NESTED = ("limit", "window", "intervals", "load_by_chance", "out_of_range", "at_load")
"""Parts of a row that are not numbers."""


def _chances(f: SystemCapacity) -> str:
    """Return the text of the loads by probability."""
    return ", ".join(chance_text(show(c.load_per_s), q, c.slow) for q, c in f.by_chance.items())
