"""Parts of a serving engine: their options, and which cannot go with which, each pair with its reason.

Parts compose unless `PAIRS` says not: the table here is what refuses, and what `opbyte list parts` prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...workloads.errors import InputError


class Part(NamedTuple):
    """One feature of a serving engine or a fleet: options that ask for it, and a line on it."""

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

PAIRS: dict[tuple[str, str], str] = {
    ("sglang", "tensorrt-llm"): "an engine has one scheduler",
    ("resident-experts", "experts-apart"): "an expert lies in one place",
    (
        "resident-experts",
        "overlap",
    ): "a layer cut in two waits for experts twice, and engines that bring them cut none",
    ("overlap", "experts-apart"): "micro-batches that go to and fro are its overlap already",
    (
        "kv-tiers",
        "sglang",
    ): "its tree copies whole nodes by counts of hits; tiers keep blocks by last use",
    (
        "kv-tiers",
        "tensorrt-llm",
    ): "its tree offloads by priorities as it evicts; tiers keep blocks by last use",
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


def parts_of(d: Any) -> dict[str, str]:
    """Parts of a `deployment.Deployment`, and the options that ask for them."""
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
