"""Parts of a serving engine: their options, and which cannot go with which, each pair with its reason.

Parts compose unless `PAIRS` says not: the table here is what refuses, and what `opbyte list parts` prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...workloads.errors import InputError
from ...workloads.yamlfile import read_yaml


class Part(NamedTuple):
    """One feature of a serving engine or a fleet: options that ask for it, and a line on it; where it is."""

    options: str
    title: str
    code: Sequence[str] = ()  # its modules, below `simulator`
    page: str = ""  # in docs
    tests: Sequence[str] = ()


_LISTED = read_yaml(Path(__file__).parent / "parts.yaml")
PARTS: dict[str, Part] = {name: Part(**own) for name, own in _LISTED["parts"].items()}
PAIRS: dict[tuple[str, str], str] = {(one, other): why for one, other, why in _LISTED["pairs"]}
"""Pairs that are refused; all others run."""


def refused_with(name: str) -> dict[str, str]:
    """Parts that one cannot go with, each with the reason."""
    return {other: why for pair, why in PAIRS.items() if name in pair for other in pair if other != name}


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
