"""A measured run as its ``run.json`` tells it: what ran, the load, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ....devices.catalog import device_names
from ....workloads.errors import InputError, SpecError, nearest
from ....workloads.hf.json_file import read_json_object
from ..statistics import STATISTICS, TIMES
from .published import is_published

RUN = "run.json"
ARRIVALS = "poisson, count fixed"
RECORDED = "as recorded"
"""Requests stand in a table, as `opbyte record` writes it."""
SYSTEM = "system.yaml"
"""Description of the system of a run, where it is of a device of one's own."""
MOST_REQUESTS = 2_000_000
MOST_TOKENS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class RateStage:
    """A stretch of constant mean rate: `rate` [1/s] for `duration_s` [s]."""

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
        Of every request, where they are drawn.
    requests : Path or None
        Table of the requests as they were sent; None where they are drawn.
    measured : tuple of mapping
        A stage each: metric -> seconds, such as ``ttft_p90``.
    described : Path or None
        The system's file, where it is of a device of one's own.
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
    top = _Node(path, "", read_json_object(path))
    load, prompts = top.part("workload"), top.part("workload").part("prompts")
    arrivals = load.text("arrivals", ARRIVALS)
    if arrivals not in (ARRIVALS, RECORDED):
        raise load.wrong("arrivals", f"{ARRIVALS!r} or {RECORDED!r}")
    recorded = arrivals == RECORDED
    stages = tuple(
        RateStage(s.number("rate", 1e-6, 1e6), s.number("duration_s", 1e-3, 1e9)) for s in load.list("stages")
    )
    if sum(s.requests for s in stages) > MOST_REQUESTS or any(s.requests < 1 for s in stages):
        raise load.wrong("stages", f"1 request a stage to {MOST_REQUESTS:,} requests in all")
    return MeasuredRun(
        folder=folder,
        name=top.text("run", folder.name),
        checkpoint=top.text("checkpoint", ""),
        device=top.text("device") if "system" in top.values else _device(top),
        devices=top.count("devices", 1, 4096),
        model=_beside(top, "model", "config.json"),
        engine=top.part("engine").values,
        stages=stages,
        pause_s=load.number("pause_s", 0.0, 1e9, 0.0),
        prompts=_prompts(prompts),
        output_tokens=None if recorded else load.count("output_tokens", 1, MOST_TOKENS),
        requests=_beside(load, "requests", "requests.csv") if recorded else None,
        measured=_measured(top, len(stages)),
        described=_beside(top, "system", SYSTEM) if "system" in top.values else None,
    )


def _device(top: _Node) -> str:
    name = top.text("device")
    names = device_names()
    if name not in names:
        raise top.wrong("device", f"a device of the catalog{nearest(name, names)}")
    return names[name]


def _beside(top: _Node, key: str, default: str) -> Path:
    path = top.path.parent / top.text(key, default)
    if not path.exists():
        raise top.wrong(key, f"a file beside it; {path} is missing")
    return path


def _prompts(node: _Node) -> Prompts:
    least, most = node.count("tokens_min", 1, MOST_TOKENS), node.count("tokens_max", 1, MOST_TOKENS)
    mean = node.number("tokens_mean", 1.0, float(MOST_TOKENS))
    distinct = node.count("distinct", 1, MOST_REQUESTS)
    groups = node.count("groups", 1, distinct, 1)
    if not least <= mean <= most:
        raise node.wrong("tokens_mean", f"within tokens_min and tokens_max, {least} to {most}")
    if distinct % groups:
        raise node.wrong("groups", f"a divisor of the {distinct} distinct prompts")
    shared = node.count("shared_tokens", 0, least, 0)
    return Prompts(distinct, groups, shared, least, most, mean)


def _measured(top: _Node, stages: int) -> tuple[Mapping[str, float], ...]:
    found: list[Mapping[str, float]] = [{} for _ in range(stages)]
    for entry in top.list("measured"):
        stage = entry.count("stage", 0, stages - 1)
        own = {}
        for name in TIMES:
            part = entry.part(f"{name}_s")
            for statistic in STATISTICS:
                if part.values.get(statistic) is not None:
                    own[f"{name}_{statistic}"] = part.number(statistic, 1e-9, 1e9)
        found[stage] = own
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Node:
    """An object of the file, whose values are checked as they are read."""

    path: Path
    prefix: str
    values: Mapping[str, Any]

    def wrong(self, key: str, wanted: str) -> SpecError:
        """What to raise: a key whose value is not what it must be."""
        have = self.values.get(key)
        found = "missing" if have is None else f"not {json.dumps(have)[:80]}"
        return SpecError(self.path, f"{self.prefix}{key}: must be {wanted}; it is {found}")

    def part(self, key: str) -> _Node:
        found = self.values.get(key) or {}
        if not isinstance(found, dict):
            raise self.wrong(key, "an object")
        return _Node(self.path, f"{self.prefix}{key}.", found)

    def list(self, key: str) -> Sequence[_Node]:
        found = self.values.get(key)
        if not isinstance(found, list) or not found or not all(isinstance(x, dict) for x in found):
            raise self.wrong(key, "a list of objects")
        return [_Node(self.path, f"{self.prefix}{key}[{i}].", x) for i, x in enumerate(found)]

    def text(self, key: str, default: str | None = None) -> str:
        found = self.values.get(key, default)
        if not isinstance(found, str):
            raise self.wrong(key, "a text")
        return found

    def number(self, key: str, least: float, most: float, default: float | None = None) -> float:
        found = self.values.get(key, default)
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            raise self.wrong(key, "a number")
        if not least <= found <= most:
            raise self.wrong(key, f"in [{least:g}, {most:g}]")
        return float(found)

    def count(self, key: str, least: int, most: int, default: int | None = None) -> int:
        found = self.values.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
            raise self.wrong(key, f"a whole number in [{least}, {most}]")
        return found


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


def _every_request(folder: Path) -> bool:
    """Whether a folder holds a run in the form of ``opbyte validate serving``."""
    return not (folder / RUN).exists() and (folder / "engine.json").is_file()


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
        return RunFiles(published=[path]) if is_published(path) else RunFiles(tables=[path])
    if not path.is_dir():
        raise InputError(path, "is neither a run's folder nor a table of static batches or published points")
    if (path / RUN).is_file():
        return RunFiles(runs=[path])
    files = sorted(p for p in path.rglob("*") if p.is_file() and (p.suffix == ".csv" or p.name == RUN))
    found = RunFiles(
        [p.parent for p in files if p.name == RUN],
        [p.parent for p in files if p.name == "requests.csv" and _every_request(p.parent)],
        [p for p in files if p.name == "static.csv"],
        [p for p in files if p.suffix == ".csv" and is_published(p)],
    )
    if not any(found):
        wanted = f"neither {RUN} of a run nor static.csv nor a table of published points"
        raise InputError(path, f"holds {wanted}, at any depth")
    return found
