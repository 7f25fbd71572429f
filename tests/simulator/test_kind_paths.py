"""Do layers of attention heads, spans, slices, states and modalities cost the same on both paths?

Models are written out as lists of layers (`workloads/hf/layer_list.py`). As everywhere, the explicit
path is the definition and the compiled one agrees to 1e-9; expert loads are those of the tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.checks import MEMORIES
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.hf import model_from_keys
from opbyte.workloads.layers.base import LAYER_KINDS
from opbyte.workloads.ops import Loads

from ..tables import tables
from .pieces import batches_up_to
from .test_paths_agree import MODELS
from .test_sparse_paths import FILES, deployed
from .two_paths import check_paths

TABLES = tables(__file__)
MIXERS, FFNS, DEGREES = (TABLES[name] for name in ("mixers", "ffns", "degrees"))
ELSEWHERE = {
    "attention_moe": "jetmoe in test_paths_agree.py, where its file is",
    "fusion": "drafts in test_speculation.py",
    **dict.fromkeys(("lora", "mixlora", "mos", "smora"), "test_adapter_paths.py and tests/analysis"),
    **dict.fromkeys(("patch_embedding", "vit_attention", "vit_moe"), "no engine serves images alone"),
}
"""Kinds that no list below draws, and where they are held."""
ROUTINGS = ("uniform", "power_law:1.0")


def model(name: str) -> Any:
    layer = {"times": 2, "mixer": MIXERS[name], "ffn": FFNS.get(name, TABLES["ffn"])}
    layer["parallel"] = name == "mixture"
    keys = {"architectures": ["LayerList"], "hidden_size": 512, "vocab_size": 1000, "layers": [layer]}
    return model_from_keys(keys, name=name, where="f.json")


batches = batches_up_to(9000)


def agree(deployment: Deployment, batch: Batch, step: int) -> None:
    stage = check_paths(deployment, [[batch] * deployment.ranks], step).stages[0]
    tokens = deployment.ranks * batch.tokens
    for part in deployment.experts:
        loads = part.router.loads(step, part.row, batch)
        assert loads.routed == batch.tokens * part.spec.routed.top_k
    work = [p for p in stage.ops if p.op.kind == "experts"]
    for part in deployment.experts:  # each group's devices have a part of every expert that it holds
        name = part.spec.expert_op(Loads(np.ones(1), np.ones(1)), deployment.run).name
        equal = [p for p in deployment.experts if p.spec == part.spec]
        each_s = deployment.layout.tp * (deployment.layout.dp if deployment.ranks > 1 else 1) // part.ep
        routed = sum(p.op.shape["routed"] * p.devices for p in work if p.op.name == name)
        assert routed == each_s * tokens * part.spec.routed.top_k * len(equal)


@pytest.mark.parametrize("name", MIXERS)
@given(data=st.data())
@settings(max_examples=8)
def test_both_paths_agree(name: str, data: st.DataObject) -> None:
    system = data.draw(st.sampled_from(("h100-x2", "a100-80gb-x2", "duplex-plain-x2")))
    degrees = data.draw(st.sampled_from(DEGREES.get(name, ({"tp": 2},))))
    routings = (*ROUTINGS, "modality:0.9,0.1", "modality:0,1") if name == "modal" else ROUTINGS
    d = deploy(
        model(name), load_system(system), **degrees, routing=data.draw(st.sampled_from(routings)),
        attention=data.draw(st.sampled_from(("flash", "unfused"))) if "duplex" in system else None,
    )  # fmt: skip
    agree(d, data.draw(batches), data.draw(st.integers(0, 99)))


@pytest.mark.parametrize("name", MIXERS)
@given(data=st.data())
@settings(max_examples=3)
def test_halves_and_derived_memory_agree(name: str, data: st.DataObject) -> None:
    memory = data.draw(st.sampled_from(MEMORIES))
    overlap = data.draw(st.sampled_from(("two-batch", "pipelined:2")))
    d = deploy(model(name), load_system("h100-x2"), tp=2, memory=memory, costs="roofline", overlap=overlap)
    check_paths(d, [[data.draw(batches)]], data.draw(st.integers(0, 99)))


@pytest.mark.parametrize("name", MIXERS)
def test_every_op_computes_something(name: str) -> None:
    """No product without columns: cost models divide by them."""
    stage = explicit_stage(deploy(model(name), load_system("h100-x1")), [Batch.of([5] * 3, [(40, 9)])])
    for op in (placed.op for placed in stage.ops):
        assert all(op.shape.get(size, 1) > 0 for size in ("m", "n", "k", "batch", "rows", "cols")), op


def test_no_kind_is_left_out() -> None:
    """Every registered layer kind is in a model that draws hold both paths to."""
    drawn = [model(name) for name in MIXERS]
    drawn += [load_model(name) for name in MODELS if not name.startswith("data/")]
    drawn += [deployed(name, "h100-x2").model for name in FILES]
    found = {part.kind for m in drawn for layer in m.layers for part in layer.parts}
    assert found.isdisjoint(ELSEWHERE)
    assert found | set(ELSEWHERE) == set(LAYER_KINDS.names())


def test_a_modality_is_the_same_in_all_layers() -> None:
    found = deploy(model("modal"), load_system("h100-x1"), routing="modality:3,1", seed=3)
    batch = Batch.of([5] * 40)
    first, second = (part.router.loads(7, part.row, batch).tokens for part in found.experts)
    assert first.tolist() == second.tolist()
    drawn = [found.experts[0].router.loads(i, 0, batch).tokens[0] for i in range(200)]
    assert sum(drawn) / 200 == pytest.approx(30, rel=0.03)
    chosen = deploy(model("modal"), load_system("h100-x1"), routing="uniform").experts
    assert any(len({part.router.loads(i, part.row, batch).tokens[0] for part in chosen}) > 1 for i in range(5))


def test_degrees_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="tp=8: does not divide the 4 shared heads"):
        deploy(model("heads"), load_system("h100-x8"), tp=8)
    with pytest.raises(InputError, match="tp=8: leaves 1 heads on a device, which is not a multiple of the 2 slices"):
        deploy(model("slices"), load_system("h100-x8"), tp=8)
