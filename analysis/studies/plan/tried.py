"""Bounds and simulated points of each candidate, and the candidates that `--quick` skips.

A quick plan tries layouts with pipeline stages only if no other layout meets the SLO. A layout is dominated, and not
simulated again, if another layout of the same system has lower latencies with the same number of replicas.
Short runs compare the energy of candidates of equal cost. The number of replicas is decided as in a full plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ....devices.spec import SystemSpec
from .bounds import Bound
from .candidates import Candidate
from .points import BEATEN, PlanTask, Point, Value

LONGEST = 8.0
"""Maximum ratio of a latency to its limit in the estimate of the replicas needed."""
MARGIN = 1.25
"""Minimum ratio of the worst latencies of two layouts at which the slower one is dominated.

In 12 plans (Llama-3.3-70B, Qwen3-235B and DeepSeek-V3 on four devices), no layout slower by this ratio met the SLO with
fewer replicas.
"""


@dataclass(slots=True)
class TriedCandidate:
    """Bounds and simulated points of one candidate.

    Attributes
    ----------
    fails : int
        Largest number of replicas that is known to fail.
    points : list of Point
        Simulated points, in the order of simulation.
    best : Point or None
        Point with the fewest replicas that are known to meet the SLO.
    hopeless : bool
        Whether no allowed number of replicas meets the SLO.
    slow : float or None
        Factor on step times that the plan's probability requires; None before the first simulation.
    """

    task: PlanTask
    candidate: Candidate
    system: SystemSpec
    bound: Bound
    most: int
    fails: int = 0
    points: list[Point] = field(default_factory=list)
    best: Point | None = None
    hopeless: bool = False
    slow: float | None = None

    @property
    def done(self) -> bool:
        """Return whether the fewest replicas are known, or that no allowed number suffices."""
        settled = self.best is not None and self.best.copies == self.fails + 1
        return settled or self.hopeless or self.fails >= self.most

    @property
    def least(self) -> Value:
        """Return the best value that the candidate can still reach."""
        return self.at(self.fails + 1)

    def at(self, copies: int) -> Value:
        """Return the best possible value of `copies` replicas: their devices and cost, without energy."""
        devices = self.task.started(copies) * self.candidate.devices
        return self.task.value(devices, self.task.usd_per_hour(self.system, devices), 0.0)

    @property
    def value(self) -> Value:
        """Return the value of the candidate with the fewest replicas that are known to meet the SLO."""
        assert self.best is not None
        return self.task.worth(self.best)

    def copies(self, bar: Value) -> int:
        """Return the number of replicas to simulate next.

        If the largest number of replicas that is better than `bar` fails, the candidate cannot win.
        """
        if self.best is not None:
            return (self.fails + min(self.best.copies, self.most + 1)) // 2
        most = self.most
        while most > self.fails and self.at(most) >= bar:
            most -= 1
        if most < self.most:
            return most
        return min(max(self.fails * 3 // 2, self.paced), most)

    @property
    def paced(self) -> int:
        """Return the estimated number of replicas from the last failure.

        Latencies fall faster than a replica's load, because fewer concurrent requests also make steps shorter.
        """
        if self.best is not None or not self.points:
            return self.fails + 1
        return max(self.fails + 1, math.ceil(self._seems(LONGEST)))

    def _seems(self, longest: float) -> float:
        """Return the estimated number of replicas from the last failure, as a fraction."""
        last = self.points[-1]
        over: float = min(last.paces(self.task.level), longest) ** (1 / 3)
        return last.copies * max(over, 1.0 / max(last.served, 0.1))

    @property
    def guess(self) -> tuple[float, float, Value, int]:
        """Return the sort key of candidates: estimated devices (whole replicas, then fractional), best value, `parts`.

        Among equals, the layout with the fewest independent device groups is first: its latencies are the lowest.
        """
        few, size = self._seems(1e3 * LONGEST) if self.points and self.best is None else 0, self.candidate.devices
        return max(few, self.paced) * size, few * size, self.least, self.candidate.parts

    def learn(self, point: Point) -> None:
        """Take a simulated point into account."""
        self.points.append(point)
        if not point.missed:
            self.best = point
        elif point.missed == BEATEN:
            self.most = point.copies - 1  # this number need not be tried again
        elif point.copies == self.most:
            self.hopeless = True
        else:
            self.fails = point.copies


def narrows(task: PlanTask) -> bool:
    """Return whether slower layouts are skipped: in quick plans by devices or cost, since a slower one may need less energy."""
    return task.quick and task.goal in ("devices", "cost")


def deferred(tried: TriedCandidate) -> bool:
    """Return whether a layout is tried only after all others failed: one with pipeline stages, whose steps are longer."""
    start = tried.candidate.start
    return start is not None and start.pp > 1


def promising(left: Sequence[TriedCandidate], tried: Sequence[TriedCandidate], served: bool) -> list[TriedCandidate]:
    """Return the candidates that are worth a simulation.

    Parameters
    ----------
    left : sequence of TriedCandidate
        Candidates that may be better than the best known one.
    tried : sequence of TriedCandidate
        All candidates on the systems of one name.
    served : bool
        Whether some candidate is known to meet the SLO.
    """
    near = [t for t in left if not deferred(t)]
    chosen = near or ([] if served else left)
    return [t for t in chosen if not any(_dominates(other, t) for other in tried)]


def _dominates(other: TriedCandidate, slower: TriedCandidate) -> bool:
    """Return whether a run of another layout of the same system was faster with the same number of replicas."""
    if other is slower or other.system.name != slower.system.name or other.candidate.pools != slower.candidate.pools:
        return False
    level = slower.task.level
    last = {p.copies: p for p in other.points}
    return any(p.missed and p.copies in last and _faster(last[p.copies], p, level) for p in slower.points)


def _faster(p: Point, q: Point, level: Mapping[str, float]) -> bool:
    """Return whether no latency of `p` exceeds that in `q`, and the worst one is lower by `MARGIN`."""
    pairs = [((p.figures[name] or 0.0) / most, (q.figures[name] or 0.0) / most) for name, most in level.items()]
    return all(a <= b for a, b in pairs) and MARGIN * max(a for a, _ in pairs) <= max(b for _, b in pairs)
