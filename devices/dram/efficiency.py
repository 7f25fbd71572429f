"""The share of a memory's bandwidth that an access pattern gets, derived and kept on disk.

What an op reads has a pattern: weights in sequence, pages of a KV cache, slices of experts. The
command-level model turns a pattern into one number; it is computed once for each memory, pattern
and version of the library.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from ...workloads.errors import InputError
from ...workloads.jit import cache_dir
from .pattern import Pattern, Run
from .run import simulate
from .spec import DramSpec

LENGTH = 60_000
"""Requests that a derived number rests on."""


@dataclass(frozen=True, slots=True)
class Derived:
    """A derived efficiency.

    Attributes
    ----------
    memory, pattern : str
        What was run, in words.
    fraction : float
        Of the pins' rate.
    read_latency_s : float or None
        Mean time of a read [s].
    row_hits : float
    evidence : str
        ``derived``: neither measured nor assumed.
    """

    memory: str
    pattern: str
    fraction: float
    read_latency_s: float | None
    row_hits: float
    evidence: str = "derived"


def weights(queue: int = 32) -> Run:
    """Weights streamed in sequence from all channels."""
    return Run(read_queue=queue, write_queue=queue)


def pages(memory: DramSpec, page_bytes: float, channels: int | None = None, queue: int = 32) -> Run:
    """Pages of a KV cache, gathered at random; a page is spread over `channels` (all by default)."""
    return replace(weights(queue), pattern=Pattern("rand", S=_share(memory, page_bytes, channels)))


def expert_slices(
    memory: DramSpec, experts: int, slice_bytes: float, channels: int | None = None, queue: int = 32
) -> Run:
    """Weights of `experts` experts read in turn, `slice_bytes` of one and then of the next."""
    share = _share(memory, slice_bytes, channels)
    return replace(weights(queue), pattern=Pattern("multistream", K=experts, G=share))


def append_beside_reads(reads: int, queue: int = 32) -> Run:
    """One block written for every `reads` blocks read: new keys and values beside a stream."""
    return replace(weights(queue), pattern=Pattern("seq", X=64, reads=reads, writes=1))


def update_in_place(queue: int = 32) -> Run:
    """A state read and written back, block by block."""
    return append_beside_reads(1, queue)


def weights_beside_gathers(
    memory: DramSpec, page_bytes: float, a: int, b: int, queue: int = 32
) -> Run:
    """`a` blocks of a weight stream, then `b` of random pages: two ops that overlap."""
    share = _share(memory, page_bytes, None)
    pattern = Pattern("mix", S=share, X=min(share, 1024), a=a, b=b)
    return replace(weights(queue), pattern=pattern)


def _share(memory: DramSpec, size_bytes: float, channels: int | None) -> int:
    """Bytes of a block that fall on one channel: whole atoms, at least one."""
    org = memory.organisation
    if not 0 < size_bytes < 1 << 50:
        raise InputError(f"{size_bytes} bytes", "a page or slice has a positive size")
    atoms = round(size_bytes / (channels or org.channels) / org.atom_bytes)
    return max(1, min(atoms, org.channel_bytes // org.atom_bytes)) * org.atom_bytes


def efficiency(memory: DramSpec, run: Run) -> Derived:
    """Derive the efficiency of a pattern, or return what was derived before.

    Examples
    --------
    >>> from .catalog import load_memory
    >>> round(efficiency(load_memory("hbm3-5200-8hi"), weights()).fraction, 5)
    0.87533
    """
    return _remembered(memory, run)


@lru_cache(maxsize=4096)
def _remembered(memory: DramSpec, run: Run) -> Derived:
    path = _place(memory, run)
    found = _read(path)
    if found is None:
        outcome = simulate(memory, run)
        found = Derived(memory.name, in_words(run), outcome.fraction, outcome.read_latency_s,
                        outcome.row_hits)  # fmt: skip
        _write(path, found)
    return found


def in_words(run: Run) -> str:
    """A run's pattern as answers show it."""
    p = run.pattern
    texts = {
        "seq": "in sequence",
        "rand": f"{p.S:,} B at random",
        "stride": f"{p.X} B each {p.S:,} B",
        "multistream": f"{p.K} streams in turn, {p.G:,} B each",
        "mix": f"in sequence beside {p.S:,} B at random ({p.a}:{p.b})",
    }
    mixed = f", reads to writes {p.reads}:{p.writes}" if p.writes else ""
    return f"{texts[p.kind]}{mixed}; {run.mapping}, {run.read_queue} entries"


def _place(memory: DramSpec, run: Run) -> Path | None:
    """File of a derived number; None where nothing can be kept."""
    folder = cache_dir()
    if folder is None:
        return None
    key = hashlib.sha256(f"{memory.model_dump_json()}{run!r}".encode()).hexdigest()[:32]
    return folder / "dram" / f"{key}.json"


def _read(path: Path | None) -> Derived | None:
    """What a file holds; None where it is absent or damaged."""
    try:
        text = path.read_text(encoding="utf-8") if path else None
        return None if text is None else Derived(**json.loads(text))
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path | None, derived: Derived) -> None:
    """Keep a number; another process may write the same at the same time."""
    if path is None:
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(asdict(derived)), encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
