"""What figures 4, 5, 8 and 11 to 16 draw: tidy tables of simulated points."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from opbyte.extend import Table

from ..points import Point
from ..published import published
from .cases import (
    BANK,
    BATCHES,
    ET,
    GLAM,
    GPU,
    HETERO,
    LABELS,
    LENGTHS,
    LLAMA3,
    MIXTRAL,
    MOE,
    OPT,
    PE,
    PLAIN,
    SIZES,
    SPLIT,
    TWO,
    Means,
    closed,
    grid,
    mean,
    poisson,
)
from .rows import HETERO_LENGTHS, LOADED, SPEED
from .static import EDAP_DEVICES, EDAP_OPS, edap_rows

PLOTTED = range(4, 17)
"""Loads of Fig. 13 [1/s]."""
CONTEXT = 2048
"""Lin of Fig. 4; a decode has half of its output behind it."""
SHORT = ((256, 256), (2048, 256), (256, 2048), (2048, 2048))
"""(Lin, Lout) of the latencies of Fig. 5b, batch 32."""
TIMES = {"tbt_p50": "TBT p50", "tbt_p90": "TBT p90", "tbt_p99": "TBT p99", "t2ft_p50": "T2FT p50", "e2e_p50": "E2E p50"}


def points(seeds: Sequence[int], routing: str) -> list[Point]:
    """Points that only figures show; loads and whole caches with the first seed alone."""
    first = seeds[0]
    wanted = [(m, TWO, b, n) for m, b, n in grid(MOE)]
    wanted += [(m, GPU, b, n) for m, b, n in grid((LLAMA3, OPT))]
    out = [closed(m, d, b, n, s, routing) for m, d, b, n in wanted for s in seeds]
    out += [closed(MIXTRAL, d, 32, i, s, routing, o) for d in (GPU, HETERO) for i, o in SHORT for s in seeds]
    out += [closed(MIXTRAL, d, 128, i, first, routing, o) for d in (GPU, HETERO) for i, o in HETERO_LENGTHS]
    return out + [poisson(d, q, first, routing) for d in LOADED.values() for q in PLOTTED]


def tables(get: Means) -> tuple[Table, ...]:
    """All figures' tables."""
    return (
        Table("fig04a_time", "Share of time by layer, GPU, Lin 2048", list(_time())),
        Table("fig04b_roofline", "Layers under the GPU's roofline, decoding-only", list(_roofs())),
        Table("fig05a_stages", "Share of stages that hold a prompt, GPU", list(_stages(get))),
        Table("fig05b_hetero", "hetero against GPU, Mixtral, batch 32", list(_hetero(get))),
        Table("fig05c_hetero", "hetero against GPU, Mixtral, batch 128", list(_capacity(get))),
        Table("fig08_edap", "EDAP of a GEMM with a 16384 x 4096 weight", list(_edap())),
        Table("fig11_throughput", "Throughput over GPU", list(_throughput(get))),
        Table("fig12_latency", "Latency over GPU, GLaM, batch 64", list(_latency(get))),
        Table("fig13_load", "Latency over load, Mixtral (4096, 512)", list(_load(get))),
        Table("fig14_bankpim", "Bank-PIM and Duplex, throughput over GPU", list(_bank(get))),
        Table("fig15_energy", "Energy per token, GPU and Duplex+PE+ET", list(_energy(get))),
        Table("fig16_split", "Duplex and Duplex-Split, Mixtral, batch 128", list(_split(get))),
    )


Rows = Iterator[dict[str, Any]]


def _printed(row: str) -> float:
    """The paper's value of a row; NaN if it prints none."""
    return float(published("duplex")["rows"].get(row, math.nan))


def _group(kind: str, layer: str) -> str:
    if layer == "communication":
        return "communication"
    return {"attention_prefill": "prefill attention", "attention_decode": "decode attention",
            "experts": "MoE"}.get(kind, "FC and other")  # fmt: skip


def _time() -> Rows:
    """Fig. 4a from one step with expected expert loads; the critical path counts."""
    from opbyte.extend.answers import roofline

    for model, length in ((MIXTRAL, 1024), (GLAM, 1024)):
        for batch in BATCHES:
            for stage, prompt in (("decoding-only", 0), ("mixed", CONTEXT)):
                step = roofline(
                    model, f"{GPU}-{SIZES[model]}", batch=batch - bool(prompt),
                    context=CONTEXT + length // 2, prefill=prompt,
                )  # fmt: skip
                shares: dict[str, float] = {}
                for op in step.ops:
                    group = _group(op.kind, op.layer)
                    shares[group] = shares.get(group, 0.0) + op.seconds * op.count
                for group, seconds in shares.items():
                    yield {"model": model, "batch": batch, "stage": stage, "group": group,
                           "share": seconds / step.step_seconds}  # fmt: skip


def _roofs() -> Rows:
    from opbyte.extend.answers import roofline

    for model in (MIXTRAL, GLAM):
        for batch in BATCHES:
            step = roofline(model, f"{GPU}-{SIZES[model]}", batch=batch, context=CONTEXT)
            peak = step.deployment.device.processors["xpu"].peak["fp16"]
            for name in ("qkv", "attention_decode", "experts"):
                op = next(o for o in step.ops if o.name == name)
                yield {"model": model, "batch": batch, "op": name, "op_per_byte": op.op_per_byte,
                       "utilisation": op.flops / op.seconds / peak, "printed": _printed("T25")}  # fmt: skip


def _stages(get: Means) -> Rows:
    for _, batch, length in grid([MIXTRAL]):
        yield {"batch": batch, "length": length,
               "mixed": get(MIXTRAL, GPU, batch, length, "mixed_share"),
               "formula": 1 - (1 - 1 / length) ** batch}  # fmt: skip


def _hetero(get: Means) -> Rows:
    for input_len, output_len in SHORT:
        for name, label in TIMES.items():
            gpu, hetero = (
                get.of([closed(MIXTRAL, d, 32, input_len, s, get.routing, output_len) for s in get.seeds], name)
                for d in (GPU, HETERO)
            )
            yield {"lengths": f"({input_len}, {output_len})", "metric": label, "ratio": hetero / gpu}


def _capacity(get: Means) -> Rows:
    for input_len, output_len in HETERO_LENGTHS:
        gpu, hetero = (
            get.runner[closed(MIXTRAL, d, 128, input_len, get.seeds[0], get.routing, output_len)] for d in (GPU, HETERO)
        )
        yield {"lengths": f"({input_len}, {output_len})", "gpu_batch": gpu.decodes,
               "hetero_batch": hetero.decodes,
               "ratio": hetero.output_tokens_per_s / gpu.output_tokens_per_s,
               "printed": _printed(f"T21.l{input_len}")}  # fmt: skip


def _edap() -> Rows:
    for row, (ops, label) in zip(edap_rows(), product(EDAP_OPS, EDAP_DEVICES), strict=True):
        yield {"op_per_byte": ops, "device": label, "over_worst": row.value, "printed": _printed(row.id)}


def _over_gpu(get: Means, models: Sequence[str], devices: Sequence[str]) -> Rows:
    for model, batch, length in grid(models):
        for device in devices:
            ratio = get(model, device, batch, length, SPEED) / get(model, GPU, batch, length, SPEED)
            printed = _printed("T3" if TWO in devices else "")
            yield {"model": model, "batch": batch, "length": length, "device": LABELS[device], "ratio": ratio,
                   "printed": printed}  # fmt: skip


def _throughput(get: Means) -> Rows:
    return _over_gpu(get, MOE, (PLAIN, PE, ET, TWO))


def _bank(get: Means) -> Rows:
    return _over_gpu(get, (MIXTRAL, LLAMA3, OPT), (BANK, ET))


def _latency(get: Means) -> Rows:
    for length in LENGTHS[GLAM]:
        for name, label in TIMES.items():
            base = get(GLAM, GPU, 64, length, name)
            tail = get(GLAM, TWO, 64, length, name) / base
            printed = {
                (PLAIN, "tbt_p50"): 1 + _printed("T9"), (ET, "e2e_p50"): 1 + _printed("T10"),
                (ET, "tbt_p99"): (1 + _printed(f"glam.lin{length}.p99_tbt_vs_2xgpu")) * tail,
            }  # fmt: skip
            for device in (PLAIN, PE, ET, TWO):
                yield {"length": length, "metric": label, "device": LABELS[device],
                       "ratio": get(GLAM, device, 64, length, name) / base,
                       "printed": printed.get((device, name), math.nan)}  # fmt: skip


def _load(get: Means) -> Rows:
    for label, device in LOADED.items():
        for qps in PLOTTED:
            got = get.runner[poisson(device, qps, get.seeds[0], get.routing)]
            yield {"device": LABELS[device], "qps": qps, "completion_rate": got.completion_rate,
                   "tbt_p50_s": got.tbt_p50, "tbt_p90_s": got.tbt_p90, "printed": _printed(f"qps.{label}_max"),
                   "t2ft_p50_s": got.t2ft_p50}  # fmt: skip


def _energy(get: Means) -> Rows:
    for model, batch, length in grid(MOE):
        base = get(model, GPU, batch, length, "joules_per_token")
        for device in (GPU, ET):
            runs = get.all(model, device, batch, length)
            for group, path in runs[0].joules:
                joules = mean([r.joules[group, path] for r in runs])
                yield {"model": model, "batch": batch, "length": length,
                       "device": LABELS[device], "group": group, "path": path,
                       "joules_per_token": joules, "over_gpu": joules / base,
                       "printed": 1 - _printed(f"T19.{model.split('-')[0]}")}  # fmt: skip


def _split(get: Means) -> Rows:
    for length in LENGTHS[MIXTRAL]:
        for name, label in {SPEED: "throughput", **TIMES}.items():
            both, apart = (get(MIXTRAL, d, 128, length, name) for d in (ET, SPLIT))
            printed = _printed("split.duplex_p99_tbt_over_split" if (length, name) == (4096, "tbt_p99") else "")
            yield {"length": length, "metric": label, "split_over_duplex": apart / both, "printed": 1 / printed}
