"""Whole modules of latent attention, which no family is fitted to, beside their parts and the sums of them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from opbyte.devices.calibrated.model import CalibratedModel, calibrated_model
from opbyte.devices.catalog import load_device
from opbyte.devices.device import build_device
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.layers import LatentAttention
from opbyte.workloads.layers.base import Run
from opbyte.workloads.numerics import Numerics


@dataclass(frozen=True)
class Module:
    """A measured module, and seconds of its parts by name."""

    framework: str
    device: str
    phase: str
    format: str
    tokens: float
    keys: float
    measured: float
    parts: dict[str, float]


@pytest.fixture(scope="module")
def modules(data_set: Callable[[str], Path]) -> list[Module]:
    with (data_set("measured_2026") / "mla_module.csv").open(encoding="utf-8") as file:
        return list(_modules(list(csv.DictReader(file))[::2]))


def _modules(rows: list[dict[str, str]]) -> Iterator[Module]:
    layer = load_model("deepseek-v3").layers[0].mixer
    assert isinstance(layer, LatentAttention)
    models: dict[tuple[str, str], CalibratedModel] = {}
    for row in rows:
        framework = row["source"].removeprefix("aiconfigurator/").partition("-")[0]
        batch, q, prefix, heads = (int(row[name]) for name in ("batch", "q_len", "kv_prefix", "heads"))
        if row["phase"] == "context":
            step = Batch.of((), [(q, prefix)] * batch)
        else:  # SGLang's rows have their keys in `q_len`: what they take rises with it as with keys
            prefix, q = (q if framework == "sglang" else prefix - 1), 1
            step = Batch.of([prefix] * batch)
        key = row["device"], framework
        if key not in models:
            models[key] = _model(*key)
        weights = () if row["gemm_dtype"] == "bf16" else (("attention", row["gemm_dtype"]),)
        run = Run(Numerics(weights=weights, kv=row["kv_dtype"]), whole=True)
        ops = layer.shard(layer.heads // heads).ops(step.moments((0,)), run, None)
        parts = {op.name: models[key].cost(op).seconds for op in ops}
        yield Module(framework, row["device"], row["phase"], row["gemm_dtype"], batch * q, batch * (prefix + q),
                     float(row["measured_s"]), parts)  # fmt: skip


def _model(device: str, framework: str) -> CalibratedModel:
    spec = load_device(device)[0]
    ((name, processor),) = spec.processors.items()
    return calibrated_model(spec, processor, build_device(spec).processors[name].base, framework)


def test_a_part_takes_no_longer_than_the_whole_that_holds_it(modules: list[Module]) -> None:
    """Prompts of 4,096 tokens and more; decodes that read 65,536 keys and more, of which little else is left, within an eighth.

    Not vLLM's decodes on RTX PRO 6000, whose cache in fp8 other libraries' rows tell: TensorRT-LLM's kernel there walks all keys of a
    sequence one after another (docs/calibration.md).
    """
    shares: dict[tuple[str, str, str], list[float]] = {}
    for m in modules:
        prompt = m.phase == "context"
        if m.tokens < 4096 if prompt else m.keys < 65536 or (m.device.startswith("RTX") and m.framework == "vllm"):
            continue
        part = m.parts["mla_prefill" if prompt else "mla_decode"]
        shares.setdefault((m.device, m.framework, m.phase), []).append(part / m.measured)
    assert len(shares) == 33
    for key, found in shares.items():
        assert np.quantile(found, 0.9) < (1.0 if key[2] == "context" else 1.13), key


def test_ops_of_a_step_add_up_to_modules_either_way(modules: list[Module]) -> None:
    """TensorRT-LLM's, of which no part is fitted to a module: signed medians in 16 bits and in block-scaled fp8."""
    errors: dict[tuple[str, str, str], list[float]] = {}
    for m in modules:
        if m.framework == "trtllm" and m.format != "nvfp4" and (m.phase == "generation" or m.tokens >= 4096):
            errors.setdefault((m.device, m.phase, m.format), []).append(sum(m.parts.values()) / m.measured - 1.0)
    medians = {key: float(np.median(found)) for key, found in errors.items()}
    assert len(medians) == 24
    assert max(map(abs, medians.values())) < 0.09, medians
    assert abs(float(np.median(list(medians.values())))) < 0.02
