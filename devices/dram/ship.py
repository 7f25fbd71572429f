"""Script that writes ``derived.csv``: results of the access patterns of catalog devices for all models.

``python -m opbyte.devices.dram.ship``, after any change of the command model or a standard.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict, replace

from ..catalog import list_devices, load_device
from .access import LONG, LONGEST, STREAMS, UPDATED
from .efficiency import TABLE, derive, key_of, weights
from .pattern import Pattern, PatternRun
from .spec import DramSpec, load_memory

PIECE = 256
"""Step of the sizes of short pieces on catalog devices [B]."""


def patterns() -> Iterator[Pattern]:
    """Yield the patterns of weights, random pieces, slices in turn and states in place, for the usual sizes."""
    long = [LONG << k for k in range((LONGEST // LONG).bit_length())]
    yield Pattern()
    yield from (Pattern("rand", S=size) for size in range(PIECE, LONG, PIECE))
    yield from (Pattern("rand", S=size) for size in long)
    many = [2 << k for k in range(STREAMS.bit_length() - 1)]
    yield from (Pattern("multistream", K=k, G=size) for k in many for size in long)
    yield Pattern("seq", X=UPDATED, reads=1, writes=1, in_place=True)


def runs() -> dict[str, tuple[DramSpec, PatternRun]]:
    """Return the runs whose results the library contains, by key."""
    out = {}
    for name in list_devices():
        layout = load_device(name)[0].memory.dram
        if layout is not None:
            memory = load_memory(layout.standard)
            for pattern in patterns():
                run = replace(weights(), pattern=pattern, mapping=layout.mapping)
                out[key_of(memory, run)] = memory, run
    return out


def write() -> None:
    """Derive all results again and write the file."""
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        rows = [{"key": key, **asdict(derive(*pair))} for key, pair in runs().items()]
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: (row["memory"], row["pattern"])))


if __name__ == "__main__":
    write()
