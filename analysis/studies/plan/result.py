"""The plan: the best system, the next best and why, the uncertainty, and the start command."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....devices.catalog import load_system
from ....simulator.frameworks.launch import over_nodes
from ....simulator.frameworks.manifests import manifest
from ....workloads.errors import InputError
from ...answers.bases import not_like_for_like
from ...answers.evidence import evidence_blocks
from ...answers.interval import LEVEL, MEDIAN, SURE, chance_text
from ...answers.price import WORTH, prices_text
from ...show.output import OutputFolder
from ...show.result import Drawing, Result
from ...show.text import Blocks, Rows, seconds, show
from .best import Searched
from .candidates import Candidate
from .points import PlanTask, Point, Value
from .spares import Outage
from .trial import Sure
from .words import counted, left_out, outage_text, priced, said, times, untried, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FRONT = {"devices": "min", "joules_per_token": "min"}
"""Axes of the plot; dollars replace devices if all have a price."""


@dataclass(frozen=True, slots=True)
class Group:
    """The best of each system whose results use the same models, best first.

    Attributes
    ----------
    measured : bool
        Whether they are in the range of measurements, or of models without any.
    """

    basis: str
    measured: bool
    ranked: tuple[Searched, ...]

    @property
    def first(self) -> Point:
        """Return the best candidate's point."""
        return _best(self.ranked[0])


def _best(searched: Searched) -> Point:
    assert searched.chosen is not None
    return searched.chosen


@dataclass(frozen=True, slots=True)
class Plan(Result):
    """Deployments that meet an SLO at a load; see `plan`.

    Attributes
    ----------
    searched : tuple of Searched
        One a name of the systems asked for.
    why : bool
        Whether the evidence is printed as a table instead of one line.
    emit : str or None
        Kind of the manifest that is printed too, see `manifests.WRITERS`.
    """

    TABLES = (("candidates.csv", "frame", "%.17g"),)

    model: str
    workload: str
    task: PlanTask
    searched: tuple[Searched, ...]
    why: bool = False
    emit: str | None = None

    @classmethod
    def of(cls, task: PlanTask, searched: tuple[Searched, ...]) -> Plan:
        stream = task.scenario.changed(**task.load).workload.open(task.scenario.seed)
        model = task.scenario.model
        return cls(str(getattr(model, "name", model)), stream.name, task, searched)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Best candidates of the systems, ranked within one basis; see `answers.bases`.

        Candidates out of range of all measurements are listed after the measured ones.
        """
        energy = self.task.goal in ("energy", "carbon")
        parts: dict[tuple[bool, str], list[Searched]] = {}
        able = [s for s in self.searched if s.chosen is not None]
        for s in sorted(able, key=lambda s: (not _best(s).measured, self._value(s))):
            p = _best(s)
            basis = p.bases.times + (f"; {p.bases.energy}" if energy else "")
            parts.setdefault((p.measured, basis), []).append(s)
        return tuple(Group(b, measured, tuple(all_)) for (measured, b), all_ in parts.items())

    @property
    def winner(self) -> Point | None:
        """Return the best point; None if no candidate meets the SLO or different cost models prevent a comparison."""
        groups = self.groups
        ranked = [g for g in groups if g.measured == groups[0].measured]
        return groups[0].first if len(ranked) == 1 else None

    @property
    def runner_up(self) -> Point | None:
        """The next best candidate: of another system, or of the same if there is no other."""
        return None if self.winner is None else self._second(self.groups[0])

    def _value(self, searched: Searched) -> Value:
        assert searched.winner is not None
        return searched.winner.value

    def _second(self, group: Group) -> Point | None:
        if len(group.ranked) > 1:
            return _best(group.ranked[1])
        first = group.ranked[0].winner
        rest = [t for t in group.ranked[0].tried if t.best is not None and t is not first]
        runner_up = min(rest, key=lambda t: t.value, default=None)
        return None if runner_up is None else runner_up.best

    def _sure_of(self, point: Point) -> Sure | None:
        return next((s.sure for s in self.searched if s.chosen is point), None)

    def to_dict(self) -> dict[str, Any]:
        task, winner, second = self.task, self.winner, self.runner_up
        return {
            "model": self.model, "workload": self.workload, "load_per_s": task.load_per_s,
            "requests": task.scenario.workload.requests, "slo": dict(task.level),
            "goal": task.goal, "budget_usd_per_hour": task.budget,
            "winner": None if winner is None else self._entry(winner),
            "runner_up": None if second is None else self._entry(second),
            "groups": [
                {"basis": g.basis, "measured": g.measured, "winner": self._entry(g.first)}
                for g in self.groups
            ],
            "limits": {str(s.name): s.limit for s in self.searched},
            "nearest": None if self.groups else self._nearest(),
            "simulations": sum(s.simulations for s in self.searched),
            "rows": list(self.records()),
            **({} if self.emit is None else {"manifest": self._emitted()[0]}),
        }  # fmt: skip

    def _entry(self, point: Point) -> dict[str, Any]:
        sure = self._sure_of(point)
        return {
            **self._row(point.candidate, point.system, point), "engine": point.candidate.engine, "start": self._start(point),
            "intervals": None if sure is None else {
                n: {"level": LEVEL, "low": low, "high": high} for n, (low, high) in sure.ends.items()
            },
            "copies_by_chance": None if sure is None else {str(q): n for q, n in sure.copies.items()},
            **({"outage": met[0].to_dict()} if (met := self._outages(point)) else {}),
        }  # fmt: skip

    def _row(self, c: Candidate, system: str, p: Point | None) -> dict[str, Any]:
        """Return a candidate with its values, None if it was not simulated."""
        return {
            "system": system, **{n: getattr(c, n) for n in ("layout", "policy", "token_budget", "dtype", "kv_dtype")},
            "copies": None if p is None else p.started,
            **{name: getattr(p, name, None) for name in ("devices", "usd_per_hour")},
            **(dict.fromkeys(WORTH) if p is None else p.worth.to_dict()),
            **{name: getattr(p, name, None) for name in ("gco2_per_token", "output_tokens_per_s")},
            "outside_share": None if p is None or p.ranges is None else p.ranges.share,
            **{name: None if p is None else p.figures.get(name) for name in self.task.level},
            "meets": p is not None and not p.missed,
        }  # fmt: skip

    def records(self) -> Rows:
        """Return every candidate with the fewest replicas that meet the SLO, or what is known about it."""
        out = []
        for s, t in ((searched, tried) for searched in self.searched for tried in searched.tried):
            p = t.best or (t.points[-1] if t.points else None)
            p = s.chosen if t is s.winner else p
            row = self._row(t.candidate, t.system.name if p is None else p.system, p)
            out.append(row | {"verdict": verdict(t)})
        return out

    def rows(self) -> Rows:
        return [self._shown(s) for s in self.searched]

    def _shown(self, searched: Searched) -> dict[str, Any]:
        p = searched.chosen
        if p is None:
            names = ("USD/h", "J/token", *(n.replace("_", " ") for n in self.task.level))
            empty = dict.fromkeys(("layout", self._other, *names, "cost model"))
            return {"system": str(searched.name), "devices": "none", **empty}
        c = p.candidate
        return {
            "system": str(searched.name), "devices": f"{p.devices} = {p.started} x {p.system}",
            "layout": ", ".join(filter(None, (c.layout, c.dtype, c.kv_dtype and f"kv {c.kv_dtype}"))),
            self._other: self._needs(p, self._share), "USD/h": p.usd_per_hour,
            "J/token": p.joules_per_token,
            **{n.replace("_", " "): self._ends(p, n) for n in self.task.level},
            "cost model": priced(p),
        }  # fmt: skip

    @property
    def _share(self) -> float:
        """Return the probability for the second number of replicas."""
        return SURE if self.task.sure is None else MEDIAN

    @property
    def _other(self) -> str:
        return "at the median" if self.task.sure is not None else f"at {SURE:.0%} confidence"

    def _needs(self, point: Point, share: float) -> str:
        """Return the devices that meet the SLO with a given probability."""
        sure = self._sure_of(point)
        if sure is None:
            return "?"
        copies = sure.copies[share]
        return "more than may be had" if copies is None else f"{self.task.started(copies) * point.candidate.devices:,}"

    def _ends(self, point: Point, name: str) -> str:
        """Return a latency of a point as text, with its interval if one is known."""
        sure, text = self._sure_of(point), seconds(point.figures[name])
        if sure is None or name not in sure.ends:
            return text
        low, high = sure.ends[name]
        return f"{text} ({seconds(low)} to {'overload' if high is None else seconds(high)})"

    def blocks(self) -> Blocks:
        task, groups = self.task, self.groups
        out: Blocks = [self._asked(), self.rows()]
        for group in groups:
            out += self._group(group, len(groups) > 1)
        if not groups:
            out.append(f"No candidate serves the load. {self._nearest()}")
        best_points = [_best(s) for g in groups for s in g.ranked]
        out += self._limits() if groups else []
        shown = [(p.evidence, p.system, p.ranges) for p in best_points if p.evidence]
        out += evidence_blocks(shown[: None if self.why else 2], self.why)
        out += not_like_for_like((p.system, p.bases) for p in best_points)
        prices = prices_text(task.scenario, [s.tried[0].system for s in self.searched if s.tried])
        left = untried(task, self.searched)
        skipped = [left_out(self.searched)] if task.quick else []
        return [*out, *prices, counted(self.searched), *skipped, *([left] if left else []), *self._emitted()]

    def _asked(self) -> str:
        task = self.task
        level = ", ".join(f"{n.replace('_', ' ')} <= {seconds(x)}" for n, x in task.level.items())
        what = {"devices": "fewest devices", "cost": "lowest cost", "energy": "least energy a token",
                "carbon": "least carbon a token"}[task.goal]  # fmt: skip
        return f"{self.model}, {show(task.load_per_s)} requests/s, {level}: {what}"

    def headline(self) -> str:
        """Return the best deployment in a sentence, with its certainty and the next best."""
        groups = self.groups
        if not groups:
            return f"No candidate serves the load. {self._nearest()}"
        p = groups[0].first
        word = "" if p.measured else ", outside the measured range"
        second = self._second(groups[0])
        then = "" if second is None else f" Next: {said(second)}{times(p, second)}."
        sure = f"{self._needs(p, self._share)} {self._other}" if self._sure_of(p) else "confidence unknown"
        return f"{said(p)}{word}; {sure}.{then}"

    def _limits(self) -> list[str]:
        """Reasons why each system cannot serve, and on request why fewer devices cannot."""
        limited = ((s, "with fewer" if s.best else "so far") for s in self.searched if self.why or not s.best)
        return [f"{s.name} {what}: {s.limit}." for s, what in limited if s.limit]

    def _group(self, group: Group, several: bool) -> list[str]:
        """Return the winner, the next best, the uncertainty and the start command."""
        p = group.first
        among = f" among those on {group.basis}" if several else ""
        among = among if group.measured else " OUTSIDE THE MEASURED RANGE"
        out = [f"Best{among}: {said(p)}."]
        second = self._second(group)
        if second is not None:
            out.append(f"Next: {said(second)}{times(p, second)}.")
        failures = [outage_text(o, self.task.outages) for o in self._outages(p) if self.task.outages is not None]
        return [*out, self._sure(p), *failures, self._start(p), *(f"Warning: {doubt}." for doubt in p.doubts)]

    def _outages(self, point: Point) -> list[Outage]:
        return [s.outage for s in self.searched if s.chosen is point and s.outage is not None]

    def _start(self, point: Point) -> str:
        """Return the command that starts a replica."""
        c = point.candidate
        command = c.command(self.model, point.room)
        if not command:
            return "Start: no engine's start command supports this layout and policy."
        nodes = 1 if c.pools else -(-c.devices // load_system(c.system).device.node_size)
        more = over_nodes(c.policy, c.engine or {}, nodes)
        more = more and f"\nOn node K (0 to {nodes - 1}) of a replica add: {more}."
        return f"Start{f', each of {point.started} replicas' if point.started > 1 else ''}: {command}{more}"

    def _sure(self, point: Point) -> str:
        """Return the devices needed for each probability, and the latencies' intervals, as text."""
        sure = self._sure_of(point)
        if self.task.quick:
            return "Confidence: not computed with --quick."
        if sure is None:
            return "Confidence: unknown, too small a part of the time is based on measurements."
        copies = ", ".join(
            chance_text(self._needs(point, q), q, sure.slow[q]) for q in sorted(sure.copies)
        )  # fmt: skip
        ends = ", ".join(f"{n.replace('_', ' ')} {self._ends(point, n)}" for n in sure.ends)
        running = f"{point.copies:,} replicas up" if point.spares else f"{point.devices:,}"
        return f"Confidence: devices needed: {copies}; with {running}: {ends}."

    def manifest(self) -> str:
        """Return the manifest that starts all replicas of the best candidate, in the format `emit`.

        Raises
        ------
        InputError
            Nothing is the best, or it cannot be started so.
        """
        p = self.winner
        if p is None or self.emit is None:
            raise InputError("--emit", "needs one best plan: no plan meets the SLO, or the kinds of cost model differ")
        node = load_system(p.candidate.system).device.node_size
        return manifest(self.emit, p.candidate.copies(self.model, p.room, p.started, node))

    def _emitted(self) -> list[str]:
        try:
            return [] if self.emit is None else [f"{self.emit}.yaml:\n\n{self.manifest()}"]
        except InputError as error:
            return [f"No manifest: {error}."]

    def _nearest(self) -> str:
        """Return the candidate nearest to the SLO."""
        points = [p for s in self.searched for t in s.tried for p in t.points]
        if not points:
            return "; ".join(f"{s.name}: {s.limit}" for s in self.searched if s.limit)
        p = min(points, key=lambda p: (p.worst(self.task.level), p.devices))
        return f"Nearest: {said(p)}: {p.misses(self.task.level)}."

    def write(self, folder: OutputFolder) -> None:
        """Write the result, its plots, and the engine file and manifest of the best candidate."""
        if self.winner is not None and self.winner.candidate.engine is not None:
            folder.json("engine.json", self.winner.candidate.engine)
        if self.emit is not None:
            with suppress(InputError):  # the answer says why there is none
                folder.text(f"{self.emit}.yaml", self.manifest())
        for name, drawing in zip(("front.png", "plan.png"), reversed(self.drawings()), strict=False):
            folder.figure(name, drawing.figure)
        Result.write(self, folder)

    def drawings(self) -> Sequence[Drawing]:
        figure = self.figure()
        drawn = [] if figure is None else [Drawing(figure, "Candidates that meet the SLO; the line joins the best.")]
        if any(t.points for s in self.searched for t in s.tried):
            gives = "Every candidate that was simulated: what a device puts out against what a user gets."
            drawn.append(Drawing(self.front(), gives))
        return drawn

    def front(self) -> Figure:
        """Plot throughput per device against output tokens/s per user, for all simulated candidates."""
        import pandas as pd

        from ...plots import throughput_pace

        rows = [
            self._row(p.candidate, p.system, p) | {"run": str(s.name), "within": not p.missed}
            for s in self.searched for t in s.tried for p in t.points
        ]  # fmt: skip
        columns = ("system", "copies", "layout", "policy", "dtype")
        return throughput_pace(pd.DataFrame(rows), columns, self._title())

    def figure(self) -> Figure | None:
        """Plot the devices or cost of every feasible candidate; None without any."""
        import pandas as pd

        from ...plots import trade_off

        table = pd.DataFrame([row for row in self.records() if row["meets"]])
        if not len(table):
            return None
        goals = dict(FRONT)
        if table["usd_per_hour"].notna().all():
            goals = {"usd_per_hour": "min", "joules_per_token": "min"}
        beyond = {t.system.name for s in self.searched if s.chosen and not s.chosen.measured for t in s.tried}
        table["system"] = [f"{name} (not measured)" if name in beyond else name for name in table["system"]]
        return trade_off(
            table, goals, ("system", "copies", "layout"), f"{self._title()} within the SLO", named="system"
        )

    def _title(self) -> str:
        return f"{self.model}, {show(self.task.load_per_s)} requests/s"
