"""The plan: what serves the load best, what comes next and why, how sure that is, and how it is started."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...answers.bases import not_like_for_like
from ...answers.interval import LEVEL, Interval, interval_dict, spoken
from ...answers.price import WORTH
from ...show.result import Drawing, Result
from ...show.text import seconds, show
from .best import Searched, Tried
from .points import Point, Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRONT = {"devices": "min", "joules_per_token": "min"}
"""What the figure weighs; dollars stand for devices where all have a price."""


@dataclass(frozen=True, slots=True)
class Group:
    """The best of each system, best first, whose figures rest on the same models."""

    basis: str
    ranked: tuple[Tried, ...]


@dataclass(frozen=True, slots=True)
class Plan(Result):
    """What serves a load within a service level; see `plan`.

    Attributes
    ----------
    model, workload : str
    task : Task
    searched : tuple of Searched
        One a name of the systems asked for.
    """

    model: str
    workload: str
    task: Task
    searched: tuple[Searched, ...]

    @classmethod
    def of(cls, task: Task, searched: tuple[Searched, ...]) -> Plan:
        stream = task.scenario.changed(**task.load).workload.open(task.scenario.seed)
        model = task.scenario.model
        return cls(str(getattr(model, "name", model)), stream.name, task, searched)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Best candidates of the systems, ranked among those of one basis; see `answers.bases`."""
        bests = [best for s in self.searched if (best := s.best(self.task)) is not None]
        energy = self.task.goal in ("energy", "carbon")
        parts: dict[str, list[Tried]] = {}
        for t in sorted(bests, key=lambda t: t.value(self.task)):
            assert t.best is not None
            basis = t.best.bases.times + (f"; {t.best.bases.energy}" if energy else "")
            parts.setdefault(basis, []).append(t)
        return tuple(Group(basis, tuple(ranked)) for basis, ranked in parts.items())

    @property
    def winner(self) -> Point | None:
        """The best of all; None where nothing serves, or where bases differ and nobody can say."""
        found = self.groups
        return found[0].ranked[0].best if len(found) == 1 else None

    @property
    def runner_up(self) -> Point | None:
        """The next best: of another system, or of the same where there is no other."""
        found = self.groups
        return self._second(found[0]) if len(found) == 1 else None

    def _second(self, group: Group) -> Point | None:
        if len(group.ranked) > 1:
            return group.ranked[1].best
        first = group.ranked[0]
        own = next(s for s in self.searched if first in s.tried)
        rest = [t for t in own.tried if t.best is not None and t is not first]
        found = min(rest, key=lambda t: t.value(self.task), default=None)
        return None if found is None else found.best

    def to_dict(self) -> dict[str, Any]:
        task, winner, second = self.task, self.winner, self.runner_up
        return {
            "model": self.model, "workload": self.workload, "load_per_s": task.load_per_s,
            "requests": task.scenario.workload.requests, "slo": dict(task.level),
            "goal": task.goal, "budget_usd_per_hour": task.budget,
            "winner": None if winner is None else self._told(winner),
            "runner_up": None if second is None else self._told(second),
            "groups": [
                {"basis": g.basis, "winner": self._told(g.ranked[0].best)} for g in self.groups
            ],
            "limits": {str(s.name): s.limit for s in self.searched},
            "nearest": None if self.groups else self._nearest(),
            "simulations": sum(s.simulations for s in self.searched),
            "rows": list(self.records()),
        }  # fmt: skip

    def _told(self, p: Point | None) -> dict[str, Any]:
        assert p is not None
        return {
            **self._row(p), "engine": p.candidate.engine, "start": self._command(p),
            "intervals": {
                name: interval_dict(p.figures[name], self._interval(p, name))
                for name in self.task.level
            },
        }  # fmt: skip

    def _row(self, p: Point) -> dict[str, Any]:
        c = p.candidate
        return {
            "system": p.system, "layout": c.layout, "policy": c.policy,
            "token_budget": c.token_budget, "dtype": c.dtype, "kv_dtype": c.kv_dtype,
            "copies": p.copies, "devices": p.devices, "usd_per_hour": p.usd_per_hour,
            **p.worth.to_dict(), "gco2_per_token": p.gco2_per_token,
            "output_tokens_per_s": p.output_tokens_per_s,
            "outside_share": None if p.ranges is None else p.ranges.share,
            **{name: p.figures.get(name) for name in self.task.level}, "meets": not p.missed,
        }  # fmt: skip

    def records(self) -> Sequence[Mapping[str, Any]]:
        """Every candidate with the fewest copies that meet the level, or what is known of it."""
        out = []
        for t in (t for s in self.searched for t in s.tried):
            p = t.best or (t.points[-1] if t.points else None)
            if p is not None:
                row = self._row(p)
            else:
                row = dict.fromkeys(self._columns()) | {
                    "system": t.system.name, "layout": t.candidate.layout,
                    "policy": t.candidate.policy, "token_budget": t.candidate.token_budget,
                    "dtype": t.candidate.dtype, "kv_dtype": t.candidate.kv_dtype, "meets": False,
                }  # fmt: skip
            out.append(row | {"verdict": self._verdict(t)})
        return out

    def _columns(self) -> list[str]:
        return [
            "system", "layout", "policy", "token_budget", "dtype", "kv_dtype", "copies", "devices",
            "usd_per_hour", *WORTH, "gco2_per_token",
            "output_tokens_per_s", "outside_share", *self.task.level, "meets",
        ]  # fmt: skip

    def _verdict(self, t: Tried) -> str:
        if t.best is not None:
            return "meets the level" if t.done else "meets the level; fewer copies may too"
        if t.bound.copies is None:
            return t.bound.why
        if t.points:
            again = "" if t.done else "; more copies cannot be better than what was found"
            return f"misses: {t.points[-1].misses(self.task.level)}{again}"
        if t.fails >= t.most:
            return f"{t.bound.why}: more than may be had" if t.bound.why else "more than may be had"
        least = (t.fails + 1) * t.candidate.devices
        return f"not simulated: {least} devices or more cannot be better than what was found"

    def rows(self) -> Sequence[Mapping[str, Any]]:
        return [self._shown(s) for s in self.searched]

    def _shown(self, s: Searched) -> dict[str, Any]:
        best = s.best(self.task)
        p = best.best if best else None
        row: dict[str, Any] = {"system": str(s.name)}
        if p is None:
            few = s.least_devices
            row["devices"] = "none" if few is None else f"{few} or more"
            rest = ("layout", "USD/h", "J/token", *(n.replace("_", " ") for n in self.task.level))
            return row | dict.fromkeys(rest)
        c = p.candidate
        formats = [f"{name} {x}" for name, x in (("", c.dtype), ("kv", c.kv_dtype)) if x]
        row |= {
            "devices": f"{p.devices} = {p.copies} x {p.system}",
            "layout": ", ".join([c.layout, *(text.strip() for text in formats)]),
            "USD/h": p.usd_per_hour, "J/token": p.joules_per_token,
        }  # fmt: skip
        return row | {name.replace("_", " "): seconds(p.figures[name]) for name in self.task.level}

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        task = self.task
        level = ", ".join(f"{n.replace('_', ' ')} <= {seconds(x)}" for n, x in task.level.items())
        what = {"devices": "fewest devices", "cost": "lowest cost", "energy": "least energy a token",
                "carbon": "least carbon a token"}[task.goal]  # fmt: skip
        out: list[str | Sequence[Mapping[str, Any]]] = [
            f"{self.model}, {show(task.load_per_s)} requests/s, {level}: {what}", self.rows(),
        ]  # fmt: skip
        groups = self.groups
        for group in groups:
            out += self._group(group, len(groups) > 1)
        if not groups:
            out.append(f"Nothing of this serves the load. {self._nearest()}")
        out += self._limits() if groups else []
        found = [t.best for g in groups for t in g.ranked if t.best]
        shown = [p for g in groups for p in (g.ranked[0].best, self._second(g)) if p]
        out += [p.rests_on for p in shown]
        out += [text for p in shown if p.ranges for text in p.ranges.text()]
        out += not_like_for_like((p.system, p.bases) for p in found)
        return [*out, self._counted()]

    def _limits(self) -> list[str]:
        """What keeps fewer devices of each system from serving."""
        told = ((s, "with fewer" if s.best(self.task) else "so far") for s in self.searched)
        return [f"{s.name} {what}: {s.limit}." for s, what in told if s.limit]

    def _group(self, group: Group, several: bool) -> list[str]:
        """The winner, what comes next, how sure and how it is started."""
        p = group.ranked[0].best
        assert p is not None
        among = f" among those on {group.basis}" if several else ""
        out = [f"Best{among}: {self._said(p)}."]
        second = self._second(group)
        if second is not None:
            out.append(f"Next: {self._said(second)}{self._apart(p, second)}.")
        out.append(self._sure(p))
        command, engine = self._command(p), p.candidate.engine
        if command:
            copies = f", each of {p.copies} copies" if p.copies > 1 else ""
            out += [f"Start{copies}: {command}", f"engine.json: {json.dumps(engine)}"]
        else:
            out.append("Start: no engine's command says this layout and policy.")
        return out

    def _said(self, p: Point) -> str:
        c = p.candidate
        devices = f"{p.devices:,} device{'s' * (p.devices > 1)}"
        parts = [f"{devices}, {p.copies} x {p.system}", c.layout, f"policy {c.policy}"]
        parts += [f"{c.token_budget:,} tokens a step"] if c.token_budget else []
        parts += [f"{show(p.usd_per_hour)} USD/h"] if p.usd_per_hour else []
        parts += [f"{show(p.joules_per_token)} J/token"] if p.joules_per_token else []
        parts += [f"{show(1e3 * p.gco2_per_token)} mg CO2/token"] if p.gco2_per_token else []
        return ", ".join(parts)

    def _apart(self, p: Point, q: Point) -> str:
        """How much more the next one takes."""
        told = []
        for name, a, b in (("the devices", p.devices, q.devices),
                           ("the cost", p.usd_per_hour, q.usd_per_hour),
                           ("the energy", p.joules_per_token, q.joules_per_token)):  # fmt: skip
            if a and b:
                told.append(f"{b / a:.2f}x {name}")
        return f" ({', '.join(told)})" if told else ""

    def _interval(self, p: Point, name: str) -> Interval | None:
        """Factors on a latency of the level; of steps for times between tokens."""
        return p.ttft if name.startswith("ttft") else p.tpot

    def _sure(self, p: Point) -> str:
        """Whether the level holds where steps are as slow as they may well be."""
        told, safe = [], True
        for name, most in self.task.level.items():
            found, value = self._interval(p, name), p.figures[name]
            if found is None or value is None:
                return "How sure: unknown, too little of this rests on measurements."
            slow = found.of(value)[1]
            safe = safe and slow is not None and slow <= most
            told.append(
                f"{name.replace('_', ' ')} {seconds(value)} ({spoken(found)}) of {seconds(most)}"
            )
        end = "holds" if safe else "is missed: add copies, or measure first"
        return (
            f"How sure: {', '.join(told)}; at the slow end of these {LEVEL:.0%} intervals the level "
            f"{end}."
        )

    def _command(self, p: Point) -> str | None:
        model = self.task.scenario.model
        return p.candidate.command(str(getattr(model, "name", model)))

    def _nearest(self) -> str:
        """What comes nearest to serving the load."""
        points = [p for s in self.searched for t in s.tried for p in t.points]
        if not points:
            told = [f"{s.name}: {s.limit}" for s in self.searched if s.limit]
            return "; ".join(told)
        p = min(points, key=lambda p: (p.worst(self.task.level), p.devices))
        return f"Nearest: {self._said(p)}: {p.misses(self.task.level)}."

    def _counted(self) -> str:
        """How many candidates there were and what became of them."""
        tried = [t for s in self.searched for t in s.tried]
        memory, roofs = (
            sum(t.bound.copies is None and t.bound.why.startswith(kind) for t in tried)
            for kind in ("memory", "roofline")
        )
        runs = sum(s.simulations for s in self.searched)
        return (
            f"{len(tried):,} candidates: {memory:,} do not fit, {roofs:,} are too slow at nominal "
            f"rates; {runs:,} simulations of {self.task.scenario.workload.requests:,} requests."
        )

    def drawings(self) -> Sequence[Drawing]:
        figure = self.figure()
        takes = "Candidates that meet the level; the line joins the best."
        drawn = [] if figure is None else [Drawing(figure, takes)]
        if any(t.points for s in self.searched for t in s.tried):
            gives = "Every candidate that was simulated: what a device puts out against what a user gets."
            drawn.append(Drawing(self.front(), gives))
        return drawn

    def front(self) -> Figure:
        """Draw the output of a device against the pace of a user, all that was simulated."""
        import pandas as pd

        from ...plots import throughput_pace

        rows = [
            self._row(p) | {"run": str(s.name), "within": not p.missed}
            for s in self.searched for t in s.tried for p in t.points
        ]  # fmt: skip
        columns = ("system", "copies", "layout", "policy", "dtype")
        return throughput_pace(pd.DataFrame(rows), columns, self._title())

    def figure(self) -> Figure | None:
        """Draw what every candidate that meets the level takes; None without any."""
        import pandas as pd

        from ...plots import trade_off

        table = pd.DataFrame([row for row in self.records() if row["meets"]])
        if not len(table):
            return None
        goals = dict(FRONT)
        if table["usd_per_hour"].notna().all():
            goals = {"usd_per_hour": "min", "joules_per_token": "min"}
        return trade_off(
            table, goals, ("system", "copies", "layout"), f"{self._title()} within the level"
        )

    def _title(self) -> str:
        return f"{self.model}, {show(self.task.load_per_s)} requests/s"
