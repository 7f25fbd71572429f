"""Do both paths agree where requests choose adapters, and are experts adapters, ranks or behind a memory?

The explicit path is the definition; the compiled one agrees to 1e-9 for any batch. Models are those of
the catalog with two layers, their parts wrapped by the kind under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.step.explicit import explicit_stage
from opbyte.workloads.adapters import Tenants, adapter_bytes, tenants_of, with_adapters
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.layers import (
    AdapterExperts,
    LayerKind,
    LowRank,
    MergedExperts,
    PooledAdapter,
    RankExperts,
    RecurrentExperts,
)
from opbyte.workloads.routing import make_router

from .pieces import batches_with, contexts_up_to
from .two_paths import check_paths

KINDS: dict[str, tuple[Callable[[Any], LayerKind], Callable[[Any], LayerKind]]] = {
    "lora": (lambda p: LowRank(p, 16), lambda p: LowRank(p, 16)),
    "tenants": (lambda p: LowRank(p, 16, 9), lambda p: LowRank(p, 16, 9)),
    "mixlora": (lambda p: LowRank(p, 8), lambda p: AdapterExperts(p, 8, 2, 16)),
    "mixlora-plain": (lambda p: p, lambda p: AdapterExperts(p, 8, 2, 16, base_once=False)),
    "smora": (lambda p: RankExperts(p, 32, 4), lambda p: RankExperts(p, 32, 4)),
    "mos": (lambda p: PooledAdapter(p, 16, 4), lambda p: PooledAdapter(p, 16, 4)),
    "rmoe": (lambda p: p, lambda p: RecurrentExperts(p.hidden, 8, 2, 1024, router_width=64)),
    "merged": (lambda p: p, lambda p: MergedExperts(p.hidden, 8, 2, 1024, levels=3)),
}
LATENT = load_model("deepseek-v2-lite")
LATENT = replace(LATENT, layers=LATENT.layers[1:])
"""Latent attention and experts: no part names its matrices."""
SYSTEMS = ("h100-x1", "h100-x4", "rtx-4090-x1", "duplex-x4", "duplex-hetero-x4")

contexts = contexts_up_to(20_000)
batches = batches_with(st.lists(contexts, max_size=9).map(lambda found: [*found, 5]), contexts)


@cache
def deployed(kind: str, system: str, routing: str = "uniform") -> Deployment:
    mixer, ffn = KINDS[kind]
    model = load_model("llama-3-8b")
    model = replace(model, layers=model.layers[:2]).map_layers(
        lambda layer: replace(layer, mixer=mixer(layer.mixer), ffn=ffn(layer.ffn))
    )
    return deploy(model, load_system(system), dp=1, routing=routing)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=12)
def test_any_batch(kind: str, data: st.DataObject) -> None:
    routing = data.draw(st.sampled_from(("uniform", "power_law:1.0", "measured")))
    d = deployed(kind, data.draw(st.sampled_from(SYSTEMS)), routing)
    step, replica = data.draw(st.integers(0, 10**6)), data.draw(st.integers(0, 3))
    check_paths(d, [[data.draw(batches)] * d.ranks], step, replica)


@given(batch=batches, step=st.integers(0, 99))
def test_a_requests_tokens_have_one_adapter_in_every_layer(batch: Batch, step: int) -> None:
    """Loads are conserved, and no more adapters are used than there are sequences."""
    router = make_router("power_law:0.7", layers=3, experts=50, top_k=1, seed=4, keys=(0, 2, 5), by_request=True)
    found = [router.loads(step, layer, batch).tokens for layer in range(3)]
    assert all(np.array_equal(found[0], other) for other in found)
    assert found[0].sum() == batch.tokens
    assert (found[0] > 0).sum() <= len(batch.q_len)
    for q in batch.q_len:  # each prompt whole on one of them
        assert (found[0] >= q).any()


def test_expected_loads_are_the_mean_of_draws() -> None:
    router = make_router("power_law:1.0", layers=1, experts=20, top_k=1, seed=0, by_request=True)
    batch = Batch.of([9] * 12)
    drawn = [(router.loads(step, 0, batch).tokens > 0).sum() for step in range(3000)]
    assert np.mean(drawn) == pytest.approx(router.expected(0, 12, 12).active, rel=0.02)
    prompts = Batch.of(chunks=[(300, 0)] * 2)
    assert router.expected(0, 600, 2).active <= 2
    assert (router.loads(0, 0, prompts).tokens > 0).sum() <= 2


def test_adapters_take_memory_and_time_by_how_many_are_used() -> None:
    """Rank 16 on Llama-2-7B: 40 million weights an adapter; more tenants, more distinct ones read."""
    model, system = load_model("llama-2-7b"), load_system("a100-80gb-x1")
    bare = deploy(model, system)
    kv, seconds = [bare.memory().kv], [explicit_stage(bare, [Batch.of([500] * 32)]).seconds]
    for adapters in (1, 8, 64, 512):
        d = deploy(model, system, adapters=Tenants(adapters, 16, adapters))
        kv.append(d.memory().kv)
        stage = explicit_stage(d, [Batch.of([500] * 32)], expected=True)
        seconds.append(stage.seconds)
        size = adapter_bytes(d.shard)
        assert size == 16 * 2_498_560 * 2
        assert bare.memory().kv - d.memory().kv == pytest.approx(adapters * size)
    assert kv == sorted(kv, reverse=True)
    assert seconds == sorted(seconds)
    slots = deploy(model, system, adapters=Tenants(512, 16, 8))
    assert slots.memory().kv == kv[2]


def test_experts_of_a_model_keep_no_adapters() -> None:
    model = with_adapters(load_model("mixtral-8x7b"), Tenants(4, 8, 4))
    layer = model.layers[0]
    assert isinstance(layer.mixer, LowRank)
    assert layer.ffn == load_model("mixtral-8x7b").layers[0].ffn
    assert model.moe_layers == 32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tenants_of(None, 8, None, None), "--adapter-rank: needs --adapters"),
        (lambda: tenants_of(4, 8, 5, None), "--adapters-resident: must be at most --adapters (4)"),
        (lambda: tenants_of(4, 8, 4, "measured"), "must be uniform or power_law:S"),
        (lambda: tenants_of(4, 8, 4, "power_law:x"), "--adapter-popularity"),
        (lambda: with_adapters(load_model("llama-2-7b"), Tenants(1, 5000, 1)), "at most 4096"),
        (lambda: with_adapters(LATENT, Tenants(1, 8, 1)), "no matrices"),
        (
            lambda: deploy(load_model("mixtral-8x7b"), load_system("h100-x4"), tp=2, dp=2, adapters=Tenants(4, 8, 4)),
            "cannot be combined with data-parallel ranks that share experts",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
