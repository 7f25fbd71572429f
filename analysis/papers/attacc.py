"""AttAcc (ASPLOS 2024, doi 10.1145/3620665.3640422): attention in HBM next to eight GPUs.

The given values come from the authors' simulator; no constant is fitted to them, but the placement of heads was chosen
after seeing them (see `assumptions` in `values/attacc.yaml`). The DRAM command model gives the times of the units,
`TiledGpu` the times of the GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator

from opbyte.extend import Table

from .attacc_step import SYSTEMS, Case, Step, decode_step, overlapped, step_joules
from .published import Prediction, paper, published

ALL = tuple(SYSTEMS)
ENDS = ("gpu", "bank")
CASES: dict[Case, tuple[str, ...]] = {
    Case("GPT-175B", 2, 2048, 2048, 54): ALL,
    Case("GPT-175B", 2, 2048, 128, 1): ("gpu", "bank", "bg", "buffer"),
    Case("GPT-175B", 2, 128, 128, 42): ENDS,
    Case("LLAMA-65B", 2, 2048, 2048, 117): ALL,
    Case("MT-530B", 1, 2048, 2048, 49): ENDS,
    Case("GPT-175B", 2, 2048, 2048, 21): ENDS,
    Case("GPT-175B", 2, 2048, 2048, 78): ALL,
    Case("GPT-175B", 2, 128, 2048, 101): ("gpu", "bank", "bank-nolimit"),
    Case("GPT-175B", 2, 2048, 128, 54): ("gpu", "bank", "bg", "buffer"),
    Case("GPT-175B", 2, 512, 512, 186): ENDS,
    Case("GPT-175B", 2, 128, 128, 288): ENDS,
    Case("GPT-175B", 1, 2048, 2048, 125): ENDS,
    Case("LLAMA-65B", 2, 2048, 2048, 81): ("gpu", "bank", "bg", "buffer"),
    Case("LLAMA-65B", 2, 128, 2048, 142): ENDS,
    Case("OPT-66B", 2, 2048, 2048, 104): ("gpu", "bank", "bg", "buffer"),
    Case("OPT-66B", 2, 128, 2048, 88): ENDS,
    Case("MT-530B", 1, 128, 2048, 91): ENDS,
}
"""Workloads, given ones first, with the systems whose rows are defined."""


def predictions() -> Iterator[Prediction]:
    """Return all rows, only from the devices' descriptions."""
    for case, systems in CASES.items():
        steps = {system: decode_step(case, system) for system in systems}
        for system, step in steps.items():
            yield from _rows(case, system, step)
        yield Prediction(f"{case.id}.speedup", steps["gpu"].seconds / steps["bank"].seconds)
        yield Prediction(f"{case.id}.bank+opt.step_ms", overlapped(case, "bank") * 1e3)


def _rows(case: Case, system: str, step: Step) -> Iterator[Prediction]:
    at = f"{case.id}.{system}"
    yield Prediction(f"{at}.step_ms", step.seconds * 1e3)
    yield Prediction(f"{at}.attention_ms", step.attention * 1e3)


def parts() -> Table:
    """Return the parts of the step, next to the authors' if they are given."""
    given = published("attacc")["parts"]
    rows = []
    for case, systems in CASES.items():
        for system in systems:
            step, theirs = decode_step(case, system), given.get(f"{case.id}.{system}", {})
            rows.append({
                "case": f"{case.id.removeprefix('attacc.')}.{system}",
                "fc_ms": step.fc * 1e3, "given_fc_ms": theirs.get("fc_ms"),
                "all_reduce_ms": step.all_reduce * 1e3,
                "given_all_reduce_ms": theirs.get("all_reduce_ms"),
                "vector_ms": step.vector * 1e3, "given_vector_ms": theirs.get("vector_ms"),
                "softmax_ms": step.softmax * 1e3,
                "energy_J": step_joules(case, system),
                "given_energy_J": theirs["energy_mJ"] / 1e3 if theirs else None,
            })  # fmt: skip
    return Table("parts", "Parts of a step, ours and the authors'", rows)


def _drawn() -> Table:
    """Return the parts of the first case's steps for the plot."""
    case, given = next(iter(CASES)), published("attacc")["rows"]
    rows = []
    for system in CASES[case]:
        step = decode_step(case, system)
        rows.append({
            "case": system, "attention": step.attention * 1e3, "products": step.fc * 1e3,
            "all-reduce": step.all_reduce * 1e3, "vector operations": step.vector * 1e3,
            "softmax on the GPU": step.softmax * 1e3,
            "published": given.get(f"{case.id}.{system}.step_ms", float("nan")),
        })  # fmt: skip
    return Table("steps", "Decode step of GPT-175B, 54 requests of 2,048 + 2,048 tokens (ms)", rows)


paper(
    "attacc", "Predict AttAcc: attention in HBM stacks next to 8 GPUs, per bank, bank group or buffer die.", predictions,
    tables=(parts,), drawn=_drawn, runs=len(CASES),
)  # fmt: skip
