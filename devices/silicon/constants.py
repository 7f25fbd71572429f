"""Schema of a device's dies (the `silicon:` block of its YAML), and the constants of `constants.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ...workloads.errors import nearest
from ...workloads.specfile import Spec
from ...workloads.yamlfile import read_yaml
from ..lines import Count, NonNegative, Positive

MEMORIES = ("hbm2", "hbm3", "hbm3e", "hbm4", "gddr", "lpddr")
"""Kinds of memory, which differ in the cost of a gigabyte."""


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


@dataclass(frozen=True, slots=True)
class ProcessNode:
    """A process: area of logic and of SRAM relative to N7, and the cost of a wafer [USD]."""

    logic: float
    sram: float
    wafer_USD: float


@dataclass(frozen=True, slots=True)
class Die:
    """Contents of a die: counts, and memories [MiB]; `area_mm2` if it is published.

    `registers` and `local` are per core, `macs` its dense 16-bit multiply-accumulates a clock, `lanes` its fp32 ones;
    `hbm` interfaces to stacks, `gddr` blocks of 32 bits.
    """

    node: str
    cores: float = 0.0
    macs: float = 0.0
    lanes: float = 0.0
    registers: float = 0.0
    local: float = 0.0
    cache: float = 0.0
    hbm: float = 0.0
    gddr: float = 0.0
    links: float = 0.0
    link: str | None = None
    area_mm2: float | None = None
    fitted: bool = True


@dataclass(frozen=True, slots=True)
class Constants:
    """All constants; `area`, `near` and `cost` have the names of the file."""

    nodes: Mapping[str, ProcessNode]
    links: Mapping[str, tuple[float, float]]
    area: Mapping[str, float]
    near: Mapping[str, float]
    products: tuple[str, ...]
    cost: Mapping[str, float]
    USD_per_GB: Mapping[str, float]
    published_USD: Mapping[str, float]
    dies: Mapping[str, Die]
    sources: Mapping[str, str]


@cache
def constants() -> Constants:
    """Return the package's constants; the file is read once."""
    raw = read_yaml(Path(str(files("opbyte.devices.silicon") / "constants.yaml")))
    area, cost = dict(raw["area"]), dict(raw["cost"])
    links = area.pop("links")
    per_gb, published = cost.pop("USD_per_GB"), cost.pop("published_USD")
    return Constants(
        nodes={k: ProcessNode(v["logic"], v["sram"], v["wafer_USD"]) for k, v in raw["nodes"].items()},
        links={k: (v["phy"], v["control"]) for k, v in links.items()},
        area=_values(area), near=_values(raw["near"]), products=tuple(raw["power"]["products"]),
        cost=_values(cost), USD_per_GB=_plain(per_gb), published_USD=_plain(published),
        dies={k: _die(v) for k, v in raw["dies"].items()}, sources=raw["sources"],
    )  # fmt: skip


def _values(block: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(entry["value"]) for name, entry in block.items()}


def _plain(block: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in block.items() if name != "source"}


def _die(given: Mapping[str, Any]) -> Die:
    return Die(
        given["node"], given["cores"], given["macs_per_core"], given["lanes_per_core"],
        given["registers_KiB"] / 1024, given["local_KiB"] / 1024, given["cache_MiB"],
        given.get("hbm", 0), given.get("gddr_bits", 0) / 32, given.get("links", 0),
        given.get("link"), given["area_mm2"], given.get("fitted", True),
    )  # fmt: skip
