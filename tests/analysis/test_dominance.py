"""Is a device with higher peaks ever slower, or fp8 slower than bf16, with the same kernels?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from opbyte.analysis.validate.kernel_sets import BATCHES, MODELS, OTHER, Step, StepSweep, products, sweep
from opbyte.devices.calibrated.family import F8, families
from opbyte.devices.calibrated.hardware import hardware
from opbyte.devices.calibrated.kernel_sets import FRAMEWORKS, MEASURED, TYPICAL, shared_parameters
from opbyte.devices.calibrated.model import Model
from opbyte.devices.calibrated.order import at_least_as_good, has_unit
from opbyte.devices.catalog import load_device
from opbyte.devices.spec import DeviceSpec

BOUNDED = tuple(name for name in FRAMEWORKS if name != MEASURED)
TOLERANCE = 0.03


def seconds_of(over: StepSweep, spec: DeviceSpec, framework: str) -> F8:
    """Seconds of every step on one device under a framework."""
    h = hardware(spec)
    total = np.zeros(len(over.steps))
    for name, probes in over.probes.items():
        if name == OTHER:
            total += np.asarray(probes.calls @ (probes.x[:, 0] / h.bandwidth))
        else:
            family = families()[name]
            model = Model(family, shared_parameters(spec, family, framework), h)
            total += np.asarray(probes.calls @ model.seconds(probes.x))
    return total


@dataclass(frozen=True, slots=True)
class Violation:
    """A step that takes longer where it may not.

    Attributes
    ----------
    device, than : str
        The better device and the other; the same where fp8 is compared with bf16.
    ratio : float
        Seconds over those of the other.
    """

    device: str
    than: str
    step: Step
    ratio: float


def violations(over: StepSweep, framework: str, tolerance: float) -> tuple[int, list[Violation]]:
    """Compare all ordered pairs of devices, and fp8 with bf16 on devices with the unit.

    Peaks are those of 16, 8 and 4 bits and of memory; that of 8-bit integers where a step computes
    in them, and the link where it uses several devices.

    Returns
    -------
    int
        Comparisons made.
    list of Violation
        Those past the tolerance, worst first.
    """
    specs = products()
    times = {name: seconds_of(over, spec, framework) for name, spec in specs.items()}
    count, out = 0, []
    for one, spec in specs.items():
        for other, than in specs.items():
            if one == other or not at_least_as_good(spec, than):
                continue
            asked = np.ones(len(over.steps), dtype=bool)
            if not at_least_as_good(spec, than, whole_numbers=True):
                asked &= ~over.where("int8")
            if not at_least_as_good(spec, than, linked=True):
                asked &= ~over.linked
            at = np.flatnonzero(asked)
            count += len(at)
            out += _over(one, other, over, at, times[one][at] / times[other][at], tolerance)
        if has_unit(spec, "fp8"):
            narrow, wide = over.narrowed()
            count += len(narrow)
            out += _over(one, one, over, narrow, times[one][narrow] / times[one][wide], tolerance)
    return count, sorted(out, key=lambda v: -v.ratio)


def _over(
    one: str, other: str, over: StepSweep, at: npt.NDArray[np.int64], ratio: F8, tolerance: float
) -> list[Violation]:
    return [Violation(one, other, over.steps[at[i]], float(ratio[i])) for i in np.flatnonzero(ratio > 1.0 + tolerance)]


@pytest.fixture(scope="module")
def some() -> StepSweep:
    """A sample of the whole sweep, the same in every run; `sweep()` is all of it."""
    rng = np.random.default_rng(15)
    models = ["mixtral-8x7b", "deepseek-v2-lite", "gpt-oss-20b", *rng.choice(MODELS, 4)]
    batches = [(1, 512, 0), (0, 0, 16384), *(BATCHES[i] for i in rng.choice(len(BATCHES), 4))]
    return sweep(list(dict.fromkeys(models)), [None, "bf16", "fp8", "nvfp4"], (1, 8), batches)


@pytest.mark.parametrize("framework", BOUNDED)
def test_a_device_with_higher_peaks_is_never_slower(some: StepSweep, framework: str) -> None:
    count, found = violations(some, framework, TOLERANCE)
    assert count > 10_000
    assert found == []


@pytest.mark.parametrize("framework", [TYPICAL, MEASURED])
def test_four_bits_are_quicker_than_eight_in_large_steps(some: StepSweep, framework: str) -> None:
    """On Blackwell, one device, from 256 tokens on: below, and in shares of eight devices, rows say otherwise."""
    at = {step: i for i, step in enumerate(some.steps)}
    large = [s for s in at if s.dtype == "nvfp4" and s.degree == 1 and max(s.decodes, s.prompt) >= 256]
    narrow, wide = np.array([(at[s], at[replace(s, dtype="fp8")]) for s in large]).T
    for name in ("b200", "b300", "gb200", "gb300", "rtx-pro-6000", "rtx-5090"):
        seconds = seconds_of(some, products()[name], framework)
        assert (seconds[narrow] <= seconds[wide] * (1 + TOLERANCE)).all(), name


MANY = ("llama-3.1-8b", "llama-3-70b", "llama-2-7b", "llama-2-13b", "mistral-7b", "qwen2.5-7b",
        "qwen2.5-32b", "qwen3-32b", "gemma-2-27b", "mixtral-8x7b", "qwen3-30b-a3b",
        "qwen3-235b-a22b", "deepseek-v2-lite", "deepseek-v3", "gpt-oss-20b", "gpt-oss-120b",
        "glm-4.5", "phi-3.5-moe", "llama-4-scout", "minimax-m2")  # fmt: skip


def test_on_twenty_models_four_formats_and_any_batch() -> None:
    """Every pair of devices with comparable peaks; decodes of 1 to 1,024, prompts of 16 to 8,192."""
    batches = [(b, 4096, 0) for b in (1, 16, 256, 1024)] + [(0, 0, 16), (0, 0, 8192)]
    whole = sweep(MANY, (None, "bf16", "fp8", "fp8_block"), (1,), batches)
    count, found = violations(whole, TYPICAL, TOLERANCE)
    assert count > 50_000
    assert found == []


def test_the_rows_alone_would_break_that(some: StepSweep) -> None:
    # So the test can fail: fits of each device alone follow its rows, whichever these are.
    _, found = violations(some, MEASURED, TOLERANCE)
    assert len(found) > 1000


@pytest.mark.parametrize(
    ("part", "key", "unit"),
    [("memory", "bandwidth_GBps", 1e9), ("memory", "cache_MiB", 2**20), ("xpu", "clock_MHz", 1e6)],
)
def test_more_of_a_device_never_hurts(some: StepSweep, tmp_path: Path, part: str, key: str, unit: float) -> None:
    """What is changed under `extends` keeps the kernels of the device it was."""
    for name, spec in products().items():
        given_value = {
            "bandwidth_GBps": spec.memory.bandwidth_bytes_per_s,
            "cache_MiB": spec.memory.cache_bytes,
            "clock_MHz": spec.processors["xpu"].clock_Hz or 0.0,
        }[key]
        line = f'{key}: {{value: {2.0 * given_value / unit:.9g}, source: "assumed: twice"}}'
        block = f"memory:\n  {line}" if part == "memory" else f"processors:\n  xpu:\n    {line}"
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"extends: {name}\nname: {name}-more\n{block}\n", encoding="utf-8")
        more, _ = load_device(path)
        assert more.kernels == spec.kernels
        values = {}
        for family in (f for f in some.probes if f != OTHER):
            one, two = (shared_parameters(s, families()[family]).fit.values for s in (spec, more))
            assert one.tolist() == two.tolist()
            values[family] = one
        before, after = some.seconds(spec, values), some.seconds(more, values)
        assert (after <= before * (1.0 + 1e-9)).all(), name
