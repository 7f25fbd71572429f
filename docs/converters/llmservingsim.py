r"""Turn a run of LLMServingSim's repository into the folder ``opbyte validate runs`` reads.

    python llmservingsim.py --run CLONE/bench/examples/RTX4090/Llama-3.1-8B/vllm \
        --perf CLONE/profiler/perf/RTX4090/meta-llama/Llama-3.1-8B/bf16/tp1 \
        --config config.json --device rtx-4090 --out rtx4090--llama-3.1-8b

CLONE is a checkout of github.com/casys-kaist/LLMServingSim; the config is the model's own, from
Hugging Face. Times become seconds from the first request, names become explicit shapes (what one
GPU ran, tensor parallelism applied), nothing else changes. Needs no package but Python.
"""

import argparse
import csv
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SETTINGS = [
    "tensor_parallel_size",
    "data_parallel_size",
    "enable_expert_parallel",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "dtype",
    "kv_cache_dtype",
]


def requests(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Stamps of each request; arrivals and engine stamps have a clock each."""
    rows = [json.loads(line) for line in lines if line.strip()]
    sent = min(row["arrival_time"] for row in rows)
    queued = min(row["queued_ts"] for row in rows)
    return [
        {
            "request_id": row["request_id"],
            "arrival_s": f"{row['arrival_time'] - sent:.6f}",
            "input_tokens": row["input_toks"],
            "output_tokens": row["output_toks"],
            **{
                f"{name}_s": f"{row[f'{name}_ts'] - queued:.6f}"
                for name in ("queued", "scheduled", "first_token", "last_token")
            },
        }
        for row in rows
    ]


def engine(meta: dict[str, Any]) -> dict[str, Any]:
    """Engine settings: those that decide batching, and what the engine reports of itself."""
    settings = meta["engine_kwargs"]
    return {
        "model": meta["model"],
        "engine": "vllm",
        "engine_version": meta["vllm_version"],
        **{key: settings[key] for key in SETTINGS},
        **{key: meta[key] for key in ("kv_cache", "hardware") if key in meta},
    }


class Shapes:
    """Shapes of one GPU's share of a layer, from the model's ``config.json``."""

    def __init__(self, config: dict[str, Any], tp: int) -> None:
        self.hidden = config["hidden_size"]
        self.heads = config["num_attention_heads"] // tp
        self.kv_heads = max(1, config.get("num_key_value_heads", self.heads * tp) // tp)
        self.head_dim = config.get("head_dim") or self.hidden // config["num_attention_heads"]
        self.inter = config["intermediate_size"] // tp
        self.expert_inter = config.get("moe_intermediate_size", config["intermediate_size"]) // tp
        self.experts = config.get("num_experts", config.get("num_local_experts", 0))
        self.top_k = config.get("num_experts_per_tok", 0)
        self.vocab = config["vocab_size"]
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.gemm = {  # n, k
            "qkv_proj": (q + 2 * kv, self.hidden),
            "o_proj": (self.hidden, q),
            "gate_up_proj": (2 * self.inter, self.hidden),
            "down_proj": (self.hidden, self.inter),
            "lm_head": (self.vocab // tp, self.hidden),
        }
        self.width = {
            "act_fn": self.inter,
            "embedding": self.hidden,
            "layernorm": self.hidden,
            "final_layernorm": self.hidden,
            "rotary_emb": q + kv,
            "qk_norm": q + kv,
            "sampler": self.vocab,
        }


def kernels(perf: Path, shapes: Shapes, device: str) -> dict[str, list[list[Any]]]:
    """Kernel tables by file name, header first."""
    mark = ["llmservingsim", device]
    gemm = [["source", "device", "op", "dtype", "m", "n", "k", "measured_s"]]
    vector = [["source", "device", "op", "dtype", "tokens", "width", "measured_s"]]
    for name, count in (("dense.csv", "tokens"), ("per_sequence.csv", "sequences")):
        for row in _rows(perf / name):
            op = row["layer"]
            if op in shapes.gemm:
                n, k = shapes.gemm[op]
                gemm.append([*mark, op, "bf16", row[count], n, k, _seconds(row)])
            elif op in shapes.width:
                vector.append([*mark, op, "bf16", row[count], shapes.width[op], _seconds(row)])
            else:
                raise SystemExit(f"{perf / name}: layer {op!r} has no known shape")
    heads = [shapes.heads, shapes.kv_heads, shapes.head_dim]
    columns = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode"]
    attention = [
        ["source", "device", "dtype", "q_heads", "kv_heads", "head_dim", "prefill_tokens",
         "prefill_context", "decode_seqs", "decode_context", "measured_s"]
    ]  # fmt: skip
    for row in _rows(perf / "attention.csv"):
        attention.append([*mark, "bf16", *heads, *(row[c] for c in columns), _seconds(row)])
    tables = {"gemm.csv": gemm, "elementwise.csv": vector, "attention_mixed.csv": attention}
    if (perf / "moe.csv").exists():
        layer = [shapes.hidden, shapes.expert_inter, shapes.experts, shapes.top_k]
        tables["moe.csv"] = [
            ["source", "device", "dtype", "tokens", "hidden", "intermediate", "num_experts",
             "top_k", "active_experts", "measured_s"]
        ] + [
            [*mark, "bf16", row["tokens"], *layer, row["activated_experts"], _seconds(row)]
            for row in _rows(perf / "moe.csv")
        ]  # fmt: skip
    return tables


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _seconds(row: dict[str, str]) -> str:
    return f"{float(row['time_us']) * 1e-6:.6g}"


def _write(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("run", "perf", "config", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", required=True, help="the tables' device column")
    args = parser.parse_args(argv)
    settings = engine(json.loads((args.run / "meta.json").read_text()))
    shapes = Shapes(json.loads(args.config.read_text()), settings["tensor_parallel_size"])
    (args.out / "kernels").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(args.config, args.out / "config.json")
    (args.out / "engine.json").write_text(json.dumps(settings, indent=2) + "\n")
    table = requests((args.run / "requests.jsonl").read_text().splitlines())
    _write(args.out / "requests.csv", [list(table[0]), *(list(row.values()) for row in table)])
    for name, rows in kernels(args.perf, shapes, args.device).items():
        _write(args.out / "kernels" / name, rows)


if __name__ == "__main__":
    main()
