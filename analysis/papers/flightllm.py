"""FlightLLM (FPGA 2024, arXiv 2401.03868): Llama-2-7B decoding on a U280, and on a VHK158.

Weights and KV cache pass at the HBM utilisation of the paper. What they do not explain of the one
given step is the instructions' part: one number, fitted to that row, which is not judged. On the
VHK158 the same design has another memory and a fourth slice, which shares the instructions' work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from opbyte.extend import Batch, Table, deploy
from opbyte.extend.devices import StreamEngine, SystemSpec
from opbyte.extend.systems import explicit_stage, load

from .published import Prediction, paper

MODEL = "llama-2-7b"
WEIGHTS, CACHE = "int4", "int8"
WEIGHT_BYTES = 3.43e9
"""Bytes read per token after pruning and quantisation [quoted: FlightLLM]; they replace int4's bytes."""
BOARDS = {"u280": "flightllm-x1", "vhk158": "flightllm-vhk158-x1"}


def predictions() -> Iterator[Prediction]:
    """Return all rows, only from the devices' descriptions."""
    yield Prediction("flightllm.u280.kv128.ms", step(BOARDS["u280"], 128)[0] * 1e3)
    yield Prediction("flightllm.u280.kv512.ms", step(BOARDS["u280"], 512)[0] * 1e3)
    yield Prediction("flightllm.vhk158.tokens_s", 1 / step(BOARDS["vhk158"], 128)[0])


def step(system: str | SystemSpec, context: int) -> tuple[float, float, float]:
    """Return the seconds of a decode step with `context` cached tokens: total, memory streams, and instructions."""
    model, spec = load(MODEL, system, WEIGHTS, CACHE)
    d = deploy(model, spec)
    (processor,) = d.device.processors.values()
    engine = processor.model
    assert isinstance(engine, StreamEngine)
    # The step's own token is the last of those that it reads.
    placed = explicit_stage(d, [Batch.of([context - 1])], expected=True).ops
    scale = WEIGHT_BYTES / sum(p.op.weight_bytes * p.count for p in placed)
    costs = [(p.count, engine.cost(replace(p.op, weight_bytes=scale * p.op.weight_bytes))) for p in placed]
    return (
        sum(n * c.seconds for n, c in costs), sum(n * c.memory_s for n, c in costs),
        sum(n * c.fixed_s for n, c in costs),
    )  # fmt: skip


def parts() -> Table:
    """Return the times of memory streams and instructions in a step, by board and context."""
    rows = []
    for name, system in BOARDS.items():
        for context in (128, 512, 2048):
            took, streams, fixed = step(system, context)
            rows.append({"board": name, "context": context, "ms": took * 1e3,
                         "streams_ms": streams * 1e3, "instructions_ms": fixed * 1e3,
                         "tokens/s": 1 / took})  # fmt: skip
    return Table("parts", "A decode step by board and context", rows)


def _drawn() -> Table:
    """Return the streams and instructions of steps for the plot."""
    rows = []
    for name, system in BOARDS.items():
        for context in (128, 512, 2048):
            took, streams, _ = step(system, context)
            rows.append({"case": f"{name}, context {context:,}", "streams": streams * 1e3,
                         "instructions and the rest": (took - streams) * 1e3})  # fmt: skip
    return Table("steps", "A decode step of Llama-2-7B on FlightLLM (ms)", rows)


paper(
    "flightllm", "Predict FlightLLM: a decode step of Llama-2-7B on a U280 and on a VHK158.", predictions,
    tables=(parts,), drawn={"steps": _drawn},
)  # fmt: skip
