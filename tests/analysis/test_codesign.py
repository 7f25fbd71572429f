"""Do gains of a changed device keep to what the tile model promises, and are levels the terms'?"""

from __future__ import annotations

import numpy as np
import pytest

from opbyte.analysis.answers.codesign import LEVELS, gains, levels
from opbyte.analysis.answers.tune import tune
from opbyte.workloads.errors import InputError

SHAPE = {"tokens": 256, "experts": 64, "topk": 8, "hidden": 2048, "inter": 1408, "cold": 1}


def test_a_kernel_that_may_change_gains_no_less_than_one_that_may_not() -> None:
    more = {"shared_memory_KiB": 2, "cache_MiB": 2, "bandwidth_GBps": 2, "cores": 1.5}
    found = gains("fused_moe", SHAPE, "h100", more)
    assert list(found["change"]) == ["2x shared memory", "2x cache", "2x bandwidth", "1.5x cores"]
    assert (found["chosen"] >= found["kept"] - 1e-12).all()
    assert (found["chosen"] >= 1.0 - 1e-12).all()
    assert found["chosen"].max() <= 2.0 + 1e-12


def test_a_kernel_that_cannot_run_any_more_has_no_time() -> None:
    less = gains("fused_moe", {**SHAPE, "tokens": 4096}, "h100", {"shared_memory_KiB": 0.1})
    assert np.isnan(less["kept"][0])
    assert 0.0 < less["chosen"][0] < 1.0


def test_levels_are_the_terms_at_nominal_bandwidths() -> None:
    found = tune("fused_moe", SHAPE, "h100", top=5)
    table = levels(found, 1e12)
    assert len(table) == len(LEVELS) * 5
    first = table[table["level"] == "memory"].iloc[0]
    moved = found.tuned.ranked[0].terms["memory"] * 1e9 * found.tuned.machine.value("bandwidth_GBps")
    assert first["op_per_byte"] == pytest.approx(1e12 / moved)
    assert (table["achieved_flops"] <= table["roof_flops"] * (1 + 1e-9)).all()
    with pytest.raises(InputError, match="none of memory, cache"):
        levels(found, 1e12, ["disk"])
