"""Do designs stand beside the right models, and does their time follow what bounds it?"""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from opbyte.analysis.papers import zoo as module
from opbyte.analysis.papers.figures.papers import RATIOS, bought
from opbyte.analysis.papers.zoo import DESIGNS, STEPS, zoo


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return zoo()


def test_every_design_has_every_step(table: pd.DataFrame) -> None:
    assert len(table) == len(DESIGNS) * len(STEPS)
    assert (table[["parameters", *RATIOS, "op_per_byte", "us"]] > 0).all().all()
    figure = bought(table, "A title")
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == list(STEPS)


def test_a_model_beside_itself_saves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    same = tuple(replace(design, plain=design.model) for design in DESIGNS[3:6])
    monkeypatch.setattr(module, "DESIGNS", same)
    assert (zoo(("1 decode at 2,048",))[["parameters", *RATIOS]] == 1.0).all().all()


def test_time_follows_what_bounds_it(table: pd.DataFrame) -> None:
    """Of large models; starts of kernels are most of small ones' steps."""
    found = table.set_index(["design", "step"])
    sparse = found.loc["DeepSeekMoE, 2 + 6 of 64"]
    prompt, batch, single = (sparse.loc[step] for step in STEPS)
    assert prompt["time"] == pytest.approx(prompt["FLOPs"], rel=0.25)
    assert batch["time"] == pytest.approx(batch["bytes"], rel=0.05)
    assert batch["FLOPs"] < 0.5
    assert single["bytes"] == pytest.approx(single["FLOPs"], rel=0.01)
    spans = found.loc["MoA, half of the keys", "32 decodes at 2,048"]
    assert spans["time"] == pytest.approx(spans["bytes"], rel=0.1)
