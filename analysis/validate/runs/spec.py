"""A measured run as its ``run.json`` tells it: what ran, the load, and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ....devices.catalog import device_names
from ....simulator.frameworks.keys import Keys
from ....workloads.errors import InputError, nearest
from ....workloads.hf.json_file import read_json_object
from ..points.table import is_points
from ..statistics import STATISTICS, TIMES
from .client_runs import is_client_table
from .published import is_published

RUN = "run.json"
ARRIVALS = "poisson, count fixed"
RECORDED = "as recorded"
"""Requests are in a table, as `opbyte record` writes it."""
SYSTEM = "system.yaml"
"""Description of the system of a run, if its device is user-defined."""
MOST_REQUESTS = 2_000_000


@dataclass(frozen=True, slots=True)
class RateStage:
    """A period of constant mean rate: `rate` [1/s] for `duration_s` [s]."""

    rate: float
    duration_s: float

    @property
    def requests(self) -> int:
        return round(self.rate * self.duration_s)


@dataclass(frozen=True, slots=True)
class Prompts:
    """Distinct prompts that are sent round robin.

    Attributes
    ----------
    distinct, groups : int
        Prompts in all; groups of equally many that begin alike.
    shared_tokens : int
        Tokens that the prompts of a group share.
    least, most : int
        Tokens of the shortest and the longest.
    mean : float
        Tokens of the mean one.
    """

    distinct: int
    groups: int
    shared_tokens: int
    least: int
    most: int
    mean: float


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One run.

    Attributes
    ----------
    device : str
        Name in the catalog, or in the file `described`.
    model : Path
        Its ``config.json``.
    engine : mapping
        Keys of an ``engine.json``.
    pause_s : float
        From the last arrival of a stage to the start of the next [s].
    output_tokens : int or None
        Of every request, if they are sampled.
    requests : Path or None
        Table of the sent requests; None if they are sampled.
    measured : tuple of mapping
        A stage each: metric -> seconds, such as ``ttft_p90``.
    described : Path or None
        The system's file, if its device is user-defined.
    """

    folder: Path
    name: str
    checkpoint: str
    device: str
    devices: int
    model: Path
    engine: Mapping[str, Any]
    stages: tuple[RateStage, ...]
    pause_s: float
    prompts: Prompts
    output_tokens: int | None
    requests: Path | None
    measured: tuple[Mapping[str, float], ...]
    described: Path | None = None

    @property
    def system(self) -> str | Path:
        """The system it ran on, by name or file."""
        return self.described or f"{self.device}-x{self.devices}"


def read_run(folder: Path) -> MeasuredRun:
    """Read ``run.json`` of a folder.

    Raises
    ------
    SpecError
        Names the file and the key that cannot be used, and what would be right.
    """
    path = folder / RUN
    top = Keys(path, read_json_object(path)).needed("device", "devices")
    load, prompts = top.part("workload"), top.part("workload").part("prompts")
    arrivals = load.text("arrivals", ARRIVALS)
    if arrivals not in (ARRIVALS, RECORDED):
        raise load.wrong("arrivals", f"{ARRIVALS!r} or {RECORDED!r}")
    recorded = arrivals == RECORDED
    stages = tuple(
        RateStage(s.real("rate", 0.0, 1e-6, 1e6), s.real("duration_s", 0.0, 1e-3, 1e9))
        for s in (keys.needed("rate", "duration_s") for keys in load.list("stages"))
    )
    if sum(s.requests for s in stages) > MOST_REQUESTS or any(s.requests < 1 for s in stages):
        raise load.wrong("stages", f"1 request a stage to {MOST_REQUESTS:,} requests in all")
    return MeasuredRun(
        folder=folder,
        name=top.text("run", folder.name),
        checkpoint=top.text("checkpoint", ""),
        device=top.text("device", "") if "system" in top.values else _device(top),
        devices=top.count("devices", 1, 4096),
        model=_beside(top, "model", "config.json"),
        engine=top.part("engine").values,
        stages=stages,
        pause_s=load.real("pause_s", 0.0, 0.0, 1e9),
        prompts=_prompts(prompts),
        output_tokens=None if recorded else load.needed("output_tokens").count("output_tokens", 1),
        requests=_beside(load, "requests", "requests.csv") if recorded else None,
        measured=_measured(top, len(stages)),
        described=_beside(top, "system", SYSTEM) if "system" in top.values else None,
    )


def _device(top: Keys) -> str:
    name = top.text("device", "")
    names = device_names()
    if name not in names:
        raise top.wrong("device", f"a device of the catalog{nearest(name, names)}")
    return names[name]


def _beside(top: Keys, key: str, default: str) -> Path:
    path = top.path.parent / top.text(key, default)
    if not path.exists():
        raise top.wrong(key, f"a file in its folder; {path} is missing")
    return path


def _prompts(node: Keys) -> Prompts:
    """Read the statistics of a run's prompts."""
    node.needed("tokens_min", "tokens_max", "tokens_mean", "distinct")
    least, most, mean = (
        node.count("tokens_min", 1),
        node.count("tokens_max", 1),
        node.real("tokens_mean", 0.0, 1.0, 2**31),
    )
    distinct = node.count("distinct", 1, MOST_REQUESTS)
    groups = node.count("groups", 1, distinct)
    if not least <= mean <= most:
        raise node.wrong("tokens_mean", f"within tokens_min and tokens_max, {least} to {most}")
    if distinct % groups:
        raise node.wrong("groups", f"a divisor of the {distinct} distinct prompts")
    shared = node.count("shared_tokens", 0, least, least=0)
    return Prompts(distinct, groups, shared, least, most, mean)


def _measured(top: Keys, stages: int) -> tuple[Mapping[str, float], ...]:
    by_stage: list[Mapping[str, float]] = [{} for _ in range(stages)]
    for entry in top.list("measured"):
        stage = entry.needed("stage").count("stage", 0, stages - 1, least=0)
        measured = {}
        for name in TIMES:
            part = entry.part(f"{name}_s")
            for statistic in STATISTICS:
                if part.values.get(statistic) is not None:
                    seconds = part.real(statistic, 0.0, 0.0 if name == "itl" else 1e-9, 1e9)
                    if seconds > 0.0:  # a busy client reads several chunks at once: gaps of 0 tell nothing
                        measured[f"{name}_{statistic}"] = seconds
        by_stage[stage] = measured
    return tuple(by_stage)


class RunFiles(NamedTuple):
    """What a path holds, in order of names."""

    runs: Sequence[Path] = ()
    """Folders with ``run.json``."""
    requests: Sequence[Path] = ()
    """Folders with ``requests.csv`` and ``engine.json``: runs whose every request is known."""
    tables: Sequence[Path] = ()
    """Static batches."""
    published: Sequence[Path] = ()
    """Tables of published points."""
    clients: Sequence[Path] = ()
    """Tables of runs as their clients printed them."""
    points: Sequence[Path] = ()
    """Tables of serving points."""


FORMS: Mapping[str, Callable[[Path], bool]] = {
    "published": is_published,
    "clients": is_client_table,
    "points": is_points,
}
"""Kinds of tables that are identified by their header."""


def find_runs(path: Path) -> RunFiles:
    """Folders of runs and tables of static batches at or below a path.

    Raises
    ------
    InputError
        The path does not exist, or there is none of either.
    """
    if path.is_file():
        if path.name == RUN:
            return RunFiles(runs=[path.parent])
        return RunFiles(**{next((kind for kind, holds in FORMS.items() if holds(path)), "tables"): [path]})
    if not path.is_dir():
        raise InputError(path, "is neither a run's folder nor a table of static batches or published points")
    if (path / RUN).is_file():
        return RunFiles(runs=[path])
    files = sorted(p for p in path.rglob("*") if p.is_file() and (p.suffix == ".csv" or p.name == RUN))
    files_found = RunFiles(
        [p.parent for p in files if p.name == RUN],
        [
            p.parent
            for p in files
            if p.name == "requests.csv" and not (p.parent / RUN).exists() and (p.parent / "engine.json").is_file()
        ],
        [p for p in files if p.name == "static.csv"],
        *([p for p in files if p.suffix == ".csv" and holds(p)] for holds in FORMS.values()),
    )
    if not any(files_found):
        wanted = f"neither {RUN} of a run nor static.csv nor a table of published points or of clients' runs"
        raise InputError(path, f"holds {wanted}, at any depth")
    return files_found
