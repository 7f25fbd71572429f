"""Duplex (MICRO 2024, arXiv 2409.01141): its tables out of the serving engine.

Definitions: unfused attention, policy ``mixed``, lengths Gaussian around the stated means. Closed
loop: a request arrives when its predecessor ends; the first 2 x batch completions are left out
and twice as many are measured. Devices per model as in section VI. ``GPU`` is the xPU alone,
``plain`` Duplex one processor at a time, ``+PE`` co-processing, ``+PE+ET`` also splits experts
over devices (the paper's final design). Two assumptions stand in the device files and hold for
all rows alike: 3.0 us links and 0.85 DRAM efficiency.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from .base import EXPERIMENTS, Reproduction, Row, judged
from .points import Measured, Point, Told, run_points

MIXTRAL, GLAM, GROK = "mixtral-8x7b", "glam-143b", "grok-1"
LLAMA3, OPT = "llama-3-70b", "opt-66b"

SIZES = {MIXTRAL: "x4", GLAM: "x8", GROK: "2x8", LLAMA3: "x4", OPT: "x4"}
TWICE = {MIXTRAL: "x8", GLAM: "2x8", GROK: "4x8"}
LENGTHS = {
    MIXTRAL: (256, 1024, 4096),
    GLAM: (512, 1024, 2048),
    GROK: (256, 1024, 4096),
    LLAMA3: (256, 1024, 4096),
    OPT: (256, 512, 1024),
}
"""Mean prompt and output lengths of Figs. 11, 12 and 14 (both equal)."""

BATCHES = (32, 64, 128)
QPS_RANGE = range(4, 17)
QPS_REQUESTS, QPS_WARMUP = 4500, 500
GPU, PLAIN, PE, ET, TWO, BANK = (
    "duplex-gpu", "duplex-plain", "duplex-pe", "duplex", "duplex-2xgpu", "duplex-bankpim",
)  # fmt: skip

Get = Callable[[str, str, int, int, str], float]


def system(device: str, model: str) -> str:
    """The system of a device for a model: section VI's device counts, doubled for 2xGPU."""
    return f"{device}-{TWICE[model] if device == TWO else SIZES[model]}"


def closed(model: str, device: str, batch: int, length: int, seed: int, routing: str) -> Point:
    """A closed-loop point with equal mean prompt and output lengths."""
    return Point(
        model, system(device, model), batch, length, length, seed, routing,
        requests=4 * batch, warmup=2 * batch,
    )  # fmt: skip


def poisson(device: str, qps: int, seed: int, routing: str) -> Point:
    """A point of Fig. 13: Mixtral, (4096, 512), at most 128 requests at once."""
    return Point(
        MIXTRAL, system(device, MIXTRAL), 128, 4096, 512, seed, routing, rate=float(qps),
        requests=QPS_REQUESTS, warmup=QPS_WARMUP,
    )  # fmt: skip


def grid(models: Iterable[str]) -> list[tuple[str, int, int]]:
    """(model, batch, length) of Fig. 11 and Fig. 14."""
    return [(m, b, n) for m in models for b in BATCHES for n in LENGTHS[m]]


@EXPERIMENTS.register("duplex")
def duplex(seeds: Sequence[int], routing: str, told: Told | None) -> Reproduction:
    """Reproduce the paper's printed numbers and predict those withheld."""
    began = time.perf_counter()
    wanted = [(m, d, b, n) for m, b, n in grid((MIXTRAL, GLAM, GROK))
              for d in (GPU, PLAIN, PE, ET)]  # fmt: skip
    wanted += [(GLAM, TWO, 64, n) for n in LENGTHS[GLAM]]
    wanted += [(MIXTRAL, BANK, b, n) for _, b, n in grid([MIXTRAL])]
    wanted += [(m, d, b, n) for m, b, n in grid((LLAMA3, OPT)) for d in (BANK, ET)]
    points = [closed(m, d, b, n, s, routing) for m, d, b, n in wanted for s in seeds]
    points += [poisson(d, q, s, routing) for d in (GPU, ET, TWO) for q in QPS_RANGE for s in seeds]
    results = run_points(points, told)

    def mean(model: str, device: str, batch: int, length: int, name: str) -> float:
        values = [
            getattr(results[closed(model, device, batch, length, s, routing)], name) for s in seeds
        ]
        return float(sum(values) / len(values))

    rows = [
        *_constants(),
        *_throughput(mean),
        *_latency(mean),
        *_energy(mean),
        _utilisation(),
        *_qps(results, seeds, routing),
        *_bank_pim(mean),
        *_edap(),
    ]
    return Reproduction("duplex", tuple(rows), len(results), time.perf_counter() - began)


def _constants() -> list[Row]:
    """Figures that follow from the device description alone."""
    from ...devices.catalog import load_device
    from ...devices.device import build_device

    spec, _ = load_device(ET)
    peak = build_device(spec).processors["logic-pim"].peak["fp16"] / spec.memory.stacks
    area = sum((spec.processors["logic-pim"].area_mm2 or {}).values())
    die = spec.memory.logic_die_mm2 or 0.0
    return [
        judged("T1", "Logic-PIM peak per stack, 32 x 512 MACs at 650 MHz", "TFLOPS", 21.3,
               peak / 1e12, "0.5 %", "section VI"),
        judged("T2.mm2", "area added per stack", "mm2", 17.80, area, "0.1 %", "VII-E"),
        judged("T2.share", "area added, share of the logic die", "1", 0.1471, area / die, "0.1 %",
               "VII-E"),
    ]  # fmt: skip


EDAP_DEVICES = {"bank": BANK, "bankgroup": "duplex-bankgroup", "logic": PLAIN}


def edap(device: str, op_per_byte: int) -> float:
    """Energy x delay x area of one GEMM with a 16384 x 4096 weight (Fig. 8) [J s mm2].

    The Op/B of such a GEMM is its number of input rows; one device's five stacks run it.
    """
    from ...devices.catalog import load_device
    from ...devices.device import build_device
    from ...workloads.layers import Run
    from ...workloads.layers.base import gemm
    from ...workloads.numerics import Numerics

    spec, _ = load_device(device)
    name = next(n for n, p in spec.processors.items() if p.kind != "xpu")
    op = gemm("fc", "ffn", "ffn", op_per_byte, 16384, 4096, Run(Numerics("fp16")))
    cost = build_device(spec).processors[name].model.cost(op)
    return cost.total_joules * cost.seconds * sum((spec.processors[name].area_mm2 or {}).values())


def _edap() -> list[Row]:
    """Fig. 8: each Op/B normalised to the worst of the three."""
    rows = []
    for ops in (1, 2, 4, 8, 16, 32):
        values = {label: edap(device, ops) for label, device in EDAP_DEVICES.items()}
        worst = max(values.values())
        rows += [
            judged(f"edap.{label}.opb{ops}", f"EDAP at {ops} Op/B, {label}, over the worst", "1",
                   None, value / worst)
            for label, value in values.items()
        ]  # fmt: skip
    return rows


def _throughput(get: Get) -> list[Row]:
    """Fig. 11: output tokens per second over three models, batches and lengths."""
    speed = "output_tokens_per_s"

    def ratios(model: str, a: str, b: str) -> list[float]:
        return [get(m, a, x, n, speed) / get(m, b, x, n, speed) for m, x, n in grid([model])]

    over_gpu = {m: ratios(m, ET, GPU) for m in (MIXTRAL, GLAM, GROK)}
    every = [r for values in over_gpu.values() for r in values]
    plain = [r for m in over_gpu for r in ratios(m, PLAIN, GPU)]
    pe = [r for m in over_gpu for r in ratios(m, PE, PLAIN)]
    et = [r for m in over_gpu for r in ratios(m, ET, PLAIN)]
    least = min(over_gpu, key=lambda m: _mean(over_gpu[m]))
    return [
        judged("T3", "throughput, +PE+ET over GPU, largest", "1", 2.67, max(every), "5 %", "VII-A"),
        judged("T4", "throughput, +PE+ET over GPU, mean", "1", 2.07, _mean(every), "8 %", "X"),
        judged("T5", "throughput, plain over GPU, largest", "1", 2.51, max(plain), "5 %", "VII-A"),
        judged("T6", "throughput, +PE over plain, mean", "1", 1.04, _mean(pe), "0.04", "VII-A"),
        judged("T7", "throughput, +PE+ET over plain, largest", "1", 1.36, max(et), "8 %", "VII-A"),
        judged("T8", "Grok1 gains least (1 = holds)", "1", 1.0, float(least == GROK), "0", "VII-A"),
    ]


def _latency(get: Get) -> list[Row]:
    """Fig. 12: GLaM, batch 64; changes as fractions."""

    def change(device: str, base: str, name: str, length: int) -> float:
        return get(GLAM, device, 64, length, name) / get(GLAM, base, 64, length, name) - 1

    def mean(device: str, base: str, name: str) -> float:
        return _mean([change(device, base, name, n) for n in LENGTHS[GLAM]])

    rows = [
        judged("T9", "GLaM, median TBT, plain against GPU, mean change", "1", -0.583,
               mean(PLAIN, GPU, "tbt_p50"), "0.04", "VII-B"),
        judged("T10", "GLaM, median end to end, +PE+ET against GPU, mean change", "1", -0.6020,
               mean(ET, GPU, "e2e_p50"), "0.03", "VII-B"),
        judged("T11", "GLaM, median end to end, +PE+ET against 2xGPU, mean change", "1", -0.3538,
               mean(ET, TWO, "e2e_p50"), "0.03", "VII-B"),
    ]  # fmt: skip
    for length in (512, 2048):
        for label, name in (("t2ft", "t2ft_p50"), ("p99_tbt", "tbt_p99")):
            rows.append(
                judged(f"glam.lin{length}.{label}_vs_2xgpu",
                       f"GLaM, Lin = Lout = {length}, {label}, +PE+ET against 2xGPU, change", "1",
                       None, change(ET, TWO, name, length))
            )  # fmt: skip
    return rows


def _energy(get: Get) -> list[Row]:
    """Fig. 15: dynamic energy per output token, +PE+ET against GPU."""
    saving = {
        m: [1 - get(m, ET, b, n, "joules_per_token") / get(m, GPU, b, n, "joules_per_token")
            for _, b, n in grid([m])]
        for m in (MIXTRAL, GLAM, GROK)
    }  # fmt: skip
    published = {MIXTRAL: 0.3328, GLAM: 0.4203, GROK: 0.3459}
    rows = [
        judged(f"T19.{m.split('-')[0]}", f"{m}: best energy saving per token", "1", published[m],
               max(values), "0.04", "VII-D")
        for m, values in saving.items()
    ]  # fmt: skip
    every = [v for values in saving.values() for v in values]
    rows.append(
        judged("T20", "mean energy saving per token", "1", 0.2819, _mean(every), "0.03", "X")
    )
    return rows


def _utilisation() -> Row:
    """Share of the GPU's peak that Mixtral's experts use in a decoding-only stage, batch 128."""
    from ..roofline import roofline

    result = roofline(MIXTRAL, system(GPU, MIXTRAL), batch=128, context=2048)
    peak = result.deployment.device.processors["xpu"].peak["fp16"]
    experts = next(op for op in result.ops if op.name == "experts")
    return judged("T25", "GPU compute utilisation of MoE, decoding-only, batch 128", "1", 0.11,
                  experts.flops / experts.seconds / peak, "below", "III-A")  # fmt: skip


def _qps(results: dict[Point, Measured], seeds: Sequence[int], routing: str) -> list[Row]:
    """Fig. 13: the highest integer load sustained.

    A load is sustained if, over 4,000 requests after 500, completions keep up with 0.98 of it
    and the median time to first token of the last quarter is at most 1.5 x the second's, in the
    mean over seeds.
    """

    def sustained(device: str, qps: int) -> bool:
        got = [results[poisson(device, qps, s, routing)] for s in seeds]
        return (
            _mean([g.completion_rate for g in got]) >= 0.98 * qps
            and _mean([g.t2ft_growth for g in got]) <= 1.5
        )

    rows = []
    for label, device in (("gpu", GPU), ("duplex", ET), ("2xgpu", TWO)):
        highest = max((q for q in QPS_RANGE if sustained(device, q)), default=0)
        rows.append(
            judged(f"qps.{label}_max", f"Mixtral (4096, 512): highest load {label} sustains",
                   "1/s", None, float(highest))
        )  # fmt: skip
    return rows


def _bank_pim(get: Get) -> list[Row]:
    """Fig. 14: Bank-PIM beside Duplex."""
    speed = "output_tokens_per_s"
    rows = []
    for batch, length, label, device in (
        (64, 256, "duplex", ET), (64, 256, "bankpim", BANK), (32, 4096, "bankpim", BANK),
    ):  # fmt: skip
        ratio = get(MIXTRAL, device, batch, length, speed) / get(MIXTRAL, GPU, batch, length, speed)
        rows.append(
            judged(f"bankpim.mixtral.b{batch}.l{length}.{label}",
                   f"Mixtral, batch {batch}, length {length}: {label} over GPU", "1", None, ratio)
        )  # fmt: skip
    for model, label, pick in (
        (MIXTRAL, "mixtral", ("max", "mean")), (LLAMA3, "llama3", ("min", "max")),
        (OPT, "opt", ("min", "max")),
    ):  # fmt: skip
        ratios = [get(m, ET, b, n, speed) / get(m, BANK, b, n, speed) for m, b, n in grid([model])]
        for name in pick:
            value = {"min": min(ratios), "max": max(ratios), "mean": _mean(ratios)}[name]
            rows.append(
                judged(f"bankpim.{label}.duplex_over_bankpim.{name}",
                       f"{model}: throughput, Duplex over Bank-PIM, {name}", "1", None, value)
            )  # fmt: skip
    return rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
