"""Does the model of the CPU kernels obey physics, and does it follow the loops it speaks of?

The measured side is in `tests/analysis/test_measure_configs.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.devices.tiles.cpu import FORMS, Core

CORE = Core(16, 32, 48 << 10, 1 << 20, 32 << 20, 250e9, 28e9, 225e9, 100e9)
GEMM = {"register_m": 6, "register_n": 4, "block_m": 0, "block_n": 64}
ATTENTION = {"tile": 64, "chunk": 1024, "block": 16}

gemm_shapes = st.fixed_dictionaries(
    {"m": st.integers(1, 600), "n": st.integers(1, 1024).map(lambda n: 4 * n),
     "k": st.integers(1, 256).map(lambda k: 16 * k)}
)  # fmt: skip
gemm_configs = st.fixed_dictionaries(
    {"register_m": st.integers(1, 8), "register_n": st.sampled_from([4, 8]),
     "block_m": st.sampled_from([0, 8, 64]), "block_n": st.sampled_from([0, 16, 64, 256])}
)  # fmt: skip
heads = st.sampled_from([(4, 1), (16, 4), (32, 8), (8, 8)])
decodes = st.builds(
    lambda h, b, n, d: {"batch": b, "kv_len": n, "heads_q": h[0], "heads_kv": h[1], "head_dim": d,
                        "window": 0},
    heads, st.integers(1, 8), st.integers(1, 5000), st.sampled_from([64, 128]),
)  # fmt: skip
prefills = st.builds(
    lambda h, q, p, d: {"batch": 1, "q_len": q, "kv_prefix": p, "heads_q": h[0], "heads_kv": h[1],
                        "head_dim": d, "window": 0},
    heads, st.integers(2, 300), st.integers(0, 600), st.sampled_from([64, 128]),
)  # fmt: skip
attention_configs = st.builds(
    lambda t, c, b: {"tile": t, "chunk": c, "block": b},
    st.sampled_from([32, 64, 128, 256]), st.sampled_from([64, 1024]), st.integers(1, 32),
)  # fmt: skip
cases = st.one_of(
    st.tuples(st.just("gemm"), gemm_shapes, gemm_configs),
    st.tuples(st.just("attention_decode"), decodes, attention_configs),
    st.tuples(st.just("attention_prefill"), prefills, attention_configs),
)
RATES = ("fma_flops_per_s", "read_Bps", "l2_Bps", "l3_Bps")


def seconds(core: Core, case: tuple[str, dict[str, int], dict[str, int]]) -> float:
    form = FORMS[case[0]]
    return form.seconds(form.start, core, case[1], case[2])


@given(cases, st.sampled_from(RATES), st.floats(1.1, 4.0))
def test_a_faster_core_is_never_slower(case: Any, rate: str, factor: float) -> None:
    faster = replace(CORE, **{rate: factor * getattr(CORE, rate)})
    assert seconds(faster, case) <= seconds(CORE, case) * (1 + 1e-9)


@given(cases, st.sampled_from(["l1_bytes", "l2_bytes", "l3_bytes"]))
def test_a_larger_cache_is_never_slower(case: Any, cache: str) -> None:
    larger = replace(CORE, **{cache: 2 * getattr(CORE, cache)})
    if larger.l1_bytes <= larger.l2_bytes <= larger.l3_bytes:
        assert seconds(larger, case) <= seconds(CORE, case) * (1 + 1e-9)


@given(cases)
def test_no_time_is_below_arithmetic_at_peak_or_reading_at_the_read_rate(case: Any) -> None:
    name, shape, _ = case
    found = seconds(CORE, case)
    if name == "gemm":
        flops = 2.0 * shape["m"] * shape["n"] * shape["k"]
        read = 4.0 * shape["n"] * shape["k"]
    else:
        new = shape.get("q_len", 1)
        keys = shape["kv_len"] if "kv_len" in shape else new + shape["kv_prefix"]
        pairs = new * (keys - new) + new * (new + 1) / 2
        flops = 4.0 * shape["batch"] * shape["heads_q"] * shape["head_dim"] * pairs
        read = 8.0 * shape["batch"] * shape["heads_kv"] * shape["head_dim"] * keys
    assert found >= flops / CORE.fma_flops_per_s
    assert found >= read / CORE.read_Bps


def test_the_terms_follow_the_loops() -> None:
    """Hand counts: a product of 6 rows is one pass of the weights; of 12 rows two, one from a cache."""
    form, shape = FORMS["gemm"], {"m": 6, "n": 64, "k": 1024}
    one = form.terms(form.start, CORE, shape, GEMM)
    two = form.terms(form.start, CORE, {**shape, "m": 12}, GEMM)
    slots = 16 * (1024 / 16 * 24 + form.start["tile"])
    assert one["arithmetic"] == pytest.approx(slots * CORE.slot_s)
    assert two["arithmetic"] == pytest.approx(2 * slots * CORE.slot_s)
    assert one["cache"] == 0.0
    assert two["cache"] > 0.0


def test_choices_go_where_physics_points() -> None:
    """Sums that wait for their adders lose at many rows; short chunks lose at long contexts."""
    gemm, decode = FORMS["gemm"], FORMS["attention_decode"]
    many = {"m": 256, "n": 1024, "k": 1024}
    narrow = gemm.seconds(gemm.start, CORE, many, {**GEMM, "register_m": 1})
    assert narrow > 2.0 * gemm.seconds(gemm.start, CORE, many, GEMM)
    long = {"batch": 1, "kv_len": 4096, "heads_q": 16, "heads_kv": 4, "head_dim": 64, "window": 0}
    cut = decode.seconds(decode.start, CORE, long, {**ATTENTION, "chunk": 64})
    assert cut > 1.05 * decode.seconds(decode.start, CORE, long, ATTENTION)
