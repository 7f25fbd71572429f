"""DeepSeekMoE (arXiv 2401.06066): FLOPs and parameters of shared and fine-grained experts.

The FLOPs printed are of training: three times the forward pass, every token with a logit, attention's scores
not halved for causality. They are counted here op by op from the models, nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Iterator

from opbyte.extend import Run, Table, load_model
from opbyte.extend.models import is_routed
from opbyte.extend.training import step_flops, whole_sequences

from .published import Prediction, paper

TOKENS = 4096
MODELS = {
    "16b": "deepseek-moe-16b", "7b": "deepseek-llm-7b", "llama2_7b": "llama-2-7b", "145b": "deepseek-moe-145b",
}  # fmt: skip


def predictions() -> Iterator[Prediction]:
    """Return all rows, only from the models."""
    for name, model in MODELS.items():
        yield Prediction(f"deepseekmoe.{name}.tflop_4k", training_flops(model) / 1e12)
    for name in ("16b", "145b"):
        spec = load_model(MODELS[name])
        for kind, count in (("total", spec.total_params), ("active", spec.active_params)):
            yield Prediction(f"deepseekmoe.{name}.params.{kind}", count / 1e9)


def training_flops(model: str) -> float:
    """Return the matmul FLOPs of a training step on one sequence of `TOKENS` tokens."""
    spec = load_model(model)
    m = whole_sequences(1, TOKENS, spec.windows)
    return step_flops(spec, m, Run(spec.numerics, "unfused"), "none").model


def _parts() -> Table:
    """Return training FLOPs by model: of the weights that a token uses, and with attention's scores."""
    rows = []
    for model in MODELS.values():
        spec = load_model(model)
        flops = training_flops(model)
        weights = spec.active_params - spec.vocab * spec.hidden
        rows.append({"model": model, "layers": len(spec.layers),
                     "moe_layers": sum(is_routed(layer.ffn) for layer in spec.layers),
                     "active_1e9": spec.active_params / 1e9, "total_1e9": spec.total_params / 1e9,
                     "TFLOP_weights": 6 * weights * TOKENS / 1e12,
                     "TFLOP_all": flops / 1e12})  # fmt: skip
    note = "6 N T for N weights of a token's path without the input embedding; the rest are scores"
    return Table("parts", "Training FLOPs of 4,096 tokens by model", rows, note)


def _drawn() -> Table:
    """Return the FLOPs of weights and scores for the plot."""
    rows = [
        {"case": row["model"], "weights": row["TFLOP_weights"],
         "scores and norms": row["TFLOP_all"] - row["TFLOP_weights"]}
        for row in _parts().rows
    ]  # fmt: skip
    return Table("steps", "Training FLOPs of 4,096 tokens (1e12)", rows)


paper(
    "deepseekmoe", "DeepSeekMoE: training FLOPs and parameters of models with shared and narrow experts.", predictions,
    tables=(_parts,), drawn={"steps": _drawn}, runs=len(MODELS),
)  # fmt: skip
