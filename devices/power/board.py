"""A board's energy over a time: its work, what it draws beside it, and its limit.

Cost models add up the energy of work, linear in FLOPs and bytes: that of cores that hold thread blocks is among it, for the
time that the FLOPs and bytes take at the rates of large kernels. Where a kernel waits (for its launch, for other devices, for
the few cores that have its blocks) the other cores' clocks are gated. What a board draws beside goes with time: idle power
always, and the power of a board that is awake while kernels run. Where the sum would be above the limit the clock falls, here
over the whole time at once (a board holds the mean of tens of milliseconds below its limit, several steps of decoding).
Times do not get longer by it: fitted kernel times were measured under the limit, so they are those of the lower clock
already, and what is above the limit is energy that the lower clock and voltage save.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

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
    """What devices draw beside the energy of their work.

    Attributes
    ----------
    idle_W : float
        Of one device without work.
    model : PowerModel or None
        Its power model; None where a device has no known limit and process.
    """

    idle_W: float
    model: PowerModel | None

    def idle_joules(self, device_s: float) -> float:
        """Energy of devices over so many device-seconds, were they idle."""
        return self.idle_W * device_s

    def busy_joules(self, busy_s: float) -> float:
        """Energy on top while they run kernels for so many device-seconds, beside the work's."""
        return 0.0 if self.model is None else self.model.awake_W * busy_s

    def work_joules(self, joules: float, busy_s: float) -> float:
        """Energy of work of `joules` at the nominal clock, done in `busy_s` under the limit."""
        return float(self.held_joules(np.array([joules]), np.array([busy_s]))[0])

    def held_joules(self, joules: F8, busy_s: F8) -> F8:
        """`work_joules` of several pieces of work, each on its own under the limit."""
        m = self.model
        if m is None:
            return joules
        base_W = m.idle_W + m.awake_W
        drawn = m.limited_W(base_W + joules / np.where(busy_s > 0.0, busy_s, 1.0))
        held = np.minimum(joules, np.maximum(drawn - base_W, 0.0) * busy_s)
        return np.where(busy_s > 0.0, held, joules)


NO_BOARD = Board(0.0, None)
"""A device that draws nothing beside its work."""


class Energies(TypedDict):
    """Energy terms of a roofline; see `coefficients`."""

    stream_J_per_byte: float
    kv_J_per_byte: float
    act_J_per_byte: float
    J_per_flop: dict[str, float]


def board(spec: DeviceSpec) -> Board:
    """The board of a device; it has a power model where limit and process are known."""
    from .transfer import can_model, power_model

    return Board(spec.static_W, power_model(spec).model if can_model(spec) else None)


def coefficients(model: PowerModel, roof: Roofline) -> Energies:
    """Energy terms of a roofline by the power model.

    Parameters
    ----------
    roof : Roofline
        Its peaks and efficiencies say how long FLOPs and bytes hold the cores.

    Returns
    -------
    Energies
        ``stream_J_per_byte`` (weights and KV come from main memory and pass the cache),
        ``kv_J_per_byte`` (KV, with what attention does to it),
        ``act_J_per_byte`` (inputs and outputs of chains of kernels) and ``J_per_flop``. A 32-bit
        FLOP takes twice a 16-bit one, as a multiplier's area goes with the square of its width and
        half of its rate is given up already.
    """
    m = model
    held = m.cores_W / (roof.bandwidth * roof.memory_efficiency)
    width = {16.0: m.J_per_flop_16, 8.0: m.J_per_flop_8, 4.0: m.J_per_flop_4, 32.0: 2.0 * m.J_per_flop_16}
    return {
        "stream_J_per_byte": held + m.dram_J_per_byte + m.cache_J_per_byte,
        "kv_J_per_byte": held + m.dram_J_per_byte + m.cache_J_per_byte + m.kv_J_per_byte,
        "act_J_per_byte": held + m.cache_J_per_byte + m.vector_J_per_byte,
        "J_per_flop": {
            name: width[BITS.get(name, 16.0)] + m.cores_W / (roof.peak[name] * roof.compute_efficiency)
            for name in roof.J_per_flop
        },
    }
