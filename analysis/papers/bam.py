"""BAM (arXiv 2408.08274): all attention experts for every token, in parallel with the feed-forward experts.

FLOPs and parameters come from model objects, times from the cost models of an H100.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from opbyte.extend import Batch, Deployment, Loads, ModelSpec, Row, Run, Table, deploy, judged, load_model, load_system
from opbyte.extend.models import MixtureOfExperts, is_routed, layer_ops
from opbyte.extend.systems import explicit_stage

from .published import Prediction, paper, published

SYSTEM = "h100-x1"
PROMPT, NEW = 256, 16
"""Tokens of a request with a printed time, and of a sequence with printed FLOPs."""
MATMULS = ("gemm", "experts", "attention_prefill", "attention_decode")
"""Kinds of op that the paper counts."""


def with_top_k(spec: ModelSpec, top_k: int) -> ModelSpec:
    """Return the model with `top_k` experts per token in its feed-forward part."""
    return spec.map_parts(MixtureOfExperts, lambda ffn: replace(ffn, top_k=top_k))


def token_flops(spec: ModelSpec) -> dict[str, float]:
    """Return the FLOP of one token in one layer by part, mean over a sequence of `PROMPT` tokens."""
    m, run = Batch.of([], [(PROMPT, 0)]).moments(spec.windows), Run(spec.numerics)
    ((layer, _),) = spec.groups
    (routed,) = (part.routed for part in layer.parts if is_routed(part))
    loads = Loads.expected(PROMPT, routed.top_k, routed.experts, routed.experts)
    out = {"attention": 0.0, "feed-forward": 0.0, "routers": 0.0}
    for name, ops in zip(("attention", "feed-forward"), layer_ops(layer, m, run, loads), strict=True):
        for op in ops:
            if op.kind in MATMULS:
                out["routers" if op.name == "router" else name] += op.flops / PROMPT
    return out


def counted_twice(spec: ModelSpec) -> int:
    """Return the weights that the paper counts twice: an embedding table that is also the head."""
    return spec.vocab * spec.hidden if spec.tied else 0


@cache
def deployed(model: str) -> Deployment:
    """Deploy a model on one device."""
    return deploy(load_model(model), load_system(SYSTEM))


def request_s(model: str, sequences: int = 1) -> float:
    """Return the time of a prompt and its new tokens, for `sequences` sequences in one batch [s]."""
    d = deployed(model)
    batches = [Batch.of([], [(PROMPT, 0)] * sequences)]
    batches += [Batch.of([PROMPT + i] * sequences) for i in range(NEW - 1)]
    return sum(explicit_stage(d, [batch], expected=True).seconds for batch in batches)


OWN, SHARED, BTX = "bam-small", "bam-small-shared-kv", "btx-small"
SEQUENCES = (1, 8, 64, 256)


def predictions() -> Iterator[Prediction]:
    """Return all rows except the one on the printed times, only from models and devices."""
    for name, spec in (("btx", load_model(BTX)), ("bam", load_model(OWN))):
        flops = token_flops(spec)
        yield Prediction(f"bam.{name}.flops.attention", flops["attention"])
        yield Prediction(f"bam.{name}.flops.total", sum(flops.values()))
    three = with_top_k(load_model(BTX), 3)
    yield Prediction("bam.btx3.flops.total", sum(token_flops(three).values()))
    bam_model, btx = load_model(OWN), load_model(BTX)
    yield Prediction("bam.bam.params.active", (bam_model.active_params + counted_twice(bam_model)) / 1e6)
    for name, spec in (("bam", bam_model), ("btx", btx)):
        yield Prediction(f"bam.{name}.params.total", (spec.total_params + counted_twice(spec)) / 1e6)
    times = {model: request_s(model) for model in (OWN, SHARED, BTX)}
    less = times[SHARED] / times[OWN]
    yield Prediction("bam.shared_kv_faster", float(less < 1), f"{less:.3f} of the time")
    yield Prediction("bam.time_ratio", times[OWN] / times[BTX])


def below_flops(cases: Sequence[Prediction]) -> Row:
    """Check that the printed ratio of times is between 1 and the simulated ratio of FLOPs."""
    value = {prediction.id: prediction.value for prediction in cases}
    ratio = value["bam.bam.flops.total"] / value["bam.btx.flops.total"]
    printed = published("bam")["parts"]
    text = printed["bam_s"] / printed["btx_s"]
    return judged(
        "bam.time_ratio_below_flop_ratio", "printed time ratio between 1 and the FLOP ratio", "1", 1.0,
        float(1.0 < text < ratio), "0", f"{text:.2f} printed; FLOPs {ratio:.2f}",
    )  # fmt: skip


def _models() -> dict[str, ModelSpec]:
    return {
        "BTX top-1": load_model(BTX), "BTX top-3": with_top_k(load_model(BTX), 3),
        "BAM, shared K/V": load_model(SHARED), "BAM": load_model(OWN),
    }  # fmt: skip


def _conflict() -> Table:
    """Return the simulated FLOPs by part next to the printed values, if both exist."""
    printed = published("bam")["parts"]
    rows = []
    for name, spec in _models().items():
        flops = token_flops(spec)
        result = printed["ffn_flops"].get(name)
        rows.append({"model": name, **flops, "total": sum(flops.values()), "feed-forward, printed": result})
    note = "the printed block is 6,144 above 3 k d f, which its own formula gives"
    return Table("flops", f"FLOP of a token and layer at {PROMPT} tokens", rows, note)


def _times() -> Table:
    """Compare times with BTX's by batch size; the ratio of times differs from the ratio of FLOPs."""
    base = sum(token_flops(load_model(BTX)).values())
    rows = []
    for count in SEQUENCES:
        btx = request_s(BTX, count)
        rows.append({
            "sequences": count, "BTX_ms": btx * 1e3, "BAM": request_s(OWN, count) / btx,
            "BAM, shared K/V": request_s(SHARED, count) / btx,
            "FLOPs": sum(token_flops(load_model(OWN)).values()) / base,
        })  # fmt: skip
    title = f"Time of {NEW} tokens after {PROMPT} over BTX's on one H100"
    return Table("times", title, rows)


def _drawn() -> Table:
    """Return the FLOPs by part and model for the plot."""
    rows = [
        {"case": name, **{part: value / 1e6 for part, value in token_flops(spec).items()}}
        for name, spec in _models().items()
    ]
    return Table("steps", "A token and layer at 256 tokens (MFLOP)", rows)


def _rows() -> Iterator[Prediction | Row]:
    cases = list(predictions())
    yield from cases
    yield below_flops(cases)


paper(
    "bam", "Reproduce BAM: FLOPs and parameters of attention experts that all run, and what they cost.", _rows,
    tables=(_conflict, _times), drawn={"steps": _drawn}, runs=3 * NEW * len(SEQUENCES),
)  # fmt: skip
