"""Are the models of unequal contexts held to the measured ones, and bad rows named?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opbyte.analysis.validate.kernels import validate_kernels
from opbyte.analysis.validate.unequal import BLOCKS, MEAN
from opbyte.workloads.errors import InputError

HEAD = (
    "source,device,dtype,heads_q,heads_kv,head_dim,prefill_tokens,prefill_context,decode_seqs,"
    "long_seqs,short_context,long_context,mean_context,uniform_mean_s,uniform_max_s,measured_s\n"
)


def test_the_models_meet_their_bounds(data_set: Callable[[str], Path]) -> None:
    """Blocks of the kernel against 39,027 calls: half of the error of the mean context, and less."""
    result = validate_kernels([data_set("measured_more") / "attention_skew.csv"])
    assert result.passed
    assert not result.skipped
    by = {(check.device, check.basis): check.errors for check in result.checks}
    assert by["rtx-4090", BLOCKS].rows + by["rtx-pro-6000", BLOCKS].rows == 39027
    for device in ("rtx-4090", "rtx-pro-6000"):
        blocks, mean = by[device, BLOCKS], by[device, MEAN]
        assert blocks.median_ape < 0.6 * mean.median_ape
        assert blocks.p90_ape < 0.5 * mean.p90_ape


def table(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "attention_skew.csv"
    path.write_text(HEAD + "".join(f"{row}\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x,rtx-4090,bf16,32,8,128,0,0,4,5,128,512,320,1e-5,1e-5,1e-5", "do not agree"),
        ("x,rtx-4090,bf16,32,8,128,0,0,4,1,128,512,500,1e-5,1e-5,1e-5", "do not agree"),
        ("x,no-such-gpu,bf16,32,8,128,0,0,4,1,128,512,224,1e-5,1e-5,1e-5", "no-such-gpu"),
        ("x,h100,bf16,32,8,128,0,0,4,1,128,512,224,1e-5,1e-5,1e-5", "no model"),
        ("x,rtx-4090,bf16,32,8,128,0,0,4,1,128,512,224,0,1e-5,1e-5", "uniform_mean_s is '0'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: str, reason: str) -> None:
    """A table of nothing else leaves nothing to compare."""
    with pytest.raises(InputError, match=rf"hold no row that can be compared; .*:2: .*{reason}"):
        validate_kernels([table(tmp_path, row)])


def test_predictions_name_their_basis(tmp_path: Path) -> None:
    rows = [
        f"x,rtx-4090,bf16,32,8,128,{tokens},0,{n},1,{short},{4 * short},{short + 3 * short / n},"
        f"{1e-5 * n * short},{3e-5 * n * short},{2e-5 * n * short}"
        for n in (4, 8, 16) for short in (256, 512, 1024) for tokens in (0, 16)
    ]  # fmt: skip
    found = validate_kernels([table(tmp_path, *rows)]).predictions()
    assert set(found["basis"]) == {"thread blocks", "mean context", "kernel models"}
    assert np.isfinite(found["predicted_s"]).all()
