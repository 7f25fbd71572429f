"""What a device is made of, in its YAML: the `silicon:` block."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...workloads.errors import nearest
from ...workloads.specfile import Spec
from ..fields import Count, NonNegative, Positive
from .constants import constants

MEMORIES = ("hbm2", "hbm3", "hbm3e", "hbm4", "gddr", "lpddr")
"""Memories by what a gigabyte costs."""


class DieSpec(Spec):
    """One kind of die of a device: `count` of them.

    `like` names a published die (`constants.yaml`), whose numbers are the defaults. Cores are the cores on the die;
    disabled ones cost area too. MACs are dense 16-bit multiply-accumulates a clock, lanes fp32 ones; `hbm` counts
    interfaces to stacks. A given `area_mm2` is used unchanged.
    """

    like: str | None = None
    count: Count = 1
    node: str | None = None
    cores: NonNegative | None = None
    macs_per_core: NonNegative | None = None
    lanes_per_core: NonNegative | None = None
    registers_bytes: NonNegative | None = None
    local_bytes: NonNegative | None = None
    cache_bytes: NonNegative | None = None
    hbm: NonNegative | None = None
    gddr_bits: NonNegative | None = None
    links: NonNegative | None = None
    link: str | None = None
    area_mm2: Positive | None = None

    @model_validator(mode="after")
    def _known(self) -> DieSpec:
        known = constants()
        for name, given, names in (
            ("like", self.like, known.dies),
            ("node", self.node, known.nodes),
            ("link", self.link, known.links),
        ):
            if given is not None and given not in names:
                raise ValueError(f"{name} {given!r} is not known{nearest(given, names)}")
        if self.like is None and (self.node is None or self.cores is None):
            raise ValueError("give like (a published die), or node and cores")
        return self


class SiliconSpec(Spec):
    """Dies of one device, none where its units all sit in the memory, and what that is; see `devices.silicon`.

    `enabled` is the share of cores that a product uses: below 1, dies with a broken core are sold too.
    """

    dies: tuple[DieSpec, ...] = ()
    memory: Literal["hbm2", "hbm3", "hbm3e", "hbm4", "gddr", "lpddr"]
    enabled: Annotated[float, Field(gt=0, le=1)] = 1.0
