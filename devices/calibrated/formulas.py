"""Costs of ops that depend on several sums of a batch, as compiled functions.

Matmuls, vector kernels and collectives depend on one count (the tokens of a step) and are tabulated; attention and
experts are formulas. Each evaluates a family's scalar kernel at the quantities of the sums, never below its roofline.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

from ...workloads.jit import compiled_part
from ...workloads.jit_address import reader
from ...workloads.records import Records, reals
from ..cost import MEMORY
from . import attention_decode, attention_prefill, layer_kernels, mla, moe
from .family import F8
from .layer_kernels import LAYER_FAMILIES
from .terms import price

Formula = IntEnum(
    "Formula", "ROOFLINE CURVE DECODE PREFILL MLA MOE MIXED_PREFILL MIXED_DECODE MOE_GRID STREAMED", start=0
)
"""Codes of formulas; three of them are read from measured grids (`devices.tables`)."""

CODES = {"attention_decode": Formula.DECODE, "attention_prefill": Formula.PREFILL, "mla_decode": Formula.MLA,
         "mla_prefill": Formula.MLA, "experts": Formula.MOE,
         **{kind: Formula.STREAMED for own in LAYER_FAMILIES.values() for kind in own.kinds}}  # fmt: skip

Sum = IntEnum("Sum", "BATCH TOKENS PAIRS KV DECODES DECODE_KV UNEVEN PROMPTS", start=0)
SUMS = tuple(name.lower() for name in Sum.__members__)
"""Entries of an attention op's shape that depend on the batch; `uneven` are seconds that unequal
contexts of its decodes add (see the simulator's `step.unequal`)."""
WIDTH = 18
"""Maximum number of parameters, and of quantities, of a formula."""

Price = tuple[float, int]
"""Seconds, and the code of the bound."""


class Chunks(NamedTuple):
    """Sums over the sequences of a call: their number, new tokens, query-key pairs and keys read."""

    batch: float
    tokens: float
    pairs: float
    keys: float


def _readers(module: Any) -> tuple[Callable[[F8], Records], Callable[[F8], Records]]:
    """Return readers of a family's parameters and of the quantities of a call."""
    return reader(reals(*(p.name for p in module.PARAMETERS))), reader(reals(*module.QUANTITIES))


decode_parameters, decode_call = _readers(attention_decode)
prefill_parameters, prefill_call = _readers(attention_prefill)
mla_parameters, mla_call = _readers(mla)
moe_parameters, moe_call = _readers(moe)
streamed_parameters, streamed_call = _readers(layer_kernels)


@compiled_part
def decode_price(
    parameters: F8, hardware: Records, inputs: F8, batch: float, pairs: float, keys: float, prompts: float
) -> Price:
    """Return the cost of decode attention of `batch` sequences that read `keys` keys together, in a step with the given prompts."""
    x = decode_call(inputs)
    if not attention_decode.at_sums(x, batch, pairs, keys, prompts):
        return 0.0, MEMORY
    return price(attention_decode.parts(decode_parameters(parameters), hardware, x), attention_decode.work(x), hardware)


@compiled_part
def prefill_price(
    parameters: F8, hardware: Records, inputs: F8, chunks: Chunks, decodes: float, window: float
) -> Price:
    """Return the cost of prefill attention of chunks, in a step with the given decodes."""
    x = prefill_call(inputs)
    if not attention_prefill.at_sums(x, window, chunks.batch, chunks.tokens, chunks.pairs, chunks.keys, decodes):
        return 0.0, MEMORY
    seconds = attention_prefill.parts(prefill_parameters(parameters), hardware, x)
    return price(seconds, attention_prefill.work(x), hardware)


@compiled_part
def mla_price(parameters: F8, hardware: Records, inputs: F8, chunks: Chunks) -> Price:
    """Return the cost of latent attention, prefill or decode by `inputs`."""
    x = mla_call(inputs)
    if not mla.at_sums(x, chunks.batch, chunks.tokens, chunks.pairs, chunks.keys):
        return 0.0, MEMORY
    return price(mla.parts(mla_parameters(parameters), hardware, x), mla.work(x), hardware)


@compiled_part
def streamed_price(parameters: F8, hardware: Records, inputs: F8, chunks: Chunks) -> Price:
    """Return the cost of a kernel of `layer_kernels` at its sums."""
    x = streamed_call(inputs)
    if not layer_kernels.at_sums(x, chunks.batch, chunks.tokens, chunks.pairs, chunks.keys):
        return 0.0, MEMORY
    return price(layer_kernels.parts(streamed_parameters(parameters), hardware, x), layer_kernels.work(x), hardware)


@compiled_part
def moe_price(parameters: F8, hardware: Records, inputs: F8, routed: float, active: float) -> Price:
    """Return the cost of one device's experts at `routed` token-expert pairs over `active` experts."""
    x = moe_call(inputs)
    if not moe.at_loads(x, routed, active):
        return 0.0, MEMORY
    return price(moe.parts(moe_parameters(parameters), hardware, x), moe.work(x), hardware)
