"""Do the fitted models behave physically: more work never faster, far shapes near the roofline?

The expected bounds are the physics itself: no kernel beats the device's roofline, and a large,
regular one stays within three times it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest

from opbyte.devices.calibrated import attention_decode
from opbyte.devices.calibrated.family import families
from opbyte.devices.calibrated.hardware import C_16, hardware
from opbyte.devices.calibrated.model import Model
from opbyte.devices.calibrated.rules import parameters
from opbyte.devices.calibrated.terms import COLD
from opbyte.devices.catalog import load_device

F8 = npt.NDArray[np.float64]
DEVICES = ("a100-80gb", "h100", "l40s", "mi300x", "rtx-4090")


def model(device: str, family: str) -> Model:
    spec = load_device(device)[0]
    return Model(families()[family], parameters(spec, families()[family]), hardware(spec))


def powers(rng: np.random.Generator, low: int, high: int, count: int) -> F8:
    """Random sizes between two powers of 2."""
    return np.floor(2.0 ** rng.uniform(low, high, count))


def decode(rng: np.random.Generator, n: int) -> F8:
    kv_heads, group = powers(rng, 0, 4, n), powers(rng, 0, 6, n)
    dim = rng.choice([64, 128, 192, 256], n)
    return np.column_stack(
        [powers(rng, 0, 10, n), powers(rng, 0, 17, n), kv_heads * group, kv_heads, dim,
         rng.choice([1, 2], n), np.ones(n), rng.choice([1, COLD], n),
         rng.choice([attention_decode.XQA_HEADS, attention_decode.NO_LIMIT], n),
         rng.choice([0, 1], n), rng.choice([-1, 0, 3], n), np.ones(n)]
    )  # fmt: skip


def prefill(rng: np.random.Generator, n: int) -> F8:
    kv_heads, group = powers(rng, 0, 4, n), powers(rng, 0, 4, n)
    q = powers(rng, 0, 14, n)
    return np.column_stack(
        [powers(rng, 0, 6, n), q, (q + 1) / 2, q, kv_heads * group, kv_heads,
         rng.choice([64, 128, 256], n), np.zeros(n), np.zeros(n), rng.choice([0, 1], n),
         np.full(n, 2.0), np.ones(n), rng.choice([0, 1], n), q * rng.choice([0, 1], n),
         rng.choice([-1, 0, 5], n)]
    )  # fmt: skip


def latent(rng: np.random.Generator, n: int) -> F8:
    keys = powers(rng, 0, 17, n)
    return np.column_stack(
        [np.zeros(n), powers(rng, 0, 10, n), np.ones(n), keys, keys, powers(rng, 0, 7, n),
         rng.choice([1, 2], n), rng.choice([1, COLD], n)]
    )  # fmt: skip


def experts(rng: np.random.Generator, n: int) -> F8:
    active = powers(rng, 0, 7, n)
    routed = active * powers(rng, 0, 10, n)
    return np.column_stack(
        [routed * powers(rng, 0, 3, n), routed, powers(rng, 10, 13, n), powers(rng, 7, 14, n),
         np.full(n, 3.0), active * 2, active, np.zeros(n), np.zeros(n), np.full(n, 2.0),
         np.ones(n), rng.choice([1, COLD], n), np.full(n, 8.0), np.zeros(n)]
    )  # fmt: skip


def vectors(rng: np.random.Generator, n: int) -> F8:
    return np.column_stack(
        [powers(rng, 0, 17, n), powers(rng, 6, 14, n), rng.choice([2, 3, 4], n), np.full(n, 2.0),
         rng.integers(0, 4, n), rng.integers(0, 2, n), np.zeros(n), np.zeros(n)]
    )  # fmt: skip


def products(rng: np.random.Generator, n: int) -> F8:
    """Cold bf16 GEMMs."""
    m, width, k = (powers(rng, 0, 14, n) for _ in range(3))
    given = np.tile([1, 0, 2, 2, 0, COLD, 0, 0], (n, 1))
    return np.column_stack([m, width, k, given])


def messages(rng: np.random.Generator, n: int, kinds: int = 2) -> F8:
    return np.column_stack([powers(rng, 8, 30, n), rng.choice([2, 4, 8], n), rng.integers(0, kinds, n)])


exchanges = partial(messages, kinds=4)


def groups(rng: np.random.Generator, n: int) -> F8:
    return np.column_stack(
        [powers(rng, 0, 7, n), powers(rng, 0, 12, n), powers(rng, 8, 13, n), powers(rng, 8, 13, n),
         np.full(n, C_16), np.full(n, 2.0), np.full(n, 2.0), rng.integers(0, 2, n)]
    )  # fmt: skip


# Family, rows at random, and sets of quantities that grow together.
GROWTH = [
    ("attention_decode", decode, [
        ("batch",), ("keys",),
        ("heads_kv", "heads_q"), ("heads_q",),
    ]),
    ("attention_prefill", prefill, [
        ("batch",),
        ("q", "keys", "kv",
         "hidden"),
        ("heads_q",),
    ]),
    ("mla", latent, [("batch",), ("keys", "kv"), ("heads",)]),
    ("moe", experts, [("slots", "routed"), ("hidden",), ("inter",)]),
    ("norm", vectors, [("rows",), ("cols",)]),
    ("allreduce", messages, [("bytes",)]),
    ("collectives", exchanges, [("bytes",)]),
    ("grouped_gemm", groups, [
        ("groups",), ("m_per_group",), ("n",), ("k",),
    ]),
    ("gemm", products, [("m",), ("n",), ("k",)]),
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("family", "draw", "grown"), GROWTH, ids=lambda v: v if isinstance(v, str) else "")
def test_more_work_is_never_faster(
    family: str, draw: Callable[[np.random.Generator, int], F8], grown: list[tuple[str, ...]], device: str
) -> None:
    rng = np.random.default_rng(0)
    known = model(device, family)
    x = np.asarray(draw(rng, 400), dtype=float)
    for names in grown:
        more, columns = x.copy(), [known.family.quantities.index(name) for name in names]
        more[:, columns] = more[:, columns] * rng.integers(2, 8, (400, 1))
        assert (known.seconds(more) >= known.seconds(x) * (1 - 1e-9)).all(), names


# Ten times the largest batch, context, tokens or message of the tables, in the shape of a model.
FAR = {
    "attention_decode": [[20480, 8192, 32, 8, 128, 2, 1, COLD, 1e9, 0, -1, 1],
                         [64, 1310720, 64, 8, 128, 2, 1, COLD, 1e9, 0, -1, 1]],
    "attention_prefill": [[1, 163840, 81920.5, 163840, 32, 8, 128, 0, 0, 0, 2, 1, 0, 0, -1]],
    "mla": [[0, 10240, 1, 8192, 8192, 128, 2, COLD], [0, 64, 1, 1310720, 1310720, 16, 2, COLD]],
    "moe": [[655360 * 2, 655360 * 2, 4096, 14336, 3, 8, 8, 0, 0, 2, 1, COLD, 8, 0]],
    "norm": [[1310720, 8192, 2, 2, 2, 1, 0, 0], [65536, 81920, 3, 2, 1, 1, 0, 0],
             *([1e6, 8192, t, 2, kind, 1, 0, 0] for t, kind in ((2, 0), (4, 2), (3, 1), (2, 3)))],
    "collectives": [[1e10, 8, 0], [1e10, 8, 1]],
    "allreduce": [[1e10, 8, 0]],
    "grouped_gemm": [[8, 81920, 4096, 7168, 0, 2, 2, 0]],
    "gemm": [[*shape, 1, 0, 2, 2, 0, COLD, 0, 0]
             for shape in ((65536, 65536, 65536), (327680, 65536, 8192), (8, 655360, 16384))],
}  # fmt: skip


FAR_ON = [(family, device) for family in FAR for device in ("a100-80gb", "h100", "h200")]
FAR_ON += [("gemm", device) for device in ("l40s", "mi300x", "b200")]


@pytest.mark.parametrize(("family", "device"), FAR_ON)
def test_far_outside_the_tables_the_model_stays_near_the_roofline(family: str, device: str) -> None:
    if (family, device) == ("mla", "a100-80gb"):
        pytest.skip("its measured kernels do not split the keys: their longest are 2.6 to 13.7 rooflines")
    known = model(device, family)
    x = np.array(FAR[family], dtype=float)
    ratio = known.seconds(x) / known.family.roofline(known.h, x)
    assert (ratio >= 1).all()
    assert (ratio <= 3).all(), ratio


def test_vector_units_compute_only_the_rows_of_a_prompt_that_there_are() -> None:
    """A matrix unit's tile of 128 rows costs the same for 16 queries as for 32."""
    h100 = model("h100", "attention_prefill")
    x = np.array(
        [[1, q, 512 + 0.5 * (q + 1), 512 + q, 16, 16, 128, 0, 1, 0, 2, 0, 0, 0, -1] for q in (16, 32)], dtype=np.float64
    )
    values, vector = h100.known.fit.values.copy(), h100.h.copy()
    values[h100.family.index("min_waves")] = 0.05
    vector.matrix_rows = 1.0
    tiles, rows = (h100.family.seconds(values, h, x) for h in (h100.h, vector))
    assert tiles[1] / tiles[0] < 1.1
    assert rows[0] < rows[1] <= tiles[1]
    assert rows[0] < tiles[0]
