"""A cost model in which the DRAM model determines the bandwidth for each access pattern."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...workloads.errors import InputError
from ...workloads.ops import IN_SEQUENCE, Access, Op
from ..cost import Cost, Evidence, Roof, Roofline
from ..device import Processor, SharedMemoryDevice
from ..prices import PriceRow, Probe
from .access import NEAR, AccessRate, best_multiple, share_near, share_of_pins
from .layout import DataLayout
from .mapping import read_mapping
from .spec import DramSpec, load_memory

APART = 0.05
"""Largest relative difference between the pin rate of the standard and the device's bandwidth."""


@dataclass(frozen=True, slots=True)
class DerivedRoofline:
    """A roofline with a memory efficiency for each op's access pattern.

    Attributes
    ----------
    base : Roofline
        The processor's rates, with the flat efficiency that is replaced.
    memory : DramSpec
        DRAM behind the processor.
    layout : DataLayout
        Location of its data.
    channels : int
        Channels of all stacks.
    near : str
        Kind of a processor near memory; empty for one at the pins.
    multiple : float
        Its bandwidth over the pins' bandwidth.
    spaces : int
        Memory spaces of the device.
    """

    base: Roofline
    memory: DramSpec
    layout: DataLayout
    channels: int
    near: str = ""
    multiple: float = 1.0
    spaces: int = 1
    _known: dict[Access, tuple[AccessRate, Roofline]] = field(default_factory=dict, compare=False, repr=False)

    def _of(self, access: Access) -> tuple[AccessRate, Roofline]:
        if access not in self._known:
            share = self._derive(access)
            self._known[access] = share, replace(self.base, memory_efficiency=share.fraction)
        return self._known[access]

    def _derive(self, access: Access) -> AccessRate:
        where = self.memory, self.layout, access, self.channels
        if self.near:
            return share_near(*where, kind=self.near, multiple=self.multiple, spaces=self.spaces)
        return share_of_pins(*where)

    def share_of(self, access: Access) -> AccessRate:
        """Return the access pattern as text, with its share of the bandwidth."""
        return self._of(access)[0]

    def cost(self, op: Op) -> Cost:
        """Return seconds, joules and bound of one op."""
        return self._of(op.access)[1].cost(op)

    def row(self, op: Op, probe: Probe) -> PriceRow:
        """Return the same cost for every batch: a pattern does not depend on the batch."""
        return self._of(op.access)[1].row(op, probe)

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        """Return a line per pattern with its efficiency and the basis ``derived``, and then the description's evidence."""
        return [
            Evidence(
                f"{self.memory.name}, {share.words}, {share.fraction:.1%} of the bandwidth", ", ".join(kinds), DERIVED
            )
            for share, kinds in self.shares(ops).items()
        ] + self.base.evidence(ops)

    def shares(self, ops: Sequence[Op]) -> dict[AccessRate, list[str]]:
        """Return the efficiencies of reads by pattern, with the kinds of op that have the pattern."""
        out: dict[AccessRate, list[str]] = {}
        for op in ops:
            kinds = out.setdefault(self.share_of(op.access), [])
            if op.kind not in kinds:
                kinds.append(op.kind)
        return out

    def roof(self, dtype: str) -> Roof:
        """Return nominal and attainable rates; the bandwidth is for weights in sequence."""
        return self._of(IN_SEQUENCE)[1].roof(dtype)


DERIVED = "derived"
"""Basis of a cost whose bandwidth comes from the DRAM model."""


def with_dram(device: SharedMemoryDevice) -> SharedMemoryDevice:
    """Return the device with bandwidths from the DRAM model for all processors that use a roofline.

    Processors with other cost models (fitted ones, FPGA designs with ports) keep theirs.

    Raises
    ------
    InputError
        The description names no DRAM, or one that does not carry its bandwidth, lacks the commands
        of its units or has fewer bank bundles than the device has memory spaces.
    """
    spec = device.spec
    layout = spec.memory.dram
    if layout is None:
        raise InputError(
            spec.name, "names no DRAM, so nothing can be derived: give memory.dram in its file, such "
            "as {standard: hbm3-5200-8hi}, or --memory flat",
        )  # fmt: skip
    memory = load_memory(layout.standard)
    _check(device, memory, layout)
    channels = memory.organisation.channels * spec.memory.stacks
    processors = {
        name: replace(
            p, model=DerivedRoofline(
                p.base, memory, layout, channels, p.kind if p.kind in NEAR else "",
                p.bandwidth / spec.memory.bandwidth_bytes_per_s, spec.memory.spaces,
            ),
        ) if derivable(p) else p
        for name, p in device.processors.items()
    }  # fmt: skip
    return replace(device, processors=processors)


def derivable(processor: Processor) -> bool:
    """Return whether a processor's costs use a flat efficiency that its DRAM can replace."""
    return processor.model is processor.base and processor.kind in ("xpu", *NEAR)


def derives(device: SharedMemoryDevice) -> bool:
    """Return whether any cost of a device depends on its DRAM model."""
    return any(isinstance(p.model, DerivedRoofline) for p in device.processors.values())


def _check(device: SharedMemoryDevice, memory: DramSpec, layout: DataLayout) -> None:
    """Refuse a DRAM description that does not match the device."""
    spec = device.spec
    where = f"{spec.name}: memory"
    pins = memory.stack_bytes_per_s * spec.memory.stacks
    given = spec.memory.bandwidth_bytes_per_s
    if abs(pins / given - 1.0) > APART:
        raise InputError(
            f"{where}.dram", f"{spec.memory.stacks} stacks of {memory.name} carry {pins / 1e9:,.0f} "
            f"GB/s, the description says {given / 1e9:,.0f}; correct the standard, stacks or "
            "bandwidth_GBps",
        )  # fmt: skip
    read_mapping(layout.mapping, memory)
    atom = memory.organisation.atom_bytes
    if layout.interleave_bytes % atom:
        raise InputError(
            f"{where}.dram.interleave_bytes",
            f"{layout.interleave_bytes} is not a multiple of the {atom} B that one column command of {memory.name} moves",
        )
    for name, p in device.processors.items():
        multiple = p.bandwidth / given
        if p.kind in NEAR and multiple > best_multiple(memory, p.kind) * (1.0 + APART):
            raise InputError(
                f"{spec.name}: {name}.bandwidth_multiple", f"{multiple:g} is more than the "
                f"{best_multiple(memory, p.kind):g} times the pins' rate that its commands to "
                f"{memory.name} read",
            )  # fmt: skip
    kinds = {p.kind for p in device.processors.values()}
    if "logic-pim" in kinds and spec.memory.spaces > bundles_of(memory):
        raise InputError(
            f"{where}.spaces", f"{spec.memory.spaces} are more than the {bundles_of(memory)} bank "
            f"bundles of a pseudo channel of {memory.name}",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class BundleRead:
    """Columns read from one bundle in one go, `clocks` of the clock each [clock cycles]."""

    bundle: int
    columns: int
    clocks: int


@dataclass(slots=True)
class Meeting:
    """Result of two sides that work on the same bundles.

    Attributes
    ----------
    clocks : int
        Clocks until both sides are done.
    finished : list of int
        Clock at which each side was done.
    columns : list of int
        Columns that each side has read.
    switches : int
        Times a bundle changed sides.
    """

    clocks: int = 0
    finished: list[int] = field(default_factory=lambda: [0, 0])
    columns: list[int] = field(default_factory=lambda: [0, 0])
    switches: int = 0


def bundles_of(memory: DramSpec) -> int:
    """Return the number of bank bundles of one pseudo channel."""
    size = memory.pim.bundle_banks if memory.pim else None
    if size is None:
        raise InputError(memory.name, "has no bank bundles (pim: bundle_banks)")
    return memory.organisation.sids * memory.organisation.banks_per_sid // size


def switch_clocks(memory: DramSpec) -> int:
    """Return the clocks to replace the open row of a bundle: tRTP + tRP + tRCD."""
    t = memory.timings
    return t.RTP + t.RP + t.RCD_RD


def meet(memory: DramSpec, first: Sequence[BundleRead], second: Sequence[BundleRead]) -> Meeting:
    """Simulate two processors that read one pseudo channel's bundles at the same time.

    Returns
    -------
    Meeting
        At least the longer side in isolation, at most both in sequence plus a switch for every change.

    Examples
    --------
    >>> from .spec import load_memory
    >>> memory = load_memory("hbm3-5200-8hi")
    >>> meet(memory, [BundleRead(0, 32, 4)], [BundleRead(1, 32, 2)]).clocks
    128
    """
    import simpy

    count = bundles_of(memory)
    for visit in (*first, *second):
        if not 0 <= visit.bundle < count:
            raise InputError(f"bundle {visit.bundle}", f"{memory.name} has bundles 0 to {count - 1}")
    out = Meeting()
    env = simpy.Environment()
    bundles = [simpy.Resource(env) for _ in range(count)]
    last: list[int | None] = [None] * count
    price = switch_clocks(memory)

    def side(number: int, visits: Sequence[BundleRead]) -> Generator[Any, Any, None]:
        for visit in visits:
            with bundles[visit.bundle].request() as turn:
                yield turn
                if last[visit.bundle] not in (None, number):
                    out.switches += 1
                    yield env.timeout(price)
                last[visit.bundle] = number
                yield env.timeout(visit.columns * visit.clocks)
                out.columns[number] += visit.columns
        out.finished[number] = int(env.now)

    env.process(side(0, first))
    env.process(side(1, second))
    env.run()
    out.clocks = max(out.finished)
    return out
