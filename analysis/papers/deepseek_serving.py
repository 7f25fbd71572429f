"""DeepSeek-V3 on four nodes of eight H800: tokens/s of a node, next to DeepSeek's day averages.

Predicted from prefill-only and decode-only steps. A day's average has idle hours, prompts found in a cache, and more
nodes per decoding unit, so nothing here is judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from opbyte.extend import Batch, Deployment, Table, deploy, load_model, load_system
from opbyte.extend.answers import evidence
from opbyte.extend.devices import describe_system
from opbyte.extend.systems import ExpertPlacing, dealt, explicit_stage, kv_rules, sequence_bytes

from .published import Prediction, paper, published

MODEL, SYSTEM, NODES = "deepseek-v3", "h800-4x8", 4
COPIES = 32
"""Redundant experts of a layer, one on each device."""
CONTEXT = 4096
"""Tokens of a prompt, and cached tokens of a decode; assumed."""
PROMPTS = 2
"""Prompts per device in a prefill step; assumed."""
DECODES = (32, 64)
"""Sequences per device in decode steps, in addition to the maximum that fits memory."""
PREFILL, DECODE = "deepep-normal", "deepep-low-latency"
TWO_BATCH = "two-batch"
NOTE = "a prediction of busy steps; the published average of a day"


def predictions() -> Iterator[Prediction]:
    """Predict the tokens/s of a node in prefill and in decode, from simulated steps."""
    yield Prediction("deepseek-serving.prefill.tokens_per_s_node", prefill(TWO_BATCH, COPIES))
    most = most_sequences()
    yield Prediction(
        "deepseek-serving.decode.tokens_per_s_node",
        decode(TWO_BATCH, COPIES, most),
        f"{NOTE}; {most} sequences a device, all that fit",
    )


@cache
def deployed(overlap: str, copies: int, exchange: str) -> Deployment:
    """Deploy the model on the system with one kind of overlap, redundant experts and an all-to-all."""
    return deploy(
        load_model(MODEL), load_system(SYSTEM), tp=1, routing="measured", overlap=overlap,
        all_to_all=exchange, expert_copies=ExpertPlacing("balanced" if copies else "even", copies),
    )  # fmt: skip


@cache
def prefill(overlap: str, copies: int) -> float:
    """Return the prompt tokens per second of a node."""
    d = deployed(overlap, copies, PREFILL)
    prompts = PROMPTS * d.ranks
    cost = explicit_stage(d, dealt(d, 0, 0, [(CONTEXT, 0)] * prompts), expected=True)
    return prompts * CONTEXT / cost.seconds / NODES


@cache
def decode(overlap: str, copies: int, sequences: int) -> float:
    """Return the output tokens per second of a node, with `sequences` sequences per device."""
    d = deployed(overlap, copies, DECODE)
    cost = explicit_stage(d, dealt(d, sequences * d.ranks, CONTEXT), expected=True)
    return sequences * d.ranks / cost.seconds / NODES


def most_sequences() -> int:
    """Return the maximum sequences at the context that fit a device in addition to weights and copies."""
    rules = kv_rules(deployed(TWO_BATCH, COPIES, DECODE))
    return int(rules.capacity / sequence_bytes(rules, np.array([CONTEXT + 1]))[0])


def _prefill_table() -> Table:
    rows = [
        {"case": _case(overlap, copies), "tokens_per_s_node": prefill(overlap, copies)}
        for overlap, copies in (("none", 0), (TWO_BATCH, 0), (TWO_BATCH, COPIES))
    ]
    return Table("prefill", "Prompt tokens per second of a node", rows)


def _decode_table() -> Table:
    rows = [
        {"case": f"{n} a device, {_case(overlap, copies)}", "tokens_per_s_node": decode(overlap, copies, n)}
        for n in (*DECODES, most_sequences())
        for overlap, copies in (("none", COPIES), (TWO_BATCH, COPIES))
    ]
    return Table("decode", "Output tokens per second of a node", rows)


def _case(overlap: str, copies: int) -> str:
    """Return the label of a configuration in tables."""
    return f"{overlap if overlap != 'none' else 'no overlap'}, {copies} copies"


def _evidence() -> Table:
    """Return the evidence of the prefill step's and the decode step's cost models."""
    _, sources = describe_system(SYSTEM)
    rows = []
    for exchange, batch in ((PREFILL, Batch.of([], [(CONTEXT, 0)])), (DECODE, Batch.of([CONTEXT] * 64))):
        d = deployed("none", COPIES, exchange)
        for entry in evidence(d, sources, batches=(batch,), usual=()):
            if entry["applies_to"] != "energy per token":
                error = entry["error"]
                rows.append({
                    "step": "prefill" if exchange == PREFILL else "decode",
                    "cost model": entry["cost_model"], "applies to": entry["applies_to"],
                    "basis": entry["basis"], "error": "-" if error is None else f"{error:.0%}",
                })  # fmt: skip
    return Table("evidence", "Basis of the times", rows)


def _drawn() -> Table:
    """Return both tables next to the day averages for the plot."""
    given = published("deepseek-serving")["rows"]
    rows = [
        {
            "case": f"{table.name}: {row['case']}",
            "tokens/s of a node": row["tokens_per_s_node"],
            "published": given.get(f"deepseek-serving.{table.name}.tokens_per_s_node"),
        }
        for table in (_prefill_table(), _decode_table())
        for row in table.rows
    ]
    return Table("steps", "DeepSeek-V3 on 4 x 8 H800, tokens/s of a node", rows)


paper(
    "deepseek-serving",
    "Predict prompt and output tokens a second of DeepSeek-V3 on 32 H800, next to a day's averages.",
    predictions,
    tables=(_prefill_table, _decode_table, _evidence),
    drawn={"steps": _drawn},
    runs=2,
)
