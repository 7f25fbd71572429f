"""CENT (ASPLOS 2025, arXiv 2502.07578): Llama-2 on GDDR6-PIM behind CXL, without a GPU.

Three numbers of the bank units are fitted to the PIM microseconds of Llama-2-7B with 2, 4 and 8
devices a block, which no judged row has; all else is constants. Energy has no fitted number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from opbyte.extend import Table, load_device, load_model
from opbyte.extend.devices import build_device
from opbyte.extend.models import Attention, FeedForward

from .kinds.gemv import BankGemv, GemvModel
from .published import Prediction, paper, published

DEVICE = "cent"
FLIT_BYTES, FLIT_DATA_BYTES = 256, 192
LANES, LANE_BYTES_PER_S = 144, 4 * 2**30
"""Lanes of the CXL switch, which all devices share, and the rate of one lane [quoted: CENT]."""
SAMPLING_S = 0.15e-3
"""Time of sampling a token on the host [s] [quoted: CENT]."""
BROADCASTS, GATHERS = 5, 5
"""Vectors of the model's width that a block on whole devices exchanges, each way; one of the inner
width besides [quoted: CENT]."""
DECODE = range(640, 4097, 128)
"""Contexts over which a decode from 512 to 4,096 tokens is averaged."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """A model's distribution over devices, as a pipeline of `stages` stages.

    With one stage per block, blocks share devices on separate channels; with fewer stages, a block uses all channels of
    the devices of its stage.
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
        """Whether several blocks share one device at the same time."""
        return self.stages == self.blocks

    @property
    def blocks_a_device(self) -> int:
        """Number of blocks that a device computes at the same time."""
        return math.ceil(self.blocks / self.devices) if self.shares else 1

    @property
    def devices_a_block(self) -> int:
        """Devices that compute one block together."""
        return 1 if self.shares else self.devices // self.stages

    def channels(self, of_device: float) -> float:
        """Return the memory channels for one block, if a device has `of_device` channels."""
        if self.shares:
            return of_device // self.blocks_a_device
        return of_device * self.devices_a_block


@dataclass(frozen=True, slots=True)
class Token:
    """Cost of a token: seconds of one block by part, of the embeddings and in total, and joules in total."""

    pim: float
    cxl: float
    accelerators: float
    embedding: float
    seconds: float
    joules: float


@lru_cache(maxsize=1)
def units() -> BankGemv:
    """Return the bank units of a CENT device."""
    model = build_device(load_device(DEVICE)[0], calibrated=True).processors["banks"].model
    assert isinstance(model, GemvModel)
    return model.units


@lru_cache(maxsize=4096)
def token(mapping: Mapping, context: int) -> Token:
    """Return the cost of a token at `context` cached tokens, from the first block to the sampled token."""
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
    """Return the time of exchanging one block's vectors over CXL [s]."""
    if mapping.shares:
        return vector(hidden, mapping.devices)
    g = mapping.devices_a_block

    def gathered(n: int) -> float:
        return vector(n / g, mapping.devices, times=g - 1)

    def sent(n: int) -> float:
        return vector(n, mapping.devices)

    return BROADCASTS * sent(hidden) + sent(inner) + GATHERS * gathered(hidden) + gathered(inner)


def vector(values: float, devices: int, times: int = 1) -> float:
    """Return the time of a 16-bit vector to other devices, or of `times` vectors to one, in whole flits [s]."""
    flits = times * math.ceil(2 * values / FLIT_DATA_BYTES)
    rate = LANES // devices * LANE_BYTES_PER_S
    return load_device(DEVICE)[0].link.latency_s + flits * FLIT_BYTES / rate


def decode_tokens_s(mapping: Mapping) -> float:
    """Return the tokens per second of a full pipeline, as the mean over the contexts of a decode."""
    rates = [mapping.stages / token(mapping, context).seconds for context in DECODE]
    return sum(rates) / len(rates)


def decode_joules(mapping: Mapping) -> float:
    """Return the energy of a token, as the mean over the contexts of a decode [J]."""
    return sum(token(mapping, context).joules for context in DECODE) / len(DECODE)


MODELS = {"llama2-7b": ("llama-2-7b", 8), "llama2-13b": ("llama-2-13b", 20), "llama2-70b": ("llama-2-70b", 32)}
"""Name in row ids -> model, and the devices that it has."""
STAGES = {"llama2-7b": (32, 8), "llama2-13b": (40, 20), "llama2-70b": (80, 32)}
CONTEXTS = (128, 1024, 2048, 4096)
GIVEN = ((32, 1), (8, 1), (4, 2), (2, 4), (1, 8))
"""Stages and devices a block of the given table."""


def predictions() -> Iterator[Prediction]:
    """Return all rows, only from the device's description."""
    for name, (model, devices) in MODELS.items():
        for stages in STAGES[name]:
            at, mapping = f"cent.{name}.pp{stages}", Mapping(model, devices, stages)
            yield from _latencies(at, mapping)
            yield Prediction(f"{at}.decode_tokens_s", decode_tokens_s(mapping))
            yield Prediction(f"{at}.decode_mj_token", decode_joules(mapping) * 1e3)
        mapping_all = Mapping(model, devices, 1)
        yield from _latencies(f"cent.{name}.tp{devices}", mapping_all)


def _latencies(at: str, mapping: Mapping) -> Iterator[Prediction]:
    for context in CONTEXTS:
        yield Prediction(f"{at}.l{context}.token_ms", token(mapping, context).seconds * 1e3)


def parts() -> Table:
    """Return the parts of a block of Llama-2-7B next to the authors'."""
    given, rows = published("cent")["parts"], []
    for stages, devices in GIVEN:
        for context in CONTEXTS:
            ours = token(Mapping("llama-2-7b", 8, stages), context)
            theirs = given[f"{stages}x{devices}.l{context}"]
            rows.append({
                "case": f"{stages} x {devices}, {context}",
                "pim_us": ours.pim * 1e6, "given_pim_us": theirs["pim_us"],
                "cxl_us": ours.cxl * 1e6, "given_cxl_us": theirs["cxl_us"],
                "acc_us": ours.accelerators * 1e6, "given_acc_us": theirs["accelerators_us"],
                "embedding_us": ours.embedding * 1e6,
                "given_embedding_us": theirs["embedding_us"],
                "mJ": ours.joules * 1e3, "given_mJ": theirs["mJ_per_token"],
            })  # fmt: skip
    return Table("parts", "A block of Llama-2-7B by stages x devices a block and context", rows)


def _drawn() -> Table:
    """Return the parts of a block of Llama-2-7B at context 4,096 for the plot."""
    given, rows = published("cent")["parts"], []
    for stages, devices in GIVEN:
        ours = token(Mapping("llama-2-7b", 8, stages), 4096)
        rows.append({
            "case": f"{stages} x {devices}", "banks": ours.pim * 1e6,
            "CXL": ours.cxl * 1e6, "controllers": ours.accelerators * 1e6,
            "published": given[f"{stages}x{devices}.l4096"]["block_us"],
        })  # fmt: skip
    return Table("steps", "A block of Llama-2-7B at context 4,096 by stages x devices a block (us)", rows)


paper(
    "cent", "Predict CENT: Llama-2 as a pipeline of blocks on GDDR6-PIM devices behind CXL.", predictions,
    tables=(parts,), drawn={"steps": _drawn},
)  # fmt: skip
