"""Share of a memory's bandwidth for each access pattern, from the command-level model, stored on disk.

Catalog devices' values come with the library (`shipped`), so that their first use compiles nothing; others are computed
once for each memory, pattern and version of the library.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path

from ...workloads.own_folder import write_whole
from .pattern import PatternRun
from .spec import DramSpec

TABLE = Path(__file__).parent / "derived.csv"


@dataclass(frozen=True, slots=True)
class Derived:
    """Result of the DRAM model for one memory and access pattern.

    Attributes
    ----------
    memory, pattern : str
        Description of the run.
    fraction : float
        Share of the pins' rate.
    read_latency_s : float or None
        Mean time of a read [s].
    """

    memory: str
    pattern: str
    fraction: float
    read_latency_s: float | None
    row_hits: float


@cache
def shipped() -> Mapping[str, Derived]:
    """Return the results that come with the library, by :func:`.efficiency.key_of`."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {row["key"]: _row(row) for row in csv.DictReader(file)}


def _row(row: Mapping[str, str]) -> Derived:
    latency = row["read_latency_s"]
    return Derived(
        row["memory"], row["pattern"], float(row["fraction"]),
        float(latency) if latency else None, float(row["row_hits"]),
    )  # fmt: skip


def weights(queue: int = 32) -> PatternRun:
    """Return the run of weights that are streamed in sequence from all channels."""
    return PatternRun(read_queue=queue, write_queue=queue)


def efficiency(memory: DramSpec, run: PatternRun) -> Derived:
    """Return the efficiency of a pattern; stored results are reused.

    Examples
    --------
    >>> from .spec import load_memory
    >>> round(efficiency(load_memory("hbm3-5200-8hi"), weights()).fraction, 5)
    0.87533
    """
    return _remembered(memory, run)


@lru_cache(maxsize=4096)
def _remembered(memory: DramSpec, run: PatternRun) -> Derived:
    key = key_of(memory, run)
    if key in shipped():
        return shipped()[key]
    path = _place(key)
    stored = _read(path)
    if stored is None:
        stored = derive(memory, run)
        _write(path, stored)
    return stored


def derive(memory: DramSpec, run: PatternRun) -> Derived:
    """Run a pattern in the DRAM model, without use of stored results."""
    from .run import simulate  # compiled code, which known numbers do without

    outcome = simulate(memory, run)
    return Derived(memory.name, in_words(run), outcome.fraction, outcome.read_latency_s, outcome.row_hits)


def key_of(memory: DramSpec, run: PatternRun) -> str:
    """Return a digest of all inputs of a result."""
    text = f"{memory.model_dump_json(exclude={'title', 'aliases', 'pim'})}{asdict(run)!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def in_words(run: PatternRun) -> str:
    """Return a run's pattern as text; mapping and queue only if they differ from the default."""
    p = run.pattern
    texts = {
        "seq": "in sequence",
        "rand": f"{p.S:,} B at random",
        "stride": f"{p.X} B each {p.S:,} B",
        "multistream": f"{p.K} streams in turn, {p.G:,} B each",
        "mix": f"in sequence beside {p.S:,} B at random ({p.a}:{p.b})",
    }
    mixed = f", reads to writes {p.reads}:{p.writes}" if p.writes else ""
    if p.in_place:
        mixed = f", {p.X:,} B read and written back in turn"
    usual = PatternRun()
    mapped = f", mapping {run.mapping}" if run.mapping != usual.mapping else ""
    queue = f", {run.read_queue} entries" if run.read_queue != usual.read_queue else ""
    return texts[p.kind] + mixed + mapped + queue


def _place(key: str) -> Path | None:
    """Return the file of a stored result; None if results cannot be stored."""
    from ...workloads.jit import cache_dir  # with numba, which known numbers do without

    folder = cache_dir()
    return None if folder is None else folder / "dram" / f"{key}.json"


def _read(path: Path | None) -> Derived | None:
    """Return the content of a file; None if it is absent or damaged."""
    try:
        text = path.read_text(encoding="utf-8") if path else None
        return None if text is None else Derived(**json.loads(text))
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path | None, derived: Derived) -> None:
    """Store a result, if it can be written."""
    if path is not None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(asdict(derived)).encode())
