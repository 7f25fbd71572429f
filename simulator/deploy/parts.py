"""Parts of a serving engine: their options, and which cannot go with which, each pair with its reason.

Parts compose unless `PAIRS` says not: the table here is what refuses, and what `opbyte list parts` prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ...workloads.errors import InputError


@dataclass(frozen=True, slots=True)
class Part:
    """One feature of a serving engine or a fleet.

    Attributes
    ----------
    options : str
        That ask for it.
    title : str
        A line on it.
    """

    options: str
    title: str


PARTS: dict[str, Part] = {
    "kv-tiers": Part("--kv-tiers", "memories below the devices' that keep KV blocks"),
    "drafts": Part("--speculative", "drafts that are verified with the next token"),
    "two-pools": Part("--prefill, --decode", "prompts and answers on devices of their own"),
    "classes": Part(
        "POLICY+priority, POLICY+vtc, --classes with bounds", "queues by class or tenant"
    ),
    "adapters": Part("--adapters", "LoRA adapters, all in the devices' memory"),
    "resident-adapters": Part("--adapters-resident", "adapters that come from the host's memory"),
    "resident-experts": Part("--experts-resident", "experts that come from the host's memory"),
    "experts-apart": Part("--experts-on", "experts on devices of their own"),
    "expert-copies": Part("--expert-placement, --redundant-experts", "placed experts and copies"),
    "overlap": Part("--overlap", "exchanges beside computation"),
    "pipeline": Part("--pp", "layers in stages"),
    "sglang": Part("--policy sglang", "SGLang's own scheduler"),
    "tensorrt-llm": Part("--policy tensorrt-llm", "TensorRT-LLM's own executor"),
    "autoscale": Part("--autoscale", "replicas that come and go"),
    "failures": Part("--fail, --mtbf", "replicas that fail"),
    "sessions": Part("--turns, traces with sessions", "requests that follow others"),
    "encoder": Part("--encoder", "images that an encoder takes before prompts"),
    "power-cap": Part("--power-cap", "a board's limit, for which its clock falls"),
    "derived-memory": Part("--memory derived", "bandwidth of each access pattern"),
}

_HOST_LINK = "both use a device's link to the host's memory; what one leaves the other is not known"
_ONE_PLACE = "an expert lies in one place"
_OWN_DRAFTS = (
    "its scheduler has rules of its own for drafts, of which no measured schedule is known"
)
_OWN_TIERS = (
    "it finds blocks in a tree of its own, and when that copies them elsewhere is not known"
)
_ONE_DOOR = "slots for adapters are dealt at the door of one engine that is always there"

PAIRS: dict[tuple[str, str], str] = {
    ("sglang", "tensorrt-llm"): "an engine has one scheduler",
    ("resident-experts", "experts-apart"): _ONE_PLACE,
    ("expert-copies", "resident-experts"): _ONE_PLACE,
    ("kv-tiers", "resident-experts"): _HOST_LINK,
    ("kv-tiers", "resident-adapters"): _HOST_LINK,
    ("resident-experts", "adapters"): _HOST_LINK,
    ("resident-experts", "overlap"): "when in a layer an expert is waited for is not known",
    ("overlap", "experts-apart"): "micro-batches that go to and fro are its overlap already",
    (
        "pipeline",
        "experts-apart",
    ): "in which order stages take the devices with experts is not known",
    ("adapters", "experts-apart"): "adapters of experts would lie on the other devices",
    ("autoscale", "experts-apart"): "whether the devices with experts come and go too is not said",
    (
        "kv-tiers",
        "pipeline",
    ): "when all stages have computed a block, so that it can leave, is not known",
    ("drafts", "sglang"): _OWN_DRAFTS,
    ("drafts", "tensorrt-llm"): _OWN_DRAFTS,
    ("drafts", "adapters"): "which adapter each draft of a step uses is not drawn",
    ("kv-tiers", "sglang"): _OWN_TIERS,
    ("kv-tiers", "tensorrt-llm"): _OWN_TIERS,
    ("resident-adapters", "two-pools"): _ONE_DOOR,
    ("resident-adapters", "autoscale"): _ONE_DOOR,
    ("resident-adapters", "failures"): _ONE_DOOR,
}
"""Pairs that are refused; all others run."""


def refused_with(name: str) -> dict[str, str]:
    """Parts that one cannot go with, each with the reason."""
    return {
        other: why for pair, why in PAIRS.items() if name in pair for other in pair if other != name
    }


def check_parts(given: Mapping[str, str]) -> None:
    """Refuse parts that cannot go together.

    Parameters
    ----------
    given : mapping of str to str
        Parts that there are, and the option that asks for each.

    Raises
    ------
    InputError
        Names both options.
    """
    for (one, other), why in PAIRS.items():
        if one in given and other in given:
            raise InputError(given[one], f"cannot go with {given[other]}: {why}")


class Deployed(Protocol):
    """What tells the parts of a `deployment.Deployment`."""

    @property
    def speculation(self) -> Any: ...
    @property
    def pools(self) -> Any: ...
    @property
    def tenants(self) -> Any: ...
    @property
    def store(self) -> Any: ...
    @property
    def apart(self) -> Any: ...
    @property
    def placing(self) -> Any: ...
    @property
    def overlap(self) -> str: ...
    @property
    def layout(self) -> Any: ...
    @property
    def system(self) -> Any: ...


def parts_of(d: Deployed) -> dict[str, str]:
    """Parts of a deployment, and the options that ask for them."""
    found: dict[str, str] = {}
    if d.speculation is not None:
        found["drafts"] = f"--speculative {d.speculation.asked}"
    if d.pools:
        found["two-pools"] = f"the two pools of {d.system.name}"
    if d.tenants is not None:
        found["adapters"] = "--adapters"
        if d.tenants.swapped:
            found["resident-adapters"] = "--adapters-resident"
    if d.store is not None:
        found["resident-experts"] = "--experts-resident"
    if d.apart is not None:
        found["experts-apart"] = "--experts-on"
    if d.placing is not None:
        found["expert-copies"] = "--expert-placement"
    if d.overlap != "none":
        found["overlap"] = f"--overlap {d.overlap}"
    if d.layout.pp > 1:
        found["pipeline"] = f"--pp {d.layout.pp}"
    return found
