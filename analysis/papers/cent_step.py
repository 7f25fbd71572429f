"""One token on CENT: a pipeline of transformer blocks, each on channels of its own.

Products and attention are those of `BankGemv`. Here stand the mapping of blocks, the vectors that
cross CXL between devices, and what is added up to a token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from opbyte.extend import load_device, load_model
from opbyte.extend.devices import build_device
from opbyte.extend.models import Attention, FeedForward

from .kinds.gemv import BankGemv, GemvModel

DEVICE = "cent"
FLIT_BYTES, FLIT_DATA_BYTES = 256, 192
LANES, LANE_BYTES_PER_S = 144, 4 * 2**30
"""Of the switch, shared by all devices [quoted: CENT]."""
SAMPLING_S = 0.15e-3
"""Choosing a token on the host [quoted: CENT]."""
BROADCASTS, GATHERS = 5, 5
"""Vectors of the model's width that a block on whole devices exchanges, each way; one of the inner
width besides [quoted: CENT]."""
DECODE = range(640, 4097, 128)
"""Contexts of the averages over a decode from 512 to 4,096 tokens."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """A model on devices: `stages` of a pipeline.

    With a stage for each block, blocks share devices, and each has channels of its own; with fewer,
    a block takes all channels of the devices of its stage.
    """

    model: str
    devices: int
    stages: int

    @property
    def blocks(self) -> int:
        """Transformer blocks of the model."""
        return len(load_model(self.model).layers)

    @property
    def shares(self) -> bool:
        """Whether a device holds several blocks at once."""
        return self.stages == self.blocks

    @property
    def blocks_a_device(self) -> int:
        """Blocks that a device works on at once."""
        return math.ceil(self.blocks / self.devices) if self.shares else 1

    @property
    def devices_a_block(self) -> int:
        """Devices that work on one block."""
        return 1 if self.shares else self.devices // self.stages

    def channels(self, of_device: float) -> float:
        """Channels that a block has."""
        if self.shares:
            return of_device // self.blocks_a_device
        return of_device * self.devices_a_block


@dataclass(frozen=True, slots=True)
class Token:
    """Seconds of a block by part, of the embeddings and of a token; joules of a token."""

    pim: float
    cxl: float
    accelerators: float
    embedding: float
    seconds: float
    joules: float


@lru_cache(maxsize=1)
def units() -> BankGemv:
    """The bank units of a device."""
    model = build_device(load_device(DEVICE)[0], calibrated=True).processors["banks"].model
    assert isinstance(model, GemvModel)
    return model.units


@lru_cache(maxsize=4096)
def token(mapping: Mapping, context: int) -> Token:
    """A token with so many cached ones, from the first block to the sampled word."""
    u, model = units(), load_model(mapping.model)
    layer, d = model.layers[0], model.hidden
    attention, ffn = layer.mixer, layer.ffn
    assert isinstance(attention, Attention)
    assert isinstance(ffn, FeedForward)
    channels, together = mapping.channels(u.channels), mapping.blocks_a_device
    width = attention.heads * attention.head_dim
    kv = attention.kv_heads * attention.head_dim
    inner = ffn.width
    matrices = [(width, d), (kv, d), (kv, d), (d, width), (inner, d), (inner, d), (d, inner)]
    shape = attention.heads, attention.kv_heads, context, attention.head_dim, channels
    pim = sum(u.gemv_s(n, k, channels) for n, k in matrices) + u.attention_s(*shape)
    norms = 2 * d * u.vector_s
    near = together * (attention.heads * context * u.softmax_s + norms)
    cxl = exchanges(mapping, d, inner)
    # The input embedding is a product with a one-hot vector, as large as the head.
    embedding = 2 * u.gemv_s(model.vocab, d, channels)
    seconds = mapping.blocks * (pim + cxl + near) + embedding + SAMPLING_S
    joules = sum(u.gemv_J(n, k, channels) for n, k in matrices)
    joules += u.attention_J(attention.heads, context, attention.head_dim)
    joules = mapping.blocks * joules + 2 * u.gemv_J(model.vocab, d, channels)
    return Token(pim, cxl, near, embedding, seconds, joules)


def exchanges(mapping: Mapping, hidden: int, inner: int) -> float:
    """Vectors of one block over CXL [s]."""
    if mapping.shares:
        return vector(hidden, mapping.devices)
    g = mapping.devices_a_block

    def gathered(n: int) -> float:
        return vector(n / g, mapping.devices, times=g - 1)

    def sent(n: int) -> float:
        return vector(n, mapping.devices)

    return BROADCASTS * sent(hidden) + sent(inner) + GATHERS * gathered(hidden) + gathered(inner)


def vector(values: float, devices: int, times: int = 1) -> float:
    """A vector of 16-bit values to others, or `times` of them to one, in whole flits [s]."""
    flits = times * math.ceil(2 * values / FLIT_DATA_BYTES)
    rate = LANES // devices * LANE_BYTES_PER_S
    return load_device(DEVICE)[0].link.latency_s + flits * FLIT_BYTES / rate


def decode_tokens_s(mapping: Mapping) -> float:
    """Tokens per second of a full pipeline, mean over the contexts of a decode."""
    rates = [mapping.stages / token(mapping, context).seconds for context in DECODE]
    return sum(rates) / len(rates)


def decode_joules(mapping: Mapping) -> float:
    """Energy of a token, mean over the same contexts [J]."""
    return sum(token(mapping, context).joules for context in DECODE) / len(DECODE)
