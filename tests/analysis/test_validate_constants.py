"""Are constants that see deployments scored by what their fits left out, and told from those that do not carry over?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opbyte.analysis.validate.constants import TIMES, ConstantRow, score

Ask = Callable[..., Any]


def row(model: str, source: str, true: float, base: float = 10.0) -> ConstantRow:
    """A time of which `true` times a constant of 2 is a part."""
    return ConstantRow("c", model, "h100", source, base + 2.0 * true, tuple(base + 2.0 * times for times in TIMES))


def test_a_constant_that_all_rows_show_carries_over() -> None:
    found = score("c", [row(m, s, 1.0) for m in "abc" for s in "xy"])
    assert (found["n"], found["error"], found["best"]) == (6, pytest.approx(0.0), pytest.approx(1.0))
    assert found["without"] == pytest.approx(1.0 - 10.0 / 12.0)
    assert [found[f"{axis}_error"] for axis in ("model", "source")] == pytest.approx([0.0, 0.0])
    assert (found["model_low"], found["model_high"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert found["device_error"] is None  # there is one
    assert found["carries_over"] is True


def test_a_constant_of_one_model_alone_does_not() -> None:
    """What the others lack is a cost to them."""
    rows = [row("a", "x", 1.0)] * 5 + [row("b", "x", 0.0)] * 4 + [row("c", "x", 0.0)] * 2
    found = score("c", rows)
    assert found["model_error"] > found["without"]
    assert found["carries_over"] is False
    assert score("c", rows[:5])["carries_over"] is None


ANL = """source,device,count,model,framework,precision,parallelism,isl,osl,load,metric,value,unit,note
anl,Nvidia A100 GPU,1,meta-llama/Llama-2-7b-hf,vllm,fp16,tp1,128,128,static_batch=1,batch_latency,1.8,s,
anl,Nvidia H100 GPU,1,meta-llama/Llama-2-7b-hf,vllm,fp16,tp1,128,128,static_batch=1,batch_latency,1.0,s,
"""


def test_static_batches_of_an_early_engine(tmp_path: Path, ask: Ask) -> None:
    path = tmp_path / "anl.csv"
    path.write_text(ANL)
    told = ask("validate", "constants", str(path), "--json").json()
    (own,) = told["rows"]
    assert own["constant"] == "host of vllm from 0.0"
    assert own["n"] == 2
    assert own["error"] < own["without"]
    assert own["device_low"] is not None
    assert own["model_low"] is None
    path.write_text(ANL.replace(",vllm,", ",vllm 0.19,"))
    assert "has no row" in ask("validate", "constants", str(path)).refused()
