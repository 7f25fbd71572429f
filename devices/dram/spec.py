"""Schema of a DRAM standard (``devices/dram/specs/*.yaml``): organisation, clock and timings."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...workloads.errors import SpecError, nearest
from ...workloads.specfile import Spec, below, build, load_description
from ..lines import Count, Positive
from ..spec import Name

MAX_BANKS = 128
"""Maximum number of banks of a channel, over its pseudo channels and stack ids."""

Cycles = Annotated[int, Field(ge=0, le=1_000_000)]
Some = Annotated[int, Field(ge=1, le=1_000_000)]

CHECKED = ("BL", "CL", "CWL", "RCD_RD", "RCD_WR", "RP", "RAS", "RC", "CCD_S", "CCD_L", "CCD_R",
           "RRD_S", "RRD_L", "FAW", "RTP", "WR", "WTR_S", "WTR_L", "RFC", "REFI")  # fmt: skip
"""Timings that every DRAM must state; zero is refused."""


class Organisation(Spec):
    """What one stack (or chip) holds; every count but `channels` is inside one channel.

    `atom_bytes` is what one column command moves.
    """

    channels: Count
    pseudo_channels: Literal[1, 2]
    sids: Count
    bank_groups: Count
    banks: Count
    rows: Count
    columns: Count
    atom_bytes: Count

    @property
    def banks_per_sid(self) -> int:
        """Number of banks of one stack id of one pseudo channel."""
        return self.bank_groups * self.banks

    @property
    def banks_per_channel(self) -> int:
        """Number of banks of a channel, over its pseudo channels and stack ids."""
        return self.pseudo_channels * self.sids * self.banks_per_sid

    @property
    def channel_bytes(self) -> int:
        """Capacity of one channel [B]."""
        return self.banks_per_channel * self.rows * self.columns * self.atom_bytes

    @model_validator(mode="after")
    def _powers_of_two(self) -> Organisation:
        for field in ("pseudo_channels", "sids", "bank_groups", "banks", "rows", "columns"):
            size = getattr(self, field)
            if size & (size - 1):
                raise ValueError(f"{field} is {size}: addresses are split by bits, so it must be a power of two")
        if self.banks_per_channel > MAX_BANKS:
            raise ValueError(
                f"{self.banks_per_channel} banks a channel are more than the {MAX_BANKS} that the "
                f"bank bits of an address can name"
            )
        return self


class Timings(Spec):
    """Timings in clock cycles (JEDEC's names without the t).

    BL is the clocks that one atom occupies its data bus. RTW is left out where it follows from CL + BL + 2 - CWL; PPD 0
    means that two PREs of a pseudo channel need no distance. CCD_R is the distance of reads of two stack ids.
    """

    BL: Cycles
    CL: Cycles
    CWL: Cycles
    RCD_RD: Cycles
    RCD_WR: Cycles
    RP: Cycles
    RAS: Cycles
    RC: Cycles
    CCD_S: Cycles
    CCD_L: Cycles
    CCD_R: Cycles
    RRD_S: Cycles
    RRD_L: Cycles
    FAW: Cycles
    RTP: Cycles
    WR: Cycles
    WTR_S: Cycles
    WTR_L: Cycles
    RFC: Cycles
    REFI: Cycles
    RTW: Some | None = None
    PPD: Cycles = 0
    RFC_PB: Some | None = None
    REFI_PB: Some | None = None
    RREFD: Cycles = 0

    @property
    def read_to_write(self) -> int:
        """Clocks from a read to a write of the same pseudo channel."""
        return self.CL + self.BL + 2 - self.CWL if self.RTW is None else self.RTW

    @model_validator(mode="after")
    def _possible(self) -> Timings:
        for field in CHECKED:
            if getattr(self, field) == 0:
                raise ValueError(f"t{field} is zero; every access takes time: give its clocks")
        if self.RAS < self.RCD_RD:
            raise ValueError(
                f"tRAS ({self.RAS}) is less than tRCD ({self.RCD_RD}): a row would close before its first read"
            )
        if self.RC < self.RAS:
            raise ValueError(f"tRC ({self.RC}) is less than tRAS ({self.RAS})")
        if self.RFC >= self.REFI:
            raise ValueError(f"tRFC ({self.RFC}) leaves no time in tREFI ({self.REFI})")
        if self.read_to_write <= 0:
            raise ValueError("tRTW follows as CL + BL + 2 - CWL, which is not positive")
        return self


class PimTimings(Spec):
    """Commands that read many banks at once, in clock cycles.

    `interval_all` and `interval_same` are the clocks between two commands that read every bank of a channel, or one
    bank of every bank group, stack id and pseudo channel. `bundle_banks` banks of a pseudo channel and one stack id
    respond to one command of a bank bundle, at `CCD_L`.
    """

    interval_all: Some | None = None
    interval_same: Some | None = None
    bundle_banks: Count | None = None


class DramSpec(Spec):
    """A DRAM standard at one speed: ``protocol`` names the rules of its command buses.

    ``hbm3`` (HBM4 too): the controller works in half clocks, an ACT takes three of them on the
    row bus, a column command two, others one; only PREs go out on falling edges. ``hbm2``: whole
    clocks, an ACT takes two.
    """

    name: Name
    title: str
    aliases: tuple[str, ...] = ()
    protocol: Literal["hbm2", "hbm3", "hbm4"]
    organisation: Organisation
    tCK_s: Positive
    timings: Timings
    pim: PimTimings | None = None

    @property
    def ticks_per_clock(self) -> int:
        """Number of controller ticks per clock cycle."""
        return 1 if self.protocol == "hbm2" else 2

    @property
    def tick_s(self) -> float:
        """Length of a controller tick [s]."""
        return self.tCK_s / self.ticks_per_clock

    @property
    def channel_bytes_per_s(self) -> float:
        """Peak rate of one channel's pins [B/s]."""
        org = self.organisation
        return org.pseudo_channels * org.atom_bytes / (self.timings.BL * self.tCK_s)

    @property
    def stack_bytes_per_s(self) -> float:
        """Peak rate of the pins of all channels [B/s]."""
        return self.organisation.channels * self.channel_bytes_per_s

    @model_validator(mode="after")
    def _bundles(self) -> DramSpec:
        bundle = self.pim.bundle_banks if self.pim else None
        if bundle is not None and bundle > self.organisation.banks_per_sid:
            raise ValueError(
                f"a bundle of {bundle} banks crosses stacks: one stack id of a pseudo channel "
                f"has {self.organisation.banks_per_sid}"
            )
        return self


IDENTITY = ("name", "title", "aliases")
"""Keys of a standard that ``extends`` does not inherit."""

_SPECS = Path(__file__).parent / "specs"


def list_memories() -> list[str]:
    """Return the names of the DRAM standards in the package, sorted."""
    return sorted(_files())


def load_memory(name: str | Path) -> DramSpec:
    """Load a DRAM standard by name (ignoring case) or from a YAML file.

    Raises
    ------
    SpecError
        No such standard or file, or a file that does not describe one.

    Examples
    --------
    >>> round(load_memory("hbm3-6400-8hi").channel_bytes_per_s / 1e9, 1)
    51.2
    """
    return describe_memory(name)[0]


def describe_memory(name: str | Path) -> tuple[DramSpec, dict[str, str]]:
    """Load a standard as :func:`load_memory` does, with the source of every number."""
    if isinstance(name, str) and not _is_path(name):
        path_found = _names().get(name.lower())
        if path_found is None:
            raise SpecError(repr(name), f"unknown memory{nearest(name.lower(), _names())}")
        spec, sources = _catalog_memory(path_found)
        return spec, dict(sources)
    path = Path(name)
    return build(DramSpec, load_description(path, _find, IDENTITY))


def _is_path(name: str) -> bool:
    return "/" in name or name.endswith((".yaml", ".yml"))


def _find(name: str, beside: Path) -> Path:
    """Return the file of ``extends: name``, for the file that has it."""
    if _is_path(name):
        return below(beside, name)
    files = _files()
    if name not in files:
        raise SpecError(f"{beside}: extends", f"unknown memory {name!r}{nearest(name, files)}")
    return files[name]


@cache
def _files() -> dict[str, Path]:
    return {path.stem: path for path in sorted(_SPECS.glob("*.yaml"))}


@cache
def _names() -> dict[str, str]:
    """Return the file's name for each name and alias in lower case."""
    out: dict[str, str] = {}
    for name in _files():
        spec, _ = _catalog_memory(name)
        out |= {alias.lower(): name for alias in (name, *spec.aliases)}
    return out


@cache
def _catalog_memory(name: str) -> tuple[DramSpec, dict[str, str]]:
    path = _files()[name]
    spec, sources = build(DramSpec, load_description(path, _find, IDENTITY))
    if spec.name != name:
        raise SpecError(path, f"its name is {spec.name!r}; rename the file to this name")
    return spec, sources
