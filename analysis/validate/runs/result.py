"""All runs and static batches of a call, against what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....workloads.errors import InputError
from ...answers.interval import LEVEL
from ...parallel import OnProgress
from ...show.result import Drawing
from ..check import Compared, RunCheck, by_chance, for_people, summary
from ..serving import replay_requests
from .published import read_published
from .published_run import replay_published
from .replay import replay
from .spec import find_runs, read_run
from .static import read_static, replay_static

MOST_SEEDS = 100
KERNELS, STATIC_KERNELS = "vllm", "sglang"
"""Whose kernels cost runs and static batches: those of the engines that served them."""


@dataclass(frozen=True, slots=True)
class RunsValidation(Compared):
    """Every stage and static batch with its metrics.

    Attributes
    ----------
    seeds : int
        Draws of each run's requests.
    entries : tuple of RunCheck
        In the order of the paths, stages in order.
    skipped : tuple of str
        Lines of tables that were left out, and why.
    """

    seeds: int
    entries: tuple[RunCheck, ...]
    skipped: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "runs": [{"run": e.run, "stage": e.stage, "costs": e.costs, "metrics": e.metrics()} for e in self.entries],
            "medians": self.medians(),
            "sets": self.sets(),
            "skipped": list(self.skipped),
        }

    def medians(self) -> dict[str, float]:
        """Median of abs(error) over the entries that have a metric, by metric."""
        off = [(name, abs(values["error"])) for e in self.entries for name, values in e.metrics().items()]
        return {name: float(np.median([x for n, x in off if n == name])) for name, _ in off}

    def sets(self) -> dict[str, dict[str, dict[str, float | int | None]]]:
        """Errors of published points by set and metric, share inside intervals, and what chance makes of it."""
        found: dict[str, dict[str, list[RunCheck]]] = {}
        for e in self.entries:
            for name in e.measured if e.group else ():
                found.setdefault(e.group, {}).setdefault(name, []).append(e)
        return {
            group: {
                name: summary([e.metrics()[name]["error"] for e in own], [e.within(name) for e in own])
                | by_chance([e.costs for e in own if name in e.factors])
                for name, own in metrics.items()
            }
            for group, metrics in found.items()
        }

    def records(self) -> Sequence[Mapping[str, Any]]:
        return [
            {"run": e.run, "stage": e.stage, "set": e.group, "metric": name, **values, "within": e.within(name)}
            for e in self.entries
            for name, values in e.metrics().items()
        ]

    def rows(self) -> Sequence[Mapping[str, Any]]:
        return [row for e in self.entries for row in e.table()]

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        out: list[str | Sequence[Mapping[str, Any]]] = []
        for e in self.entries:
            if e.group:
                continue
            stage = "static batch" if e.stage is None else f"stage {e.stage}"
            out += [f"{e.run}: {stage}, {e.costs}", e.table()]
        count = sum(not e.group for e in self.entries)
        if count:
            out.append(f"medians of |error| over {count} stages and batches, {self.seeds} seeds:")
            out.append([{"metric": n.replace("_", " "), "median": f"{v:.1%}"} for n, v in self.medians().items()])
        if sets := self.sets():
            out.append(f"published points by set, {LEVEL:.0%} intervals (every point: --out, --json):")
            own = (
                {"set": group, "metric": name.replace("_", " "), **s}
                for group, m in sets.items()
                for name, s in m.items()
            )
            out.append(for_people(list(own)))
        return out

    def report_title(self) -> str:
        return f"{len(self.entries)} measured stages and static batches replayed"

    def drawings(self) -> Sequence[Drawing]:
        from ...plots import replays

        caption = "Simulated against measured, a panel a metric, a point a stage or static batch."
        return [Drawing(replays(self.frame(), self.report_title()), caption)]


def _every_request(folder: Path, host: str | Path | None) -> RunCheck:
    """A run whose every request is known, by the engine's clock; its kernel tables where it has some."""
    run = replay_requests(folder, (folder / "kernels").is_dir(), host)
    found = run.entry
    measured, simulated = (
        {name.replace("latency", "e2e"): x for name, x in one.items()} for one in (found.measured, found.simulated)
    )
    return RunCheck(run.name, 0, measured, simulated, run.costs)


def validate_runs(
    paths: Iterable[str | Path], *, seeds: int = 3, host: str | Path | None = None, progress: OnProgress | None = None
) -> RunsValidation:
    """Replay measured runs and static batches.

    Parameters
    ----------
    paths : iterable of path-like
        A run's folder (with ``run.json``, or with every request as `validate_serving` takes it), a table of static
        batches or of published points, or a folder that holds such at any depth; see `spec.find_runs`.
    seeds : int
        Draws of each run's requests; every figure is the mean of theirs.
    host : str or Path, optional
        How the GPUs of all of them were connected, see `devices.hosts`; without it in the class that each
        device's description names.
    progress : callable, optional
        Called with (runs and tables done, all of them).

    Raises
    ------
    InputError
        A path, key or cell that cannot be used, or nothing that can be replayed.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise InputError("--seeds", f"must be in [1, {MOST_SEEDS}], not {seeds}")
    found = [find_runs(Path(path)) for path in paths]
    runs = [read_run(folder) for each in found for folder in each.runs]
    tables = {path: read_static(path) for each in found for path in each.tables}
    entries: list[RunCheck] = []
    points = {path: read_published(path) for each in found for path in each.published}
    skipped = [text for _, left in (*tables.values(), *points.values()) for text in left]
    work: list[Callable[[], Sequence[RunCheck | str]]] = [
        *(lambda run=run: replay(run, seeds, KERNELS, host) for run in runs),
        *(lambda folder=folder: [_every_request(folder, host)]
          for each in found for folder in each.requests),
        *(lambda path=path, own=own: replay_static(path, own, STATIC_KERNELS, host)
          for path, (own, _) in tables.items()),
        *(lambda one=one: [replay_published(one, None if host is None else str(host))]
          for own, _ in points.values() for one in own),
    ]  # fmt: skip
    for done, job in enumerate(work, 1):
        for result in job():
            if isinstance(result, RunCheck):
                entries.append(result)
            else:
                skipped.append(result)
        if progress:
            progress(done, len(work))
    if not entries:
        why = f": {skipped[0]}" if skipped else ""
        raise InputError(", ".join(map(str, paths)), f"found nothing to replay{why}")
    return RunsValidation(seeds, tuple(entries), tuple(skipped))
