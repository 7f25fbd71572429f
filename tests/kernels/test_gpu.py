"""On a GPU: are the kernels right at the sizes that are measured, and to the bit again?

The same launch code runs on any machine through the emulator, at small sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opbyte.kernels import experts, gpu, gpu_cases
from opbyte.kernels.check import WrongResult, require
from opbyte.kernels.gpu_layer_cases import CASES
from opbyte.kernels.gpu_measure import SPACES, search_gpu
from opbyte.kernels.timing import CallSeconds

from ..tables import tables
from . import emulate


def cupy_device() -> gpu.CupyDevice:
    """The GPU, or skip with the reason."""
    from opbyte.kernels.gpu_measure import open_device
    from opbyte.workloads.errors import InputError

    try:
        return open_device()
    except InputError as error:
        pytest.skip(str(error))


class EmulatedDevice:
    """A `gpu.Device` on the CPU: outputs start as NaN."""

    cores = 2

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.built: dict[tuple[str, ...], Any] = {}

    def empty(self, shape: Sequence[int], dtype: str) -> np.ndarray:
        return np.full(shape, np.nan, dtype)

    def run(
        self, source: str, macros: Sequence[str], kernel: str, grid: Sequence[int], block: int,
        args: Sequence[Any], shared_bytes: int = 0,
    ) -> None:  # fmt: skip
        key = (source, *macros)
        if key not in self.built:
            self.built[key] = emulate.Emulated(source, macros, self.folder)
        self.built[key](kernel, grid, block, *args)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> EmulatedDevice:
    if emulate.COMPILER is None:
        pytest.skip("no g++ to run CUDA sources on the CPU")
    return EmulatedDevice(tmp_path_factory.mktemp("emulated"))


@pytest.mark.parametrize(("tokens", "count", "k"), [(5, 8, 2), (70, 2, 2)])
def test_moe_layer_launches(emulated: EmulatedDevice, tokens: int, count: int, k: int) -> None:
    """Streamed weights, and (70 tokens an expert) tiled products."""
    rng = np.random.default_rng(0)
    hidden, inter, slots = 128, 128, tokens * k
    shapes = ((count, inter, hidden), (count, inter, hidden), (count, hidden, inter))
    w = [(rng.standard_normal(s, dtype=np.float32) / 8).astype("f2") for s in shapes]
    x = rng.standard_normal((tokens, hidden), dtype=np.float32).astype("f2")
    ids = np.stack([rng.permutation(count)[:k] for _ in range(tokens)]).astype(np.int32)
    weights = rng.random((tokens, k), np.float32)
    offsets, order, position = (np.full(n, -1, np.int32) for n in (count + 1, slots, slots))
    rows, h, y = (np.full((slots, n), np.nan, "f2") for n in (hidden, inter, hidden))
    out = np.full((tokens, hidden), np.nan, "f2")
    gpu.sort_slots(emulated, ids, count, offsets, order, position)
    gpu.gather(emulated, x, order, k, rows, "fp16")
    gpu.experts_layer(emulated, rows, offsets, *w, h, y, "fp16")
    gpu.combine(emulated, y, position, weights, out, "fp16")
    wide = experts.ExpertWeights(*(m.astype(np.float32) for m in w))
    want = experts.reference(x.astype(np.float32), ids, weights, wide)
    require(out, want, "fp16", "MoE layer")


def test_rows_of_odd_width_are_refused(emulated: EmulatedDevice) -> None:
    x, w, y = (np.zeros((1, 100), "f2") for _ in range(3))
    with pytest.raises(ValueError, match="multiple of 2,048"):
        gpu.rmsnorm(emulated, x, w, y, None, "fp16")


class NumpyAsCupy:
    """The few functions of CuPy that the cases call, by NumPy."""

    def __init__(self) -> None:
        self.random = self
        self.rng = np.random.default_rng(3)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def standard_normal(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(dtype)

    def permutation(self, count: int) -> np.ndarray:
        return self.rng.permutation(count)

    def asnumpy(self, x: np.ndarray) -> np.ndarray:
        return x.copy()


SMALL = tables(__file__)["small"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_cases_check_themselves(emulated: EmulatedDevice, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measured cases, in small, on the CPU: a right result passes, a wrong one does not."""
    monkeypatch.setattr(gpu_cases, "ROTATE_BYTES", 1)
    monkeypatch.setattr(emulated, "cupy", NumpyAsCupy(), raising=False)
    ready = case.prepare(emulated, SMALL[case.name])
    ready.poison()
    got, want = ready.results()
    with pytest.raises(WrongResult):
        require(got, want, ready.format_, "poisoned")
    ready.run(0)
    got, want = ready.results()
    require(got, want, ready.format_, case.name)
    assert ready.bytes > 0


class FakeClock:
    """Runs a call once and says how long the n-th configuration takes: the second one least."""

    def __init__(self) -> None:
        self.count = 0

    def sample(self, run: Any, repeats: int) -> CallSeconds:
        run(0)
        self.count += 1
        return CallSeconds(abs(self.count - 2.0) + 1.0, 0.0, 0.0, repeats, repeats)


class FakeCuda:
    """What is left of CuPy's device and memory pool."""

    Device = FakePool = lambda self=None: FakeCuda()

    def synchronize(self) -> None: ...

    def free_all_blocks(self) -> None: ...


WIDE = {
    **SMALL,
    "attention_decode": {**SMALL["attention_decode"], "kv_len": 700},
    "experts": {**SMALL["experts"], "tokens": 9},
}


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_every_configuration_is_right(emulated: EmulatedDevice, space: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search on the CPU: all configurations are checked, and the fastest and the default found."""
    fake = NumpyAsCupy()
    monkeypatch.setattr(fake, "cuda", FakeCuda(), raising=False)
    monkeypatch.setattr(fake, "get_default_memory_pool", FakeCuda, raising=False)
    monkeypatch.setattr(gpu_cases, "ROTATE_BYTES", 1)
    monkeypatch.setattr(emulated, "cupy", fake, raising=False)
    rates = iter([100.0, 103.0])
    shape = WIDE[space.name]
    (found,) = search_gpu(emulated, FakeClock(), lambda: next(rates), only=[space.name], shapes={space.name: [shape]})
    assert len(found.configs) == len(found.samples) > 1
    assert (found.best, found.steady) == (1, True)
    assert found.configs[found.default] == space.choices(shape, 2)[1]
    assert found.gain == abs(found.default - 1.0) + 1.0
    rows = found.rows()
    assert [row["default"] for row in rows].count(1) == 1
    assert all({*shape, *config} <= set(row) for row, config in zip(rows, found.configs, strict=True))


def test_a_wrong_configuration_is_refused(emulated: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = NumpyAsCupy()
    monkeypatch.setattr(fake, "cuda", FakeCuda(), raising=False)
    monkeypatch.setattr(gpu_cases, "ROTATE_BYTES", 1)
    monkeypatch.setattr(emulated, "cupy", fake, raising=False)
    monkeypatch.setattr(gpu, "decode", lambda *a, **k: None)  # leaves its output poisoned
    shapes = {"attention_decode": [SMALL["attention_decode"]]}
    with pytest.raises(WrongResult, match="splits"):
        search_gpu(emulated, FakeClock(), lambda: 1.0, only=["attention_decode"], shapes=shapes)


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
@pytest.mark.parametrize("quick", [True, False])
def test_spaces_hold_what_the_kernels_choose(space: Any, quick: bool) -> None:
    case = next(c for c in CASES if c.name == space.name)
    for shape in case.shapes(quick):
        for cores in (1, 2, 108, 132, 1000):
            configs, own = space.choices(shape, cores)
            assert own in configs
            assert len({tuple(c.items()) for c in configs}) == len(configs)
            assert all(n >= 0 for c in configs for n in c.values())


@pytest.mark.gpu
def test_quick_search() -> None:
    cupy_device()
    from opbyte.analysis.validate.measure_configs import measure_gpu_configs

    result = measure_gpu_configs(quick=True, only=("gemm",))
    assert all(one.gain >= 1.0 for one in result.found)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_measured_shapes_are_right_and_repeatable(case: Any) -> None:
    device = cupy_device()
    for shape in case.shapes(True):
        ready = case.prepare(device, shape)
        ready.poison()
        ready.run(0)
        got, want = ready.results()
        require(got, want, ready.format_, f"{case.name} {dict(shape)}")
        if shape.get("kernel") == "fused_add_rmsnorm":
            continue  # its residual is written: a second run has other inputs
        if "phase" in shape:
            continue  # and so are states
        for _ in range(19):
            ready.run(0)
            again, _ = ready.results()
            assert again.tobytes() == got.tobytes()


@pytest.mark.gpu
def test_quick_measurement() -> None:
    cupy_device()
    from opbyte.analysis.validate.measure import measure_machine

    result = measure_machine(backend="cupy", quick=True, lenient=True, only=("rmsnorm",))
    assert result.run.rows
    assert "| rmsnorm |" in result.summary()
