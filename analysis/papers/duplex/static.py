"""Figures that follow from the device descriptions alone: peaks, area, EDAP, utilisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte.extend import InputError, Row, judged

from ..published import Prediction
from .cases import BANK, BANK_GROUP, ET, GPU, MIXTRAL, PLAIN, SIZES

if TYPE_CHECKING:
    from opbyte.extend.devices import DeviceSpec


def constants() -> list[Prediction]:
    """Peak and area of Logic-PIM against the paper's (T1, T2)."""
    from opbyte.extend import load_device
    from opbyte.extend.devices import build_device

    spec, _ = load_device(ET)
    peak = build_device(spec).processors["logic-pim"].peak["fp16"] / spec.memory.stacks
    area = sum((spec.processors["logic-pim"].area_mm2 or {}).values())
    die = spec.memory.logic_die_mm2 or 0.0
    return [Prediction("T1", peak / 1e12), Prediction("T2.mm2", area), Prediction("T2.share", area / die)]


EDAP_DEVICES = {"bank": BANK, "bankgroup": BANK_GROUP, "logic": PLAIN}
EDAP_OPS = (1, 2, 4, 8, 16, 32)


def near_processor(device: str) -> tuple[DeviceSpec, str]:
    """A device and the name of its processor near memory.

    Raises
    ------
    InputError
        No such device, or one without such a processor.
    """
    from opbyte.extend import load_device

    spec, _ = load_device(device)
    for name, processor in spec.processors.items():
        if processor.kind != "xpu":
            return spec, name
    raise InputError("--device", f"{spec.name} needs a processor near memory and an xpu")


DRAM_DIES = 8
"""DRAM dies of a stack: 16 GB of HBM3 are eight dies of 16 Gb (H100 SXM5 80 GB has five stacks)."""
XPU_MM2 = 814.0
"""Die of the GPU that the paper's xPU is [mm2]: GH100, NVIDIA H100 architecture whitepaper."""
EDAP_AREAS = {
    "edap": "area added to a stack",
    "edap_stack": "area of a whole stack",
    "edap_device": "area of a whole device, its stacks included",
}
"""The areas that Fig. 8 may mean, which the paper does not say."""


def area_mm2(device: str, which: str = "edap") -> float:
    """Area of a device's parts by one of `EDAP_AREAS` [mm2].

    Units on the DRAM dies and units on the logic die count alike. A stack's dies, the DRAM ones
    too, are as large as the logic die.
    """
    spec, name = near_processor(device)
    added = sum((spec.processors[name].area_mm2 or {}).values())
    if which == "edap":
        return added
    stack = (DRAM_DIES + 1) * (spec.memory.logic_die_mm2 or _logic_die()) + added
    return stack if which == "edap_stack" else XPU_MM2 + spec.memory.stacks * stack


def _logic_die() -> float:
    """Logic die of the paper's stack [mm2], for devices whose units lie elsewhere."""
    from opbyte.extend import load_device

    return load_device(PLAIN)[0].memory.logic_die_mm2 or 0.0


def edap(device: str, op_per_byte: int, which: str = "edap") -> float:
    """Energy x delay x area of one GEMM with a 16384 x 4096 weight (Fig. 8) [J s mm2].

    The Op/B of such a GEMM is its number of input rows; one device's five stacks run it. `which`
    is the area, a key of `EDAP_AREAS`.
    """
    from opbyte.extend import Run, gemm
    from opbyte.extend.devices import build_device
    from opbyte.extend.models import Numerics

    spec, name = near_processor(device)
    op = gemm("fc", "ffn", "ffn", op_per_byte, 16384, 4096, Run(Numerics("fp16")))
    cost = build_device(spec).processors[name].model.cost(op)
    return cost.total_joules * cost.seconds * area_mm2(device, which)


def edap_rows() -> list[Row]:
    """Fig. 8: each Op/B normalised to the worst of the three, by each area."""
    rows = []
    for which, area in EDAP_AREAS.items():
        text = "" if which == "edap" else f", {area}"
        for ops in EDAP_OPS:
            values = {label: edap(device, ops, which) for label, device in EDAP_DEVICES.items()}
            worst = max(values.values())
            rows += [
                judged(f"{which}.{label}.opb{ops}",
                       f"EDAP at {ops} Op/B, {label}, over the worst{text}", "1", None,
                       value / worst)
                for label, value in values.items()
            ]  # fmt: skip
    return rows


def utilisation() -> Prediction:
    """Share of the GPU's peak that Mixtral's experts use in a decoding-only stage, batch 128."""
    from opbyte.extend.answers import roofline

    result = roofline(MIXTRAL, f"{GPU}-{SIZES[MIXTRAL]}", batch=128, context=2048)
    peak = result.deployment.device.processors["xpu"].peak["fp16"]
    experts = next(op for op in result.ops if op.name == "experts")
    return Prediction("T25", experts.flops / experts.seconds / peak)
