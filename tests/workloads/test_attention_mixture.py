"""All attention experts at once: FLOPs by hand, shared keys, one expert is the plain layer."""

from __future__ import annotations

import pytest

from opbyte.workloads.batch import Batch
from opbyte.workloads.errors import InputError
from opbyte.workloads.layers import Attention, AttentionMixture, Run
from opbyte.workloads.numerics import Numerics

RUN = Run(Numerics())
BASE = Attention(1024, 8, 8, 128)
M = Batch.of([300], [(256, 0)]).moments((0,))


@pytest.mark.parametrize("shared", [False, True])
def test_one_expert_is_the_plain_layer_exactly(shared: bool) -> None:
    ours = AttentionMixture(BASE, 1, shared)
    assert ours.ops(M, RUN, None) == BASE.ops(M, RUN, None)
    assert (ours.weights(), ours.state()) == (BASE.weights(), BASE.state())


@pytest.mark.parametrize("shared", [False, True])
def test_four_experts_by_hand(shared: bool) -> None:
    """Queries, scores and outputs four times; keys and values too, or once."""
    ours, n = AttentionMixture(BASE, 4, shared), 1 if shared else 4
    found = {op.name: op for op in ours.ops(M, RUN, None)}
    plain = {op.name: op for op in BASE.ops(M, RUN, None)}
    for name in ("attention_prefill", "attention_decode"):
        assert found[name].flops == 4 * plain[name].flops
        assert found[name].kv_read_bytes == n * plain[name].kv_read_bytes
        assert found[name].kv_write_bytes == n * plain[name].kv_write_bytes
    assert found["qkv"].flops == 2 * 257 * 1024 * (4 + 2 * n) * 1024
    assert found["out"].flops == 4 * plain["out"].flops
    assert ours.state().keeps[0].values == n * BASE.state().keeps[0].values
    count = (4 + 2 * n + 4) * 1024 * 1024 + 4 * 1024
    assert sum(w.total for w in ours.weights()) == sum(w.active for w in ours.weights()) == count


def test_devices_share_every_expert() -> None:
    assert AttentionMixture(BASE, 4).shard(2).whole.heads == 16
    with pytest.raises(InputError, match="does not divide"):
        AttentionMixture(BASE, 4).shard(3)


def test_refused() -> None:
    with pytest.raises(InputError, match="experts: must be at least 1, not 0"):
        AttentionMixture(BASE, 0)
