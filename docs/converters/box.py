r"""Thin the tables of the data set ``measured`` to those that come with the package, ``kernels/measured``.

    python box.py MEASURED --out kernels/measured

MEASURED is the folder of docs/data.md. Of each device and family below, the `ROWS` rows are taken whose
text, after the seed and a colon, has the smallest SHA-256: a random choice that comes out the same
everywhere and does not look at times. They keep their order. Needs no package but Python.
"""

import argparse
import csv
import hashlib
from collections import defaultdict
from pathlib import Path

SEED = 1
ROWS = 120
DEVICES = ("A100-SXM-80GB", "H100-SXM-80GB", "H200-SXM-141GB", "B200-SXM-180GB", "MI300X-192GB")
FAMILIES = ("gemm", "attention_prefill", "attention_decode", "mla", "moe", "allreduce", "collectives")
SOURCES = {
    "aiconfigurator": "ai-dynamo/aiconfigurator, commit 095f58a51 (2026-08-21), Apache-2.0: kernels called "
    "through TensorRT-LLM, vLLM or SGLang, replayed in a CUDA graph, and nccl-tests",
    "aiter": "ROCm/aiter, commit e4048607 (2026-08-22), MIT: the best tuned kernel of each shape, profiler "
    "time, cold cache",
}
"""Repository before the slash of column `source` -> where it is from, its licence, what was timed."""
MIXED = {"B200-SXM-180GB", "fused_moe", "nvfp4"}
"""Rows of TensorRT-LLM that are means of two kernels (README of the newer tables): no row of the package."""


def thinned(lines: list[str]) -> list[str]:
    """Header and chosen rows of a table."""
    header, rows = lines[0], lines[1:]
    groups: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(csv.reader(rows)):
        known = row[0].partition("/")[0] in SOURCES and row[1] in DEVICES
        if known and not (set(row) >= MIXED and row[0].startswith("aiconfigurator/trtllm")):
            groups[row[1]].append(i)
    kept: list[int] = []
    for found in groups.values():
        kept += sorted(found, key=lambda i: hashlib.sha256(f"{SEED}:{rows[i]}".encode()).digest())[:ROWS]
    return [header, *(rows[i] for i in sorted(kept))]


def head(family: str, rows: list[str]) -> list[str]:
    """What a file says of itself."""
    there = [name for name in SOURCES if any(row.startswith(name) for row in rows)]
    return [
        f"# Measured times of real GPU kernels, seconds of one call: at most {ROWS} rows of each device,",
        f"# drawn with seed {SEED} by docs/converters/box.py from the table {family}.csv of docs/data.md.",
        "# OpByte's kernel models are fitted to tables that hold these rows.",
        *(f"# {name}: {SOURCES[name]}." for name in there),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("measured", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        lines = (given.measured / f"{family}.csv").read_text(encoding="utf-8").splitlines()
        chosen = thinned(lines)
        text = "\n".join([*head(family, chosen[1:]), *chosen]) + "\n"
        (given.out / f"{family}.csv").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
