"""The best of one system: candidates in the order of the least that they can cost.

Every candidate has a number of copies below which bounds or simulations say that it misses the level. The
one whose next number of copies is worth most is simulated next, until nothing left can be better than what
was found. Of one candidate more copies are assumed never to serve worse: one that fails four times is
tried with the most copies allowed, given up if it fails, and bisected if it does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ....devices.spec import SystemSpec
from ....simulator.frameworks.launch_sharing import FLAGS
from ....simulator.frameworks.sharing import Sharing
from ....simulator.scenario.build import deployment_of
from ....workloads.catalog import load_model
from ....workloads.errors import CapacityError, InputError
from ....workloads.model import ModelSpec
from ....workloads.requests import RequestBlock
from ...answers.limits import limit_of
from .bounds import Bound, bound_of
from .candidates import Candidate, candidates, systems_of
from .points import Point, Task, Value, point_of

TURNED_DOWN = 4
"""Failures after which a candidate is tried with the most copies."""


@dataclass(slots=True)
class Tried:
    """What is known of one candidate.

    Attributes
    ----------
    candidate, system, bound
    fails : int
        Most copies known to miss the level.
    points : list of Point
        Simulated, in the order they were.
    best : Point or None
        With the fewest copies that are known to meet it.
    hopeless : bool
        Whether no number of copies does.
    """

    candidate: Candidate
    system: SystemSpec
    bound: Bound
    most: int
    fails: int = 0
    points: list[Point] = field(default_factory=list)
    best: Point | None = None
    hopeless: bool = False

    @property
    def done(self) -> bool:
        """Whether its fewest copies are known, or that there are none."""
        found = self.best is not None and self.best.copies == self.fails + 1
        return found or self.hopeless or self.fails >= self.most

    def least(self, task: Task) -> Value:
        """The best that it can still turn out to be."""
        copies = self.fails + 1
        return task.value(
            copies * self.candidate.devices, task.usd_per_hour(self.system, copies), 0.0
        )

    def value(self, task: Task) -> Value:
        """What it is worth with the fewest copies that meet the level."""
        assert self.best is not None
        p = self.best
        return task.value(p.devices, p.usd_per_hour, p.joules_per_token or float("inf"))

    def copies(self) -> int:
        """The number to simulate next."""
        if self.best is not None:
            return (self.fails + self.best.copies) // 2
        if len(self.points) == TURNED_DOWN:
            return self.most
        return min(self.fails + max(1, self.fails // 4), self.most)

    def learn(self, p: Point) -> None:
        """Take a simulated point into account."""
        self.points.append(p)
        if not p.missed:
            self.best = p
        elif p.copies == self.most:
            self.hopeless = True
        else:
            self.fails = p.copies


@dataclass(frozen=True, slots=True)
class Searched:
    """What is known of the systems of one name.

    Attributes
    ----------
    name : str or Path
    tried : tuple of Tried
        Every candidate.
    simulations : int
    limit : str
        What keeps fewer devices, or any, from serving.
    refused : InputError or None
        Why a layout cannot be, of the first that cannot.
    """

    name: str | Path
    tried: tuple[Tried, ...]
    simulations: int = 0
    limit: str = ""
    refused: InputError | None = None

    def best(self, task: Task) -> Tried | None:
        """The best candidate that is known to meet the level."""
        met = [t for t in self.tried if t.best is not None]
        return min(met, key=lambda t: t.value(task), default=None)

    @property
    def least_devices(self) -> int | None:
        """The fewest devices with which something may meet the level; None where nothing does."""
        open_ = [(t.fails + 1) * t.candidate.devices for t in self.tried if not t.done]
        return min(open_, default=None)

    def left(self, task: Task, bar: Value) -> list[Tried]:
        """Candidates that may turn out better than the best, and than `bar`."""
        best = self.best(task)
        most = bar if best is None else min(bar, best.value(task))
        return [t for t in self.tried if not t.done and t.least(task) < most]


def start_on(task: Task, name: str | Path) -> Searched:
    """Candidates on the systems of a name, with what bounds say of them.

    Raises
    ------
    InputError
        An unknown system.
    """
    sizes = systems_of(name)
    block = task.scenario.changed(**task.load).workload.open(task.scenario.seed).read()
    known: list[Tried] = []
    refused: InputError | None = None
    asked = task.scenario.deployment
    sharing = Sharing(**{name: getattr(asked, name) for name in FLAGS})
    with _folder() as folder:
        for size, spec in sizes:
            for each in candidates(size, spec, _model(task), task.axes, len(sizes) > 1, sharing):
                try:
                    known.append(_known(task, each, spec, block, folder))
                except InputError as error:  # heads or experts that the degrees do not divide
                    refused = refused or error
    return Searched(name, tuple(known), refused=refused)


def search_on(task: Task, devices: float, bar: Value, found: Searched) -> Searched:
    """Simulate what may be the best, best first.

    Parameters
    ----------
    devices : float
        Candidates of more devices are left for later.
    bar : tuple of float
        What can be no better than this is left out.
    """
    count = found.simulations
    with _folder() as folder:
        while True:
            left = [
                t for t in found.left(task, bar)
                if (t.fails + 1) * t.candidate.devices <= devices
            ]  # fmt: skip
            if not left:
                return replace(found, simulations=count)
            first = min(left, key=lambda t: t.least(task))
            count += 1
            try:
                first.learn(point_of(task, first.candidate, first.system, first.copies(), folder))
            except CapacityError as error:
                first.bound, first.hopeless = Bound(None, f"memory: {error.reason}"), True


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for engines' files that is gone afterwards."""
    with TemporaryDirectory(prefix="opbyte-plan-") as name:
        yield Path(name)


def _known(
    task: Task, candidate: Candidate, system: SystemSpec, block: RequestBlock, folder: Path
) -> Tried:
    """A candidate with what bounds say of it."""
    try:
        deployment, settings = deployment_of(candidate.scenario(task.scenario, folder))
        bound = bound_of(deployment, settings, block, task.level)
    except CapacityError as error:
        bound = Bound(None, f"memory: {error.reason}")
    return Tried(candidate, system, bound, task.most_copies(system), (bound.copies or 1) - 1,
                 hopeless=bound.copies is None)  # fmt: skip


def _model(task: Task) -> ModelSpec:
    """The model as it comes."""
    model = task.scenario.model
    assert model is not None
    return model if isinstance(model, ModelSpec) else load_model(model)


def limit_on(task: Task, found: Searched) -> Searched:
    """Say what keeps the nearest of those that fail from serving, with one more simulation of it."""
    failed = [p for t in found.tried for p in t.points if p.missed]
    best = found.best(task)
    most = best.best.devices if best is not None and best.best is not None else float("inf")
    failed = [p for p in failed if p.devices < most]
    if not failed:
        return replace(found, limit=_ruled_out(found, most))
    p = min(failed, key=lambda p: (p.worst(task.level), p.devices))
    with _folder() as folder:
        run = task.run(p.candidate, p.copies, folder, keep_stages=True).run
    missed = {name: x for name, x in task.level.items() if name in p.missed}
    text = f"{p.copies} x {p.system}, {p.candidate.layout}: {p.misses(task.level)}"
    text += f"; {limit_of(run, missed).why}"
    return replace(found, simulations=found.simulations + 1, limit=text)


def _ruled_out(found: Searched, most: float) -> str:
    """Why fewer devices, or any, need no simulation."""
    ruled = [t for t in found.tried if t.bound.copies is None and t.candidate.devices < most]
    if not ruled:
        return "" if found.tried or found.refused is None else str(found.refused)
    last = max(ruled, key=lambda t: t.candidate.devices)
    return f"{last.system.name}, {last.candidate.layout}: {last.bound.why}"
