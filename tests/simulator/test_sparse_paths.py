"""Do sparse attention and recurrent layers of 2026 cost the same on both paths, and as their formulas say?

Models are small files of the published classes. As everywhere, the explicit path is the definition and
the compiled one agrees to 1e-9.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.workloads.hf import model_from_keys

from ..tables import tables
from .pieces import batches_up_to
from .two_paths import check_paths

FILES: dict[str, dict[str, Any]] = tables(__file__)["models"]


@cache
def deployed(name: str, system: str, short: bool = False, costs: str = "auto") -> Deployment:
    keys = {**FILES[name], "architectures": [name]}
    model = model_from_keys(keys, name=name, where="f.json")
    return deploy(model, load_system(system), tp=2, short_dense=short, costs=costs)


batches = batches_up_to(90_000, 400)


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=6)
def test_both_paths_agree(name: str, data: st.DataObject) -> None:
    system, costs = data.draw(
        st.sampled_from((("h200-x2", "auto"), ("duplex-plain-x2", "auto"), ("h200-x2", "roofline")))
    )
    d = deployed(name, system, data.draw(st.booleans()), costs)
    check_paths(d, [[data.draw(batches)]], 3)
