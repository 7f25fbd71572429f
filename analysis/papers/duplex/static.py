"""What follows from the device descriptions alone: peaks, area, EDAP, utilisation, and how far the splitter is from the best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opbyte.extend import InputError, Table

from ..published import Prediction
from .cases import BANK, BANK_GROUP, BATCHES, ET, GLAM, GPU, GROK, MIXTRAL, PE, PLAIN, SIZES

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


EDAP_DEVICES = {"Bank-PIM": BANK, "BankGroup-PIM": BANK_GROUP, "Logic-PIM": PLAIN}
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


def area_mm2(device: str) -> float:
    """Area of a device, its stacks included [mm2].

    Units on the DRAM dies and units on the logic die count alike. A stack's dies, the DRAM ones
    too, are as large as the paper's logic die.
    """
    from opbyte.extend import load_device

    spec, name = near_processor(device)
    added = sum((spec.processors[name].area_mm2 or {}).values())
    die = spec.memory.logic_die_mm2 or load_device(PLAIN)[0].memory.logic_die_mm2 or 0.0
    return XPU_MM2 + spec.memory.stacks * ((DRAM_DIES + 1) * die + added)


def edap(device: str, op_per_byte: int) -> float:
    """Energy x delay x area of one GEMM with a 16384 x 4096 weight (Fig. 8) [J s mm2].

    The Op/B of such a GEMM is its number of input rows; one device's five stacks run it.
    """
    from opbyte.extend import Run, gemm
    from opbyte.extend.devices import build_device
    from opbyte.extend.models import Numerics

    spec, name = near_processor(device)
    op = gemm("fc", "ffn", "ffn", op_per_byte, 16384, 4096, Run(Numerics("fp16")))
    cost = build_device(spec).processors[name].model.cost(op)
    return cost.total_joules * cost.seconds * area_mm2(device)


def edap_rows() -> list[Prediction]:
    """Fig. 8: the paper's three designs at each Op/B, normalised to the worst."""
    rows = []
    for ops in EDAP_OPS:
        values = {label.removesuffix("-PIM").lower(): edap(device, ops) for label, device in EDAP_DEVICES.items()}
        rows += [Prediction(f"edap.{name}.opb{ops}", value / max(values.values())) for name, value in values.items()]
    return rows


def utilisation() -> Prediction:
    """Share of the GPU's peak that Mixtral's experts use in a decoding-only stage, batch 128."""
    from opbyte.extend.answers import roofline

    result = roofline(MIXTRAL, f"{GPU}-{SIZES[MIXTRAL]}", batch=128, context=2048)
    peak = result.deployment.device.processors["xpu"].peak["fp16"]
    experts = next(op for op in result.ops if op.name == "experts")
    return Prediction("T25", experts.flops / experts.seconds / peak)


DRAWS = 100
PROMPT = 1024
"""Tokens of the prompt in a mixed stage."""


def gaps() -> Table:
    """Seconds of the paper's split over the best subset of memory spaces, minus 1."""
    rows = [
        _gap(model, device, batch, prompt)
        for model, device in ((MIXTRAL, ET), (GLAM, PE), (GLAM, ET), (GROK, ET))
        for batch in BATCHES
        for prompt in (0, PROMPT)
    ]
    note = f"{DRAWS} samples of one device's experts each; 'splitter: optimal' in a system's mapping"
    return Table("splitter", "The paper's splitter against every subset of spaces", rows, note)


def _gap(model: str, device: str, batch: int, prompt: int) -> dict[str, Any]:
    """Compare the fastest and the slowest way to share one layer's experts between xPU and Logic-PIM."""
    import numpy as np

    from opbyte.extend import Loads, deploy, load_model, load_system
    from opbyte.extend.systems import processors_of, split_experts

    d = deploy(load_model(model), load_system(f"{device}-{SIZES[model]}"))
    part, spaces = d.experts[0], d.device.spec.memory.spaces
    main, near = processors_of(d.device)
    named = {p.name: p for p in (main, near)}
    rng = np.random.default_rng(0)
    relative_gaps = []
    for _ in range(DRAWS):
        routed = part.spec.routed
        scores = rng.random((batch + prompt, routed.experts))
        picks = np.argpartition(scores, routed.top_k, axis=1)[:, : routed.top_k]
        tokens = np.bincount(picks.ravel(), minlength=routed.experts)
        op = part.spec.expert_op(Loads.drawn(tokens[: routed.experts // part.ep]), d.run)
        paper, best = (
            max(
                named[name].model.cost(ops[0]).seconds
                for name, ops in split_experts(op, main, near, spaces, splitter).tracks.items()
            )
            for splitter in ("paper", "optimal")
        )
        relative_gaps.append(paper / best - 1)
    return {
        "model": model, "device": device, "batch": batch,
        "stage": "mixed" if prompt else "decoding-only",
        "mean gap": float(np.mean(relative_gaps)), "largest gap": float(np.max(relative_gaps)),
    }  # fmt: skip
