r"""Turn a linear-layer profile of Vidur's repository into tables ``opbyte validate kernels`` reads.

    python vidur.py CLONE/data/profiling/compute/a100/meta-llama/Llama-2-7b-hf/mlp.csv \
        --source vidur/Llama-2-7b --device A100-SXM-80GB --out tables

CLONE is a checkout of github.com/microsoft/vidur at 7d47513. Writes ``gemm.csv`` and ``norm.csv``.
The mean over repeats becomes seconds, tensor parallelism is applied to the shapes, and repeated
shapes are merged by their median. Needs no package but Python.
"""

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median

GEMM = ["source", "device", "kernel", "dtype", "m", "n", "k", "batch", "timing", "measured_s"]
NORM = ["source", "device", "kernel", "dtype", "rows", "cols", "timing", "measured_s"]

Shape = tuple[int, ...]
Rows = list[tuple[str, Shape, float]]


def shapes(row: Mapping[str, str]) -> dict[str, tuple[str, Shape]]:
    """Column stem -> kernel and shape, of one line of the profile."""
    tokens, tp = int(row["num_tokens"]), int(row["num_tensor_parallel_workers"])
    hidden, inter = int(row["n_embd"]), int(row["n_expanded_embd"]) // tp
    head_dim = hidden // int(row["n_head"])
    q = int(row["n_head"]) // tp * head_dim
    kv = max(1, int(row["n_kv_head"]) // tp) * head_dim
    gated = row["use_gated_mlp"] == "True"
    return {
        "attn_pre_proj": ("gemm", (tokens, q + 2 * kv, hidden, 1)),
        "attn_post_proj": ("gemm", (tokens, hidden, q, 1)),
        "mlp_up_proj": ("gemm", (tokens, (1 + gated) * inter, hidden, 1)),
        "mlp_down_proj": ("gemm", (tokens, hidden, inter, 1)),
        "input_layernorm": ("rmsnorm", (tokens, hidden)),
        "post_attention_layernorm": ("rmsnorm", (tokens, hidden)),
        "mlp_act": ("silu_mul" if gated else "gelu", (tokens, inter)),
        "attn_rope": ("rope", (tokens, q + kv)),
        "add": ("add", (tokens, hidden)),
    }


def convert(lines: Iterable[str]) -> Rows:
    """Kernel, shape and seconds; the profile's unit is the millisecond."""
    found: dict[tuple[str, Shape], list[float]] = defaultdict(list)
    for row in csv.DictReader(lines):
        for stem, key in shapes(row).items():
            value = row.get(f"time_stats.{stem}.mean", "")
            if value:
                found[key].append(float(value) * 1e-3)
    return [(kernel, shape, median(times)) for (kernel, shape), times in sorted(found.items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("profile", type=Path)
    parser.add_argument("--source", required=True, help="the tables' source column")
    parser.add_argument("--device", required=True, help="the tables' device column")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with args.profile.open(newline="") as file:
        rows = convert(file)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, header, is_gemm in (("gemm.csv", GEMM, True), ("norm.csv", NORM, False)):
        with (args.out / name).open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for kernel, shape, seconds in rows:
                if (kernel == "gemm") == is_gemm:
                    fixed = [args.source, args.device, kernel, "fp16", *shape, "kernel"]
                    writer.writerow([*fixed, f"{seconds:.6g}"])


if __name__ == "__main__":
    main()
