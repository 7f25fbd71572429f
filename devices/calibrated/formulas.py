"""Costs of ops that depend on several sums of a batch, as compiled functions.

Matmuls, vector kernels and collectives depend on one count (the tokens of a step) and are tabulated; attention and
experts are formulas. Each evaluates a family's scalar kernel at the quantities of the sums, never below its roofline.
"""

from __future__ import annotations

from ...workloads.jit import compiled_part
from ..cost import MEMORY
from . import attention_decode, attention_prefill, mla, moe, streamed
from .family import F8
from .layer_kernels import LAYER_FAMILIES
from .terms import price

(ROOFLINE, CURVE, DECODE, PREFILL, MLA, MOE, MIXED_PREFILL, MIXED_DECODE, MOE_GRID, STREAMED) = range(10)
"""Codes of formulas; three of them are read from measured grids (`devices.tables`)."""

CODES = {"attention_decode": DECODE, "attention_prefill": PREFILL, "mla_decode": MLA,
         "mla_prefill": MLA, "experts": MOE,
         **{kind: STREAMED for own in LAYER_FAMILIES.values() for kind in own.kinds}}  # fmt: skip

SUMS = ("batch", "tokens", "pairs", "kv", "decodes", "decode_kv", "uneven", "prompts")
"""Entries of an attention op's shape that depend on the batch; `uneven` are seconds that unequal
contexts of its decodes add (see the simulator's `step.unequal`)."""
(U_BATCH, U_TOKENS, U_PAIRS, U_KV, U_DECODES, U_DECODE_KV, U_UNEVEN, U_PROMPTS) = range(8)
WIDTH = 18
"""Most parameters, and most quantities, of a formula."""

Price = tuple[float, int]
"""Seconds, and code of the bound."""


@compiled_part
def decode_price(
    parameters: F8, hardware: F8, inputs: F8, batch: float, pairs: float, keys: float, prompts: float
) -> Price:
    """Return the cost of decode attention of `batch` sequences that read `keys` keys together, in a step with the given prompts."""
    if not attention_decode.at_sums(inputs, batch, pairs, keys, prompts):
        return 0.0, MEMORY
    return price(attention_decode.parts(parameters, hardware, inputs), attention_decode.work(inputs), hardware)


@compiled_part
def prefill_price(
    parameters: F8,
    hardware: F8,
    inputs: F8,
    window: float,
    batch: float,
    tokens: float,
    pairs: float,
    keys: float,
    decodes: float,
) -> Price:
    """Prefill attention of `batch` chunks with `tokens` new tokens and `keys` keys together."""
    if not attention_prefill.at_sums(inputs, window, batch, tokens, pairs, keys, decodes):
        return 0.0, MEMORY
    return price(attention_prefill.parts(parameters, hardware, inputs), attention_prefill.work(inputs), hardware)


@compiled_part
def mla_price(
    parameters: F8, hardware: F8, inputs: F8, batch: float, tokens: float, pairs: float, keys: float
) -> Price:
    """Latent attention, prefill or decode as `inputs` says."""
    if not mla.at_sums(inputs, batch, tokens, pairs, keys):
        return 0.0, MEMORY
    return price(mla.parts(parameters, hardware, inputs), mla.work(inputs), hardware)


@compiled_part
def streamed_price(
    parameters: F8, hardware: F8, inputs: F8, batch: float, tokens: float, pairs: float, keys: float
) -> Price:
    """A kernel of `layer_kernels`, at its sums."""
    if not streamed.at_sums(inputs, batch, tokens, pairs, keys):
        return 0.0, MEMORY
    return price(streamed.parts(parameters, hardware, inputs), streamed.work(inputs), hardware)


@compiled_part
def moe_price(parameters: F8, hardware: F8, inputs: F8, routed: float, active: float) -> Price:
    """One device's experts at `routed` token-expert pairs over `active` experts."""
    if not moe.at_loads(inputs, routed, active):
        return 0.0, MEMORY
    return price(moe.parts(parameters, hardware, inputs), moe.work(inputs), hardware)
