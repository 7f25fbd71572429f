"""CENT (ASPLOS 2025, arXiv 2502.07578): Llama-2 on GDDR6-PIM behind CXL, without a GPU.

Three numbers of the bank units are fitted to the PIM microseconds of Llama-2-7B with 2, 4 and 8
devices a block, which no judged row has; all else is constants. Energy has no fitted number.
"""

from __future__ import annotations

from collections.abc import Iterator

from opbyte.extend import Table

from .cent_step import Mapping, decode_joules, decode_tokens_s, token
from .published import Prediction, paper, published

MODELS = {"llama2-7b": ("llama-2-7b", 8), "llama2-13b": ("llama-2-13b", 20), "llama2-70b": ("llama-2-70b", 32)}
"""Name in row ids -> model, and the devices that it has."""
STAGES = {"llama2-7b": (32, 8), "llama2-13b": (40, 20), "llama2-70b": (80, 32)}
CONTEXTS = (128, 1024, 2048, 4096)
GIVEN = ((32, 1), (8, 1), (4, 2), (2, 4), (1, 8))
"""Stages and devices a block of the given table."""


def predictions() -> Iterator[Prediction]:
    """All rows, from the device's description alone."""
    for name, (model, devices) in MODELS.items():
        for stages in STAGES[name]:
            at, mapping = f"cent.{name}.pp{stages}", Mapping(model, devices, stages)
            yield from _latencies(at, mapping)
            yield Prediction(f"{at}.decode_tokens_s", decode_tokens_s(mapping))
            yield Prediction(f"{at}.decode_mj_token", decode_joules(mapping) * 1e3)
        whole = Mapping(model, devices, 1)
        yield from _latencies(f"cent.{name}.tp{devices}", whole)


def _latencies(at: str, mapping: Mapping) -> Iterator[Prediction]:
    for context in CONTEXTS:
        yield Prediction(f"{at}.l{context}.token_ms", token(mapping, context).seconds * 1e3)


def parts() -> Table:
    """Parts of a block of Llama-2-7B beside the authors'."""
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
    """Parts of a block of Llama-2-7B at context 4,096, as the figure takes them."""
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
    tables=(parts,), drawn=_drawn,
)  # fmt: skip
