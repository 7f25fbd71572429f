"""MoH (arXiv 2410.11842): heads as experts. FLOPs from layer objects, times from an H100's cost models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from opbyte.extend import Batch, Loads, ModelSpec, Op, Run, Table, deploy, load_model, load_system
from opbyte.extend.models import Attention, HeadExperts, Numerics
from opbyte.extend.systems import explicit_stage

from .published import Prediction, paper

MODEL, SYSTEM = "moh-llama-3-8b", "h100-x1"
HEADS, WIDTH = 32, 64
"""Heads of the timed kernel, and columns of each."""


def head_work_share(tokens: int, percent: int) -> float:
    """Return the FLOP of a prompt's scores and weighted sums with some heads over the FLOP with all heads."""
    base = Attention(HEADS * WIDTH, HEADS, HEADS, WIDTH)
    some = HeadExperts(base, round(HEADS * percent / 100))  # whole heads
    m, run = Batch.of([], [(tokens, 0)]).moments((0,)), Run(Numerics())
    loads = Loads.expected(tokens, some.top_k, HEADS, HEADS)
    return _scores(some.ops(m, run, loads)) / _scores(base.ops(m, run, None))


def _scores(ops: list[Op]) -> float:
    return sum(op.flops for op in ops if op.kind == "attention_prefill")


def all_heads(spec: ModelSpec) -> ModelSpec:
    """Return the model with plain attention of all heads."""
    return replace(spec.map_parts(HeadExperts, lambda mixer: mixer.base), name="llama-3-8b")


@cache
def model(routed: bool) -> ModelSpec:
    """Return the model with routed heads, or with all heads."""
    return load_model(MODEL) if routed else all_heads(load_model(MODEL))


def kv_read_share() -> float:
    """Return the KV bytes that a decode reads with routed heads, over those that it reads with all heads."""
    m = Batch.of([4095]).moments((0,))
    read = []
    for routed in (True, False):
        mixer = model(routed).layers[0].mixer
        loads = Loads.expected(1.0, 8, 16, 16)
        ops = mixer.ops(m, Run(model(routed).numerics), loads if routed else None)
        read.append(sum(op.kv_read_bytes for op in ops))
    return read[0] / read[1]


def step_parts(routed: bool, batch: Batch, costs: str) -> dict[str, float]:
    """Return the seconds of a step on one device by part, with cost models "roofline" or "auto" (measured kernels)."""
    d = deploy(model(routed), load_system(SYSTEM), costs=costs)
    stage = explicit_stage(d, [batch], expected=True)
    out = {"scores": 0.0, "projections": 0.0, "all else": 0.0}
    for (layer, kind), took in stage.times(lambda p: (p.op.layer, p.op.kind)).items():
        inside = "scores" if kind.startswith("attention_") else "projections"
        out[inside if layer == "attention" else "all else"] += took
    return out


SHARES = (90, 75, 50)
CASES = {
    "prompt of 8k": Batch.of([], [(8192, 0)]),
    "1 decode at 1k": Batch.of([1023]),
    "32 decodes at 1k": Batch.of([1023] * 32),
    "128 decodes at 1k": Batch.of([1023] * 128),
    "32 decodes at 8k": Batch.of([8191] * 32),
}


def predictions() -> Iterator[Prediction]:
    """Return all rows, only from layers."""
    for tokens in (256, 512):
        for percent in SHARES:
            yield Prediction(f"moh.{tokens}.h{percent}.time_share", head_work_share(tokens, percent))
    yield Prediction("moh.llama3.kv_read_share", kv_read_share())


def _steps() -> Table:
    """Return the step time with routed heads (three quarters of all) over the step time with all heads."""
    rows = []
    for case, batch in CASES.items():
        row: dict[str, float | str] = {"step": case}
        for costs, name in (("roofline", "roofline"), ("auto", "kernels")):
            ours, plain = (step_parts(routed, batch, costs) for routed in (True, False))
            total = sum(plain.values())
            row |= {f"all heads, {name} (ms)": total * 1e3, f"MoH, {name}": sum(ours.values()) / total}
            row |= {f"{part}, {name}": ours[part] / plain[part] for part in ("scores", "projections")}
        rows.append(row)
    note = "24 of 32 heads; projections of routed heads run as experts, for the tokens that chose them"
    title = "Step time of MoH-LLaMA3-8B over Llama 3 8B, one H100"
    return Table("steps_time", title, rows, note)


def _drawn() -> Table:
    """Return the parts of steps with all and with routed heads for the plot."""
    rows = []
    for case, batch in CASES.items():
        total = sum(step_parts(False, batch, "roofline").values())
        for name, routed in (("all heads", False), ("MoH", True)):
            parts = step_parts(routed, batch, "roofline")
            rows.append({"case": f"{case}, {name}", **{k: v / total for k, v in parts.items()}})
    return Table("steps", "Time of a step over that with all heads, roofline of an H100", rows)


paper(
    "moh", "Reproduce MoH: work of some heads against the time that it takes, and keys that are read.", predictions,
    tables=(_steps,), drawn={"steps": _drawn}, runs=4 * len(CASES),
)  # fmt: skip
