"""The result of `opbyte design`: a sentence, a front with the limit of each design, and shadow prices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ....devices.silicon.describe import timed_sram
from ...show.declared import record
from ...show.output import STAMPS, OutputFolder
from ...show.result import Drawing, Result
from ...show.text import Blocks, Rows, show
from .describe import component_rows
from .goals import EDAP, SILICON, direction
from .searching import SearchOutcome, feasible, may_hold
from .space import Space
from .why import Alone, Bottleneck, Design, Shadow, by_scenario

MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class DesignAnswer(Result):
    """Result of a search of designs; see `design`.

    Attributes
    ----------
    found : SearchOutcome
        Every design of the space.
    front : tuple of Design
        Simulated ones that meet the limits and that none beats, the best in the first goal first.
    limits : tuple of tuples
        What limits each of them, model by model.
    alone : tuple of Alone
        Of several models what would be best for each.
    prices : tuple of Shadow
        At the first of the front.
    reference : Design or None
        The reference of the space, simulated.
    text : str
        The best design as a system's file.
    fronts : mapping of str to tuple of Design
        Of each scenario, if the space has some: the same for this scenario only.
    """

    FILE = "design.json"
    PICTURES = ("front.png",)
    TABLES = (("designs.csv", "frame", STAMPS),)

    space: Space
    found: SearchOutcome
    front: tuple[Design, ...]
    limits: tuple[tuple[Bottleneck, ...], ...]
    alone: tuple[Alone, ...]
    prices: tuple[Shadow, ...]
    reference: Design | None
    text: str
    method: str
    seed: int
    fronts: Mapping[str, tuple[Design, ...]]

    @property
    def best(self) -> Design:
        return self.front[0]

    @property
    def no_larger(self) -> Design | None:
        """Return the first design of the front whose area is at most the reference's; None without one."""
        most = None if self.reference is None else self.reference.silicon.values()["area_mm2"]
        if most is None:
            return None
        areas = ((one, one.silicon.values()["area_mm2"]) for one in self.front)
        return next((one for one, area in areas if area is not None and area <= most), None)

    @property
    def limit_texts(self) -> list[str]:
        return [limit.text for limit in self.space.goals.limits]

    def to_dict(self) -> dict[str, Any]:
        return record(self) | {
            "front": [self._entry(d, limits) for d, limits in zip(self.front, self.limits, strict=True)],
            "reference": None if self.reference is None else self._entry(self.reference, ()),
            "no_larger_than_reference": None if self.no_larger is None else self._entry(self.no_larger, ()),
            "scenarios": {name: self._front(front) for name, front in self.fronts.items()},
            "alone": [one.to_dict(self.space) for one in self.alone],
            "shadow_prices": [price.to_dict() for price in self.prices],
            "headline": self.headline(),
        }

    def _entry(self, design: Design, limits: Sequence[Bottleneck]) -> dict[str, Any]:
        metrics = design.metrics or {}
        goals = self.space.goals.names
        values = {n: getattr(design.silicon, n) for n in SILICON}
        intervals = {n: e.interval and list(e.interval) for n, e in values.items()}
        return {
            "parameters": self.space.named(design.values),
            "metrics": {name: metrics.get(name) for name in (*goals, *_also(goals))},
            **{name: estimate.value for name, estimate in values.items()},
            "intervals": intervals,
            "components": {n: dict(e.parts) for n, e in values.items()},
            "why": "; ".join(limit.text() for limit in limits),
            **({} if design.tuned is None else {"kernels": design.tuned.to_dict()}),
        }

    def records(self) -> Rows:
        return [self._flat(design) for design in self.found.every if design.metrics is not None]

    def _flat(self, design: Design) -> dict[str, Any]:
        metrics = design.metrics or {}
        names = dict.fromkeys((*self.space.goals.names, *self.space.bests, *SILICON, EDAP))
        out = {**self.space.named(design.values), **{n: metrics.get(n) for n in names}, "front": design in self.front}
        if self.space.bests and len(design.each) > len(self.space.models):
            rows = by_scenario(self.space, design.each, design.silicon.values())
            scenarios = zip(self.space.scenarios, rows, strict=True)
            out |= {f"{name} {goal}": row.get(goal) for name, row in scenarios for goal in self.space.bests}
        return out

    def rows(self) -> Rows:
        return self._front(self.front)

    def _front(self, front: Sequence[Design]) -> Rows:
        """Return table rows of a front's first designs: parameters, and the metrics that all of these have."""
        out = []
        for design in front[:MOST_SHOWN]:
            row = self._flat(design)
            del row["front"]
            out.append({k: v for k, v in row.items() if v is not None})
        known = set.intersection(*(set(row) for row in out)) if out else set()
        return [{k: v for k, v in row.items() if k in known} for row in out]

    def headline(self) -> str:
        """Return a summary of the best design: its metrics, its gain over the reference, and its limits."""
        words = ", ".join(f"{k} {show(v)}" for k, v in self.space.named(self.best.values).items())
        within = " and ".join(self.limit_texts)
        text = f"For {' and '.join(self.space.models)}{f' within {within}' if within else ''}: {words}"
        text += "".join(f"; {part}" for part in self._against())
        if self.limits and self.limits[0]:
            text += f". What limits it: {'; '.join(limit.text() for limit in self.limits[0])}"
        if self.best.tuned is not None:
            text += f". Its {self.best.tuned.text()}"
        return text + "."

    def _against(self) -> list[str]:
        """Return the gains over the reference: of the best design, and of the best one that is not larger."""
        out = self._gains(self.best, "against the reference")
        other = self.no_larger
        if other is not None and other is self.reference and other is not self.best:
            out.append("of designs no larger than it none is better")
        elif other is not None and other is not self.best:
            text = ", ".join(f"{k} {show(v)}" for k, v in self.space.named(other.values).items())
            out += self._gains(other, f"no larger than that, {text}:")
        return out

    def _gains(self, one: Design, words: str) -> list[str]:
        """Return a design's goals and area relative to the reference, as text; empty if unknown."""
        if self.reference is None or self.reference is one or self.reference.metrics is None:
            return ["it is the reference itself"] if self.reference is one else []
        out = []
        names = dict.fromkeys((*self.space.goals.wanted, "area_mm2"))
        for name in names:
            mine, old = (one.metrics or {}).get(name), self.reference.metrics.get(name)
            if mine is None or not old:
                continue
            out.append(f"{name} {mine / old - 1:+.1%}")
        return [f"{words} {', '.join(out)}"] if out else []

    def blocks(self) -> Blocks:
        every, done = len(self.found.every), len(self.found.simulated)
        left = ", ".join(f"{n:,} {why}" for why, n in self.found.left_out.items() if n)
        goals = ", ".join(f"{goal} {name}" for name, goal in self.space.goals.wanted.items())
        out: Blocks = [
            self.headline(),
            f"{every:,} designs judged, {done:,} simulated; left out: {left or 'none'}",
            *self._removed(),
            f"front of {goals}:",
            self.rows(),
        ]
        for name, front in self.fronts.items():
            out += [f"front of {name} alone:", self._front(front)]
        if self.alone:
            out += [
                "best for each single model, among the simulated designs:",
                [one.row(self.space) for one in self.alone],
            ]
        if self.prices:
            out += ["what one more unit is worth at the first of them:",
                    [{"of": p.of, "unit": p.unit, "changes": f"{p.share:+.3%}", "how": p.how}
                     for p in self.prices]]  # fmt: skip
        out += ["area, power and cost of the first of them by component:", component_rows(self.best.silicon)]
        out.append(self._sure())
        return out

    def _removed(self) -> Iterator[str]:
        """Yield for each limit the number of designs that it removes, and the nearest value among them."""
        goals = self.space.goals
        for limit in goals.limits:
            alone = replace(goals, limits=(limit,))
            beyond = [
                d.metrics or d.bound
                for d in self.found.every
                if d.error is None and not may_hold(alone, d.metrics or d.bound)
            ]
            text = f"{limit.text}: removes {len(beyond):,} designs"
            for name in sorted(limit.names):
                values = [x for row in beyond if (x := row.get(name)) is not None]
                if values and len(limit.names) == 1:
                    text += f"; the nearest has {name} {show((min if '<' in limit.text else max)(values))}"
            yield text

    def _sure(self) -> str:
        parts = []
        for name in SILICON:
            estimate = getattr(self.best.silicon, name)
            if estimate.value is not None and estimate.interval is not None:
                low, high = estimate.interval
                parts.append(f"{name} {show(estimate.value)} ({show(low)} to {show(high)})")
        text = ", ".join(parts) or "area, power and cost are unknown"
        text += "; 80% intervals of the models, see opbyte design describe"
        return f"Confidence: {text}; {timed_sram(self.best.device, tuned=self.space.tuned)}."

    def write(self, folder: OutputFolder) -> None:
        """Also write the best design as a system."""
        folder.text("best.yaml", self.text)
        Result.write(self, folder)

    def drawings(self) -> Sequence[Drawing]:
        import pandas as pd

        from ...plots import trade_off

        wanted = dict(self.space.goals.wanted)
        if len(wanted) == 1:
            cost_name = next((n for n in SILICON if self.best.silicon.values()[n] is not None), None)
            if cost_name is None:
                return []
            wanted[cost_name] = direction(cost_name, {})
        table = pd.DataFrame([self._flat(d) for d in self.found.every if feasible(self.space.goals, d)])
        own = {} if self.reference is None else self._flat(self.reference)
        models = self.space.models
        served = " and ".join(models) if len(models) < 3 else f"{len(models)} models"
        first, second, *rest = wanted.items()  # the first goal goes up
        goals = dict([second, first, *rest])
        figure = trade_off(table, goals, self.space.names, f"{self.space.title}: {served}", reference=own)
        text = (
            "Every simulated design within the limits; labelled designs are on the front, the cross is the reference."
        )
        return [Drawing(figure, text)]


def _also(goals: Sequence[str]) -> tuple[str, ...]:
    """Return metrics that are printed in addition to the requested ones."""
    usual = ("output_tokens_per_s", "tpot_s_mean", "ttft_s_p99", "joules_per_token", EDAP)
    return tuple(name for name in usual if name not in goals)
