"""Do the explicit and the compiled path give the same seconds and joules for any batch?

The explicit path (`simulator/step/explicit.py`) is the definition, one op at a time. Every draw of a
model, system, placement, routing and batch must give equal seconds, joules and wall seconds, to
1e-9 relative; so must the later steps of a stretch, where only changed ops are costed anew.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.calibrated.kernel_sets import everywhere
from opbyte.devices.catalog import load_system
from opbyte.devices.collectives.plans import algorithms_of
from opbyte.simulator.deploy.checks import MEMORIES
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.deploy.placement import BUILT_IN
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.sampling import SAMPLING

from .deployments import deployed
from .pieces import batches_with, contexts_up_to
from .two_paths import check_paths, some_work

MODELS = (
    "llama-3-8b", "mixtral-8x7b", "glam-143b", "deepseek-v3", "gemma-2-27b", "jamba-mini",
    "qwen3-next-80b-a3b", "gpt-oss-20b", "falcon-180b", "data/jetmoe-8b",
)  # fmt: skip
SYSTEMS = (
    "h100-x1", "h100-x4", "h100-x8", "h100-2x8", "duplex-x4", "duplex-plain-x4", "duplex-pe-2x8",
    "duplex-bankpim-x4", "duplex-bankgroup-x4", "duplex-gpu-x4", "duplex-2x8", "duplex-x8",
    "duplex-hetero-x4", "duplex-hetero-2x8", "logic-pim-4x8", "h100-logic-pim-x4",
)  # fmt: skip
ROUTINGS = ("uniform", "measured", "power_law:1.0")
LAYERS = 8
"""Of each model, so that the explicit path is quick: all kinds that it has are among the first 8."""


contexts = contexts_up_to(20_000)
batches_of = batches_with(st.lists(contexts, max_size=6), contexts)


@pytest.mark.parametrize("model", MODELS)
@given(data=st.data())
@settings(max_examples=20)
def test_any_batch(model: str, data: st.DataObject) -> None:
    system = data.draw(st.sampled_from(SYSTEMS))
    deployment = deployed(
        model, system, data.draw(st.sampled_from(BUILT_IN)),
        data.draw(st.sampled_from(("flash", "unfused"))), data.draw(st.sampled_from(ROUTINGS)),
        memory=data.draw(st.sampled_from(MEMORIES)), layers=LAYERS,
    )  # fmt: skip
    if deployment is None:  # the weights need more devices
        return
    run = replace(deployment.run, sampling=data.draw(st.sampled_from(SAMPLING)), joint=data.draw(st.booleans()))
    deployment = replace(deployment, run=run)
    step, replica = data.draw(st.integers(0, 10**6)), data.draw(st.integers(0, 3))
    batches = [data.draw(batches_of) for _ in range(deployment.ranks)]
    captured = data.draw(st.sampled_from((0, 16, 512)))
    check_paths(deployment, [some_work(batches)], step, replica, captured)


@pytest.mark.parametrize("model", ["llama-3-8b", "gemma-2-27b", "mixtral-8x7b", "gpt-oss-20b"])
@pytest.mark.parametrize("system", ["h100-x4", "duplex-2x8", "duplex-x4"])
@given(data=st.data())
@settings(max_examples=8)
def test_any_stretch(
    model: str, system: str, data: st.DataObject,
) -> None:  # fmt: skip
    deployment = deployed(model, system, data.draw(st.sampled_from(BUILT_IN)), layers=LAYERS)
    assert deployment is not None
    starts = [data.draw(st.lists(contexts, min_size=1, max_size=5)) for _ in range(deployment.ranks)]
    steps = [[Batch.of([c + i for c in own]) for own in starts] for i in range(4)]
    check_paths(deployment, steps, 5)


@pytest.mark.parametrize("algorithm", ["auto", *algorithms_of("all_to_all")])
@given(data=st.data())
@settings(max_examples=4)
def test_exchanges_by_algorithm(algorithm: str, data: st.DataObject) -> None:
    model = load_model("mixtral-8x7b")
    deployment = deploy(
        replace(model, layers=model.layers[:LAYERS]),
        load_system(data.draw(st.sampled_from(("h100-2x8", "h100-x8")))),
        tp=data.draw(st.sampled_from((1, 4))), all_to_all=algorithm,
        frameworks=everywhere(data.draw(st.sampled_from(("sglang", "typical")))),
    )  # fmt: skip
    batches = [data.draw(batches_of) for _ in range(deployment.ranks)]
    batches[0] = Batch.of([7])
    check_paths(deployment, [batches], data.draw(st.integers(0, 10**6)))


@given(data=st.data())
@settings(max_examples=12)
def test_kernels_of_all_engines(data: st.DataObject) -> None:
    """Models with latent, sparse and recurrent layers under the mean of three engines' kernels."""
    model = data.draw(st.sampled_from(("llama-3-8b", "mixtral-8x7b", "deepseek-v3.2-exp", "jamba-mini")))
    system = data.draw(st.sampled_from(("h200-x8", "b200-x8", "mi300x-x8")))
    d = deploy(load_model(model), load_system(system), frameworks=everywhere("typical"))
    batches, step = [data.draw(batches_of) for _ in range(d.ranks)], data.draw(st.integers(0, 99))
    batches[0] = Batch.of([7, *data.draw(st.lists(contexts, max_size=6))])
    check_paths(d, [batches], step)


@given(data=st.data())
@settings(max_examples=8)
def test_layers_that_share_a_draw(data: st.DataObject) -> None:
    model = load_model("mixtral-8x7b")
    each, shared = (deploy(model, load_system("duplex-2x8"), draws=draws) for draws in ("layer", "step"))
    assert [part.layers for part in each.experts] == [1] * 32
    assert [part.layers for part in shared.experts] == [32]
    batches = [data.draw(batches_of) for _ in range(shared.ranks)]
    batches[0] = Batch.of([7])
    check_paths(shared, [batches], data.draw(st.integers(0, 10**6)))
    # Without chance the two agree: the same loads in every layer.
    expected = [explicit_stage(d, batches, expected=True).seconds for d in (each, shared)]
    assert expected[0] == pytest.approx(expected[1], rel=1e-12)
