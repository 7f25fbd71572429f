"""Does the prediction of DeepSeek's inference system come out of steps, and is nothing judged?

Published values: analysis/papers/values/deepseek-serving.yaml. They are shown beside, never used.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from opbyte.analysis.papers import deepseek_serving, published
from opbyte.analysis.reproduce import reproduce
from opbyte.analysis.reproduce.base import figures_of


def test_rows_are_predictions_with_their_evidence() -> None:
    result = reproduce("deepseek-serving", figures=True)
    given = published.published("deepseek-serving")["rows"]
    assert {row.id: row.published for row in result.table} == given
    assert {row.status for row in result.table} == {"prediction"}
    prefill, decode, evidence = result.tables
    by_case = {row["case"]: row["tokens_per_s_node"] for row in (*prefill.rows, *decode.rows)}
    most = deepseek_serving.most_sequences()
    assert result.table[0].simulated == by_case["two-batch, 32 copies"]
    assert result.table[1].simulated == by_case[f"{most} a device, two-batch, 32 copies"]
    assert by_case["two-batch, 32 copies"] > by_case["no overlap, 0 copies"]
    assert {row["basis"] for row in evidence.rows} == {"fitted", "assumed"}
    assert set(figures_of(result)) == {"steps"}


def test_as_many_sequences_as_memory_holds() -> None:
    """KV of 61 layers of 576 values of 16 bit a token, beside the weights (DeepSeek-V3, section 4.2)."""
    d = deepseek_serving.deployed("two-batch", 32, "deepep-low-latency")
    each = 61 * 576 * 2 * 4097
    most = deepseek_serving.most_sequences()
    assert most * each <= d.memory().kv
    assert (most + 2) * each > d.memory().kv  # whole blocks
    assert d.experts[0].held == 9
    assert d.layout.ep == 32


def test_simulating_functions_read_no_published_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "VALUES", Path("nowhere"))
    assert len(list(deepseek_serving.predictions())) == 2
