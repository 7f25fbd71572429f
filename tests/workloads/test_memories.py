"""Several linear states: counts by hand, one state is the plain layer, bad shapes are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from opbyte.workloads.batch import Batch
from opbyte.workloads.errors import InputError
from opbyte.workloads.layers import GatedDeltaNet, Memories, Run
from opbyte.workloads.numerics import Numerics

NET = GatedDeltaNet(1024, 4, 4, 256, 256, 4)
RUN = Run(Numerics())
BATCH = Batch.of([100, 3000, 7], [(300, 0), (20, 500)])


def test_one_state_is_the_plain_layer_exactly() -> None:
    one = Memories(NET, states=1, top_k=1, shared=False)
    m = BATCH.moments((0,))
    assert one.ops(m, RUN, None) == NET.ops(m, RUN, None)
    assert one.weights() == NET.weights()
    assert one.state() == NET.state()


def test_states_and_traffic_by_hand() -> None:
    """Five states of 4 x 256 x 256; a decode reads and writes three, a chunk all of them."""
    memories, m = Memories(NET, 4, 2), BATCH.moments((0,))
    matrix, conv = 4 * 256 * 256, 3 * 3 * 1024
    assert [f.values for f in memories.state().fixed] == [5 * matrix, conv]
    plain = {op.name: op for op in NET.ops(m, RUN, None)}
    ours = {op.name: op for op in memories.ops(m, RUN, None)}
    assert ours["delta_decode"].kv_read_bytes == 3 * 2 * 3 * matrix
    assert ours["delta_prefill"].kv_write_bytes == 2 * 2 * 5 * matrix
    assert ours["conv_decode"].kv_read_bytes == 3 * 2 * conv
    chunk = 4 * (6 * 256 * 256 + 3 * 256 * 64 + 64**2)
    for name, tokens, flops in (("delta_decode", 3, 8 * matrix), ("delta_prefill", 320, chunk)):
        assert ours[name].flops - plain[name].flops == tokens * 2 * flops
    assert ours["router"].flops == 2 * 323 * 4 * 1024
    assert set(ours) - set(plain) == {"router", "mix"}
    assert [op.name for op in memories.ops(m, RUN, None)][-2:] == ["mix", "out"]


def test_a_device_holds_its_heads_of_every_state() -> None:
    whole, half = Memories(NET, 4, 2), Memories(NET, 4, 2).shard(2)
    assert 2 * half.state().fixed[0].values == whole.state().fixed[0].values
    with pytest.raises(InputError, match="does not divide the 4 linear key heads"):
        whole.shard(3)


@pytest.mark.parametrize(
    ("states", "top_k", "said"),
    [(0, 1, "states: must be at least 1, not 0"), (4, 5, "top_k: must be from 1 to the 4 states"),
     (4, 0, "top_k: must be from 1 to the 4 states, not 0")],
)  # fmt: skip
def test_refused(states: int, top_k: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(Memories(NET, 4, 2), states=states, top_k=top_k)
