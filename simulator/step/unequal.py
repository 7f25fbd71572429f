"""Effect of unequal contexts on decode attention, for the explicit and the compiled path.

Costs are functions of sums over a batch, so they do not depend on how contexts differ. If the tables of a device describe
the kernel's thread blocks (`devices.tables.blocks`), the time that unequal contexts add to equal ones is stored as one more
number after the sums. In a step with prompts this is the time of the kernel call that processes prompts and decodes.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...devices.calibrated.formulas import Formula
from ...devices.prices import ALONE
from ...devices.tables.blocks import blocks_seconds, joint_seconds
from ...devices.tables.grid import attention_outside, mixed_decode
from ...workloads.batch import DECODE, Batch
from ...workloads.jit import compiled, compiled_part
from ...workloads.jit_address import by_address
from ...workloads.model import layer_ops
from ...workloads.ops import Loads
from ...workloads.records import Records
from ..deploy.deployment import Deployment
from ..deploy.placement import processors_of

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

ANY_TILES = 1e9
"""Number of key tiles of the longest context in a CUDA graph. Graphs are captured for the longest context that the engine
allows, so this number never limits into how many parts a sequence is split."""


@by_address
class Uneven(NamedTuple):
    """Data of one device's decode attention kernel: its thread blocks, and its measured times for equal contexts."""

    blocks: Records  # [1] parameters of `devices.tables.blocks`
    axes: F8  # axes, sizes and seconds of the measured grid, as `devices.prices.Grid`
    sizes: I8
    seconds: F8


def uneven_of(deployment: Deployment) -> Uneven | None:
    """Return the decode attention of a deployment; None if no table describes its thread blocks."""
    main = processors_of(deployment.device)[0].model
    m = Batch.of([1]).moments(deployment.shard.windows)
    for layer, _ in deployment.shard.groups:
        parts = layer_ops(layer, m, deployment.run, Loads(np.zeros(1), np.zeros(1)))
        for op in chain.from_iterable(parts):
            if op.kind != "attention_decode":
                continue
            row = main.row(op, ALONE)
            if row.grid is not None and row.blocks is not None and len(row.blocks):
                return Uneven(row.blocks, *row.grid)
    return None


def unequal_seconds(deployment: Deployment, batch: Batch, captured: int) -> float:
    """Return the seconds that a batch's unequal contexts add to the decode attention of one layer.

    Parameters
    ----------
    captured : int
        Largest batch with a captured graph; 0 = none.
    """
    return added_seconds(uneven_of(deployment), batch, captured)


def added_seconds(uneven: Uneven | None, batch: Batch, captured: int) -> float:
    """Return the seconds that a batch's unequal contexts add to one layer's decode attention `uneven`."""
    decoding = batch.phase == DECODE
    if uneven is None or decoding.sum() < 2:
        return 0.0
    keys = np.ascontiguousarray(batch.context[decoding] + 1, dtype=np.float64)
    prompts = np.array([batch.q_len[~decoding], batch.context[~decoding]], dtype=np.float64)
    heap = np.empty(int(uneven.blocks[0].places))
    return float(_call(uneven, keys, len(keys), prompts, prompts.shape[1], captured, heap))


@compiled_part
def graph_batch(decodes: int, captured: int) -> int:
    """Return the padded number of tokens of a step: the next size for which a CUDA graph was captured.

    Steps with prompts, which replay piecewise graphs between attention calls, are padded in the same way. vLLM captures
    1, 2, 4, multiples of 8 up to 256, and multiples of 16 up to the largest (vllm/config/vllm.py,
    `_set_cudagraph_sizes`). Larger batches run without padding.
    """
    if decodes <= 2:
        return decodes
    step = 4 if decodes <= 4 else 8 if decodes <= 256 else 16
    size = (decodes + step - 1) // step * step
    return size if size <= captured else decodes


@compiled_part
def graph_of_several(tokens: int, captured: int, several: int) -> int:
    """Return `graph_batch` for decodes of up to `several` tokens: captured sizes are rounded up to multiples of `several`.

    A rounded size above the largest captured size has no graph (``adjust_cudagraph_sizes_for_spec_decode`` in
    vllm/config/compilation.py).
    """
    if tokens <= 0:
        return tokens
    least = (tokens - 1) // several * several + 1  # smallest size that is rounded up to at least `tokens`
    size = (graph_batch(least, captured) + several - 1) // several * several
    return size if size <= captured else tokens


@compiled
def padded_batch(tokens: int, captured: int, several: int) -> int:
    """Return `graph_of_several` for callers outside compiled code."""
    return graph_of_several(tokens, captured, several)


@compiled_part
def uneven_seconds(uneven: Uneven, keys: F8, count: int, prompts: F8, chunks: int, captured: int, heap: F8) -> float:
    """Return the seconds that unequal contexts add to the decode attention of one layer.

    The time of equal contexts is from the measured table for decode-only steps, and from the model of thread blocks for
    steps with prompts. The result is 0 if contexts differ by less than one tile of keys, or are outside the table.

    Parameters
    ----------
    keys : float64 array
        Context of each decode with its new token [tokens]; the first `count` entries are used.
    prompts : float64 array, shape (2, n)
        New and cached tokens of each prompt in the step; the first `chunks` columns are used.
    captured : int
        Largest batch with a captured graph; 0: none.
    heap : float64 array
        Work array, see `blocks_seconds`.
    """
    total, low, high = 0.0, keys[0], keys[0]
    for j in range(count):
        total += keys[j]
        low, high = min(low, keys[j]), max(high, keys[j])
    n = float(count)
    outside = attention_outside(uneven.axes, uneven.sizes, Formula.MIXED_DECODE, 0.0, 0.0, 0.0, n, total)
    if outside or high - low < uneven.blocks[0].tile:
        return 0.0
    p, mean = uneven.blocks[0], total / n
    if chunks > 0:
        even = joint_seconds(p, keys, count, mean, prompts, chunks, heap)
        return joint_seconds(p, keys, count, 0.0, prompts, chunks, heap) - even
    tiles = np.ceil(high / p.tile) if count > captured else ANY_TILES
    batch = float(graph_batch(count, captured))
    even = mixed_decode(uneven.axes, uneven.sizes, uneven.seconds, n, total, 0.0)
    return float(blocks_seconds(p, keys, count, 0.0, batch, tiles, heap) - even)


@compiled
def _call(uneven: Uneven, keys: F8, count: int, prompts: F8, chunks: int, captured: int, heap: F8) -> float:
    """Return `uneven_seconds` for callers outside compiled code."""
    return float(uneven_seconds(uneven, keys, count, prompts, chunks, captured, heap))
