"""Choices of a plan in addition to systems, layouts and formats (``--search``).

Drafts, tiers, power caps and redundant experts are tried as given and without; drafts also with fewer tokens. Two pools
are systems of one kind in several ratios, scaled to the load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from ....simulator.scenario import Scenario
from ....workloads.errors import InputError, nearest
from ....workloads.speculators import read_asked, read_rates
from ...show.text import Records

Extra = tuple[tuple[str, Any], ...]
"""Options of one candidate."""
POOLS = "pools"
RATIOS = ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1))
"""Systems that prefill, and those that decode, of two pools."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "drafts": ("speculative", "acceptance"),
    "tiers": ("kv_tiers", "kv_write", "kv_load", "kv_prefetch"),
    "caps": ("power_cap",),
    "copies": ("redundant_experts", "expert_placement", "expert_dispatch"),
}
"""What may be searched -> options that say it, the first of which it needs."""
WORDS = {
    "speculative": "drafts {}", "kv_tiers": "tiers {}", "power_cap": "cap {:g} W",
    "redundant_experts": "{} more experts",
}  # fmt: skip


def read_search(text: str | None) -> tuple[str, ...]:
    """Parse comma-separated names."""
    names = tuple(name.strip() for name in (text or "").split(",") if text)
    known = (POOLS, *CHOICES)
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"; known: {', '.join(known)}"
            raise InputError("--search", f"tries no {name!r}{hint}")
    return names


def choices_of(scenario: Scenario, search: Sequence[str]) -> tuple[Scenario, tuple[Extra, ...]]:
    """A scenario without what is searched, and what each candidate may have of it."""
    given = {option.name: value for option, value in scenario.given()}
    ways: list[Records] = []
    for name, options in CHOICES.items():
        options_own = {option: given[option] for option in options if option in given}
        if name not in search:
            continue
        if options[0] not in options_own:
            flag = f"--{options[0].replace('_', '-')}"
            raise InputError(f"--search {name}", f"needs {flag}, which is tried with and without")
        ways.append([{}, *(_fewer(options_own) if name == "drafts" else [options_own])])
        none: dict[str, Any] = {n: False if x is True else None for n, x in options_own.items()}
        scenario = scenario.changed(**none)
    merged = ({k: v for way in ways_ for k, v in way.items()} for ways_ in product(*ways))
    return scenario, tuple(tuple(sorted(extra.items())) for extra in merged)


def _fewer(options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Drafts up to as many as are given, with as many chances of acceptance."""
    most = read_asked(options["speculative"])
    rates = options.get("acceptance")
    for count in range(1, most.tokens + 1):
        entry = {"speculative": str(replace(most, tokens=count))}
        if rates is not None:
            entry["acceptance"] = ",".join(f"{x:g}" for x in read_rates(rates)[:count])
        yield entry


def words_of(extra: Extra) -> list[str]:
    """Return the options of a candidate as text."""
    return [WORDS[name].format(value) for name, value in extra if name in WORDS]
