"""What a processor computes with: the MAC units of one near memory, and what a GPU's core holds."""

from __future__ import annotations

from pydantic import model_validator

from ..workloads.specfile import Spec
from .fields import Count, Positive


class MacArraySpec(Spec):
    """Multiply-accumulate units of a processor near memory; peak = 2 x MACs x clock.

    `module_buffer_bytes` is the buffer of one module, `input_buffer_bytes` that of all inputs of a
    stack; the tile model needs both.
    """

    modules_per_stack: Count
    macs_per_module: Count
    clock_Hz: Positive
    module_buffer_bytes: Positive | None = None
    input_buffer_bytes: Positive | None = None


class CoreSpec(Spec):
    """What one core (SM, CU) of a GPU holds; the tile model (`devices.tiles`) reads it.

    `shared_bytes` is the shared memory (LDS) of the core, `block_bytes` the most that one block may
    have; `registers` are 32-bit ones, `warps` and `blocks` the most that reside at a time, `lanes`
    the threads of a warp (wavefront).
    """

    shared_bytes: Positive
    block_bytes: Positive
    registers: Count
    warps: Count
    blocks: Count
    lanes: Count = 32

    @model_validator(mode="after")
    def _block_fits(self) -> CoreSpec:
        if self.block_bytes > self.shared_bytes:
            raise ValueError("block_KiB must be at most shared_KiB")
        return self
