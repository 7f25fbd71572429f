"""Folders of serving runs made up from a model's shapes, in the form of measured ones.

Kernel tables hold what the device's fitted models say of each op on one GPU, so a replay with the
tables must come near one without them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.scenario.load import load
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.ops import Loads, Op

DEVICE = "rtx-pro-6000"
QK_NORM_S = 2e-6
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
DENSE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 2048,
    "intermediate_size": 6144, "num_hidden_layers": 8, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32_000, "rms_norm_eps": 1e-6,
    "max_position_embeddings": 40_960, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
MOE = DENSE | {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 32,
    "num_experts_per_tok": 4, "moe_intermediate_size": 512, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "norm_topk_prob": True, "num_key_value_heads": 4,
}  # fmt: skip
NAMES = {"qkv": "qkv_proj", "out": "o_proj", "gate_up": "gate_up_proj", "down": "down_proj",
         "logits": "lm_head", "norm": "layernorm", "final_norm": "final_layernorm",
         "rope": "rotary_emb", "activation": "act_fn", "embedding": "embedding"}  # fmt: skip


def write_run(folder: Path, config: Mapping[str, Any], parallel: Mapping[str, Any], requests: int = 40) -> Path:
    """Write a run of `config` under the parallel settings of an ``engine.json``.

    The stamps stand for a server of steady steps; tests replace them by simulated ones.
    """
    (folder / "kernels").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"model": "made/up", "engine": "vllm", "max_num_seqs": 32,
                "max_num_batched_tokens": 2048, "dtype": "bfloat16", **parallel}  # fmt: skip
    (folder / "engine.json").write_text(json.dumps(settings))
    rng = np.random.default_rng(7)
    queued = np.cumsum(rng.exponential(0.02, requests))
    inputs, outputs = rng.integers(50, 900, requests), rng.integers(30, 120, requests)
    first = queued + 0.1
    rows = zip(range(requests), queued, inputs, outputs, first, first + 0.01 * outputs, strict=True)
    _write(
        folder / "requests.csv",
        ["request_id", "queued_s", "input_tokens", "output_tokens", "first_token_s", "last_token_s"],
        rows,
    )
    _tables(folder, parallel)
    return folder


def _tables(folder: Path, parallel: Mapping[str, Any]) -> None:
    """Kernel tables of one GPU's share, from the fitted models of the device."""
    tp, dp = (parallel.get(f"{k}_parallel_size", 1) for k in ("tensor", "data"))
    model, system = load(folder / "config.json", f"{DEVICE}-x{tp * dp}", None, None)
    ep = tp * dp if parallel.get("enable_expert_parallel") else 1
    d = deploy(model, system, tp=tp, dp=dp, ep=ep if model.moe_layers else None)
    mark = ["made-up", DEVICE]
    gemm, vector = {}, {}
    for n in TOKENS:
        for op, seconds in _costs(d, Batch.of([], [(n, 0)])) + _costs(d, Batch.of([9] * n)):
            name, shape = NAMES.get(op.name, ""), op.shape
            if op.kind == "gemm" and name and (name != "lm_head" or n <= 512):
                gemm[name, int(shape["m"])] = [int(shape["n"]), int(shape["k"]), seconds]
            elif op.kind == "elementwise" and name:
                vector[name, n] = [int(shape["cols"]), seconds]
                if name == "rotary_emb":
                    vector["qk_norm", n] = [int(shape["cols"]), QK_NORM_S]
    _write(
        folder / "kernels" / "gemm.csv", ["source", "device", "op", "dtype", "m", "n", "k", "measured_s"],
        ([*mark, op, "bf16", m, *rest] for (op, m), rest in gemm.items()),
    )  # fmt: skip
    _write(
        folder / "kernels" / "elementwise.csv",
        ["source", "device", "op", "dtype", "tokens", "width", "measured_s"],
        ([*mark, op, "bf16", n, *rest] for (op, n), rest in vector.items()),
    )
    _attention(folder / "kernels" / "attention_mixed.csv", d, mark)
    if model.moe_layers:
        _moe(folder / "kernels" / "moe.csv", d, mark)


def _costs(deployment: Deployment, batch: Batch) -> list[tuple[Op, float]]:
    empty = Batch.of()
    stage = explicit_stage(deployment, [batch, *[empty] * (deployment.ranks - 1)], expected=True)
    return [(p.op, p.cost.seconds) for p in stage.ops if p.critical]


def _attention(path: Path, deployment: Deployment, mark: Sequence[str]) -> None:
    rows = []
    contexts = (16, 256, 1024, 4096)
    cases = [(q, c, n, k) for q in (0, 16, 256, 2048) for c in (0, *contexts)
             for n in (0, 1, 4, 16, 64) for k in (0, *contexts)
             if (q > 0 or c == 0) and (n > 0) == (k > 0) and q + n > 0]  # fmt: skip
    for q, c, n, k in cases:
        costs = _costs(deployment, Batch.of([k] * n, [(q, c)] if q else []))
        ops = [(op, s) for op, s in costs if op.kind.startswith("attention_")]
        s = ops[0][0].shape
        heads = [int(s[name]) for name in ("heads_q", "heads_kv", "head_dim")]
        rows.append([*mark, "bf16", *heads, q, c, n, k, sum(s for _, s in ops)])
    _write(
        path,
        ["source", "device", "dtype", "q_heads", "kv_heads", "head_dim", "prefill_tokens",
         "prefill_context", "decode_seqs", "decode_context", "measured_s"],
        rows,
    )  # fmt: skip


def _moe(path: Path, deployment: Deployment, mark: Sequence[str]) -> None:
    """Experts of one GPU by its tokens and active experts; the model's experts are named."""
    spec, rows = deployment.experts[0].spec, []
    cost = next(iter(deployment.device.processors.values())).model.cost
    for n in TOKENS:
        for active in (1, 4, spec.held):
            if n * spec.top_k >= active:
                each = n * spec.top_k / active
                op = spec.expert_op(Loads(np.array([each]), np.array([float(active)])), deployment.run)
                rows.append([*mark, "bf16", n, spec.hidden, spec.width, spec.experts, spec.top_k,
                             active, cost(op).seconds])  # fmt: skip
    _write(
        path,
        ["source", "device", "dtype", "tokens", "hidden", "intermediate", "num_experts", "top_k",
         "active_experts", "measured_s"],
        rows,
    )  # fmt: skip


def _write(path: Path, head: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
