"""RMoE (arXiv 2408.06793): what a router with a memory costs in weights, time and memory."""

from __future__ import annotations

from collections.abc import Iterator

from opbyte.extend import Table

from .published import Prediction, paper
from .rmoe_step import LENGTH, MICRO, RANKS, STATE, SYSTEM, model, router_weights, step

MICRO_BATCHES = (1, 4, 8, 16)


def predictions() -> Iterator[Prediction]:
    """All rows, from the models and training steps."""
    for name, recurrent in (("plain", False), ("rmoe", True)):
        yield Prediction(f"rmoe.small.router_params.{name}", router_weights("small", recurrent) / 1e6)
    added = model("large", True).total_params - model("large", False).total_params
    yield Prediction("rmoe.large.added_params", added / 1e6)
    plain, ours = step(False), step(True)
    yield Prediction("rmoe.large.step_time_ratio", ours.seconds / plain.seconds)
    yield Prediction("rmoe.large.memory_ratio", ours.memory.total / plain.memory.total)


def _batches() -> Table:
    rows = []
    for micro in MICRO_BATCHES:
        plain, ours = step(False, micro), step(True, micro)
        rows.append({"sequences": micro, "plain_ms": plain.seconds * 1e3,
                     "recurrent_ms": ours.seconds * 1e3, "time_ratio": ours.seconds / plain.seconds,
                     "memory_GiB": ours.memory.total / 2**30,
                     "memory_ratio": ours.memory.total / plain.memory.total})  # fmt: skip
    return Table("batches", f"Training the large model on {RANKS} devices, by sequences of each", rows)


def _models() -> Table:
    rows = [
        {"router": name, "router_1e6": router_weights("large", recurrent) / 1e6,
         "active_1e9": model("large", recurrent).active_params / 1e9,
         "total_1e9": model("large", recurrent).total_params / 1e9}
        for name, recurrent in (("plain", False), ("recurrent", True))
    ]  # fmt: skip
    return Table("models", "Weights of the large model", rows)


def _drawn() -> Table:
    """Return the milliseconds of a step by the busiest device's work for the plot."""
    used = [part for part, took in step(True).by_stream.items() if took > 0]
    rows = [
        {"case": name, **{part: step(recurrent).by_stream[part] * 1e3 for part in used}}
        for name, recurrent in (("plain router", False), ("recurrent router", True))
    ]
    return Table("steps", "A training step of the large model (ms)", rows)


paper(
    "rmoe", "RMoE: weights, training time and memory of a recurrent router over a plain one.", predictions,
    facts={"STATE": STATE, "SYSTEM": SYSTEM, "MICRO": MICRO, "LENGTH": LENGTH}, tables=(_batches, _models), drawn=_drawn, runs=2 * len(MICRO_BATCHES),
)  # fmt: skip
