"""Energy of a board over a period: its work, its constant power, and its limit.

Cost models add up the energy of work, linear in FLOPs and bytes, including cores with thread blocks for the time of
FLOPs and bytes at the rates of large kernels. While a kernel waits (for its launch, other devices, a few busy cores)
the other cores are clock-gated. Constant power: idle power always, and awake power while kernels run. If the sum
exceeds the limit, the clock falls, averaged over the whole time (a board limits the mean of tens of milliseconds,
several decode steps). Times do not change: fitted kernel times were measured under the limit, so the excess is energy
that the lower clock and voltage save.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .model import PowerModel

if TYPE_CHECKING:
    from ..cost import Roofline
    from ..spec import DeviceSpec

F8 = npt.NDArray[np.float64]
BITS = {"fp32": 32.0, "fp16": 16.0, "bf16": 16.0, "fp8": 8.0, "fp8_block": 8.0, "int8": 8.0, "fp4": 4.0}


@dataclass(frozen=True, slots=True)
class Board:
    """Power of devices in addition to the energy of their work.

    Attributes
    ----------
    idle_W : float
        Power of one device without work.
    model : PowerModel or None
        Its power model; None where a device has no known limit and process.
    """

    idle_W: float
    model: PowerModel | None

    def idle_joules(self, device_s: float) -> float:
        """Return the idle energy of devices over `device_s` device-seconds."""
        return self.idle_W * device_s

    def busy_joules(self, busy_s: float) -> float:
        """Return the additional energy while they run kernels for `busy_s` device-seconds, without the work's."""
        return 0.0 if self.model is None else self.model.awake_W * busy_s

    def work_joules(self, joules: float, busy_s: float) -> float:
        """Return the energy of work in `busy_s` under the limit; `joules` is its energy at the nominal clock."""
        return float(self.held_joules(np.array([joules]), np.array([busy_s]))[0])

    def held_joules(self, joules: F8, busy_s: F8) -> F8:
        """Return `work_joules` of several pieces of work, each separately under the limit."""
        m = self.model
        if m is None:
            return joules
        base_W = m.idle_W + m.awake_W
        drawn = m.limited_W(base_W + joules / np.where(busy_s > 0.0, busy_s, 1.0))
        saved = np.minimum(joules, np.maximum(drawn - base_W, 0.0) * busy_s)
        return np.where(busy_s > 0.0, saved, joules)


NO_BOARD = Board(0.0, None)
"""Board of a device without constant power."""


def board(spec: DeviceSpec) -> Board:
    """Return the board of a device; it has a power model if limit and process are known."""
    from .transfer import can_model, power_model

    return Board(spec.static_W, power_model(spec).model if can_model(spec) else None)


def coefficients(model: PowerModel, roof: Roofline) -> Roofline:
    """Return a roofline with its energy terms by the power model.

    Parameters
    ----------
    roof : Roofline
        Roofline whose peaks and efficiencies determine how long FLOPs and bytes occupy the cores.

    Returns
    -------
    Roofline
        With ``stream_J_per_byte`` (weights and KV come from main memory through the cache), ``kv_J_per_byte`` (KV,
        including attention's work on it), ``act_J_per_byte`` (inputs and outputs of chains of kernels), ``J_per_flop`` and
        ``tile_J_per_flop`` (an expert's rows without tokens, while its bytes hold the cores). A 32-bit FLOP counts as two
        16-bit ones: a multiplier's area scales with the square of its width, and half of its rate is already lost.
    """
    m = model
    core_J_per_byte = m.cores_W / (roof.bandwidth * roof.memory_efficiency)
    width = {16.0: m.J_per_flop_16, 8.0: m.J_per_flop_8, 4.0: m.J_per_flop_4, 32.0: 2.0 * m.J_per_flop_16}
    of_format = {name: width[BITS.get(name, 16.0)] for name in roof.J_per_flop}
    stream_J_per_byte = core_J_per_byte + m.dram_J_per_byte + m.cache_J_per_byte
    return replace(
        roof,
        stream_J_per_byte=stream_J_per_byte,
        kv_J_per_byte=stream_J_per_byte + m.kv_J_per_byte,
        act_J_per_byte=core_J_per_byte + m.cache_J_per_byte + m.vector_J_per_byte,
        J_per_flop={
            name: joules + m.cores_W / (roof.peak[name] * roof.compute_efficiency) for name, joules in of_format.items()
        },
        tile_J_per_flop={name: m.rows * joules for name, joules in of_format.items()},
    )
