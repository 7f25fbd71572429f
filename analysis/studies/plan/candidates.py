"""Candidates of a plan: systems of given devices, layouts, formats and policies.

Options that the user gives are fixed, all others are varied. For the policy of an engine, a candidate is an engine file
with its layout. So a plan contains only configurations that the engine can start with. Other policies get the layout as
options.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ....devices.catalog import describe_system, is_path, list_devices, load_device
from ....devices.mapping import family
from ....devices.spec import SystemSpec
from ....simulator.frameworks.launch import FILES, Room, Start, command_line, engine_values, hub_name, launch_of
from ....simulator.frameworks.manifests import Copies
from ....simulator.frameworks.sglang_file import sglang_drafts
from ....simulator.frameworks.sharing import SHARING, Sharing
from ....simulator.frameworks.vllm_file import DRAFTS, drafts_written
from ....simulator.option import flag_of
from ....simulator.scenario import Scenario
from ....simulator.scenario.options import DeployOptions
from ....workloads.errors import InputError, nearest
from ....workloads.layers.ffn import FeedForward
from ....workloads.layers.moe import MixtureOfExperts
from ....workloads.model import ModelSpec
from ....workloads.speculators import read_asked, read_rates
from ....workloads.textfile import digest_of
from ...answers.usual import POLICY, framework_of
from ...show.text import Records
from ..variants import Axes, layouts

Extra = tuple[tuple[str, Any], ...]
"""Names and values of the searched options of one candidate."""
POOLS = "pools"
RATIOS = ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1))
"""Numbers of prefill and decode systems of one replica with two pools."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "drafts": ("speculative", "acceptance"),
    "tiers": ("kv_tiers", "kv_write", "kv_load", "kv_prefetch"),
    "caps": ("power_cap",),
    "copies": ("redundant_experts", "expert_placement", "expert_dispatch"),
}
"""Name in ``--search`` -> options that it varies; the first one must be given."""
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
            raise InputError("--search", f"unknown choice {name!r}{hint}")
    return names


def choices_of(scenario: Scenario, search: Sequence[str]) -> tuple[Scenario, tuple[Extra, ...]]:
    """Return the scenario without the searched options, and every combination of these options."""
    given = {option.name: value for option, value in scenario.given()}
    ways: list[Records] = []
    for name, options in CHOICES.items():
        options_own = {option: given[option] for option in options if option in given}
        if name not in search:
            continue
        if options[0] not in options_own:
            flag = flag_of(options[0])
            raise InputError(f"--search {name}", f"needs {flag}, which is tried with and without")
        ways.append([{}, *(_fewer(options_own) if name == "drafts" else [options_own])])
        none: dict[str, Any] = {n: False if x is True else None for n, x in options_own.items()}
        scenario = scenario.changed(**none)
    merged = ({k: v for way in ways_ for k, v in way.items()} for ways_ in product(*ways))
    return scenario, tuple(tuple(sorted(extra.items())) for extra in merged)


def _fewer(options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield options with 1, 2, ... draft tokens up to the given number, each with its acceptance rates."""
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


SIZES = (1, 2, 4, 8, 16)
"""Numbers of devices per replica that are tried if the user names only a device."""
FOLDER = "FOLDER"
"""Placeholder in start commands for an unknown checkpoint."""
OWN = "own"
"""Name of the model's published format in lists of formats."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One replica: a system with a layout, formats and a policy.

    Attributes
    ----------
    system : str or Path
    start : Start or None
        Parallel degrees, token budget and formats; None if the system's description defines the layout.
    dtype, kv_dtype : str or None
        Formats of weights and KV cache; None for the model's published formats.
    framework : str or None
        Framework whose kernels are used.
    extra : tuple of (str, object)
        Searched options, see `choices_of`.
    pools : (int, int) or None
        Prefill and decode systems of a replica; None without separate pools.
    """

    system: str | Path
    devices: int
    policy: str
    start: Start | None
    token_budget: int | None
    dtype: str | None = None
    kv_dtype: str | None = None
    framework: str | None = None
    extra: Extra = ()
    pools: tuple[int, int] | None = None

    @property
    def engine(self) -> dict[str, Any] | None:
        """Return the engine file; None if the policy is not an engine's or the engine does not support the layout."""
        if self.start is None or self.policy not in FILES:
            return None
        values = engine_values(self.policy, self.start)
        drafts = dict(self.extra).get("speculative")
        if drafts is not None and self.policy in DRAFTERS:
            values |= DRAFTERS[self.policy](read_asked(drafts))
        return values | ({"framework": self.framework} if self.framework else {})

    @property
    def layout(self) -> str:
        """Return the degrees as text."""
        s = self.start
        degrees = {} if s is None else {"tp": s.tp, "dp": s.dp, "ep": s.ep, "pp": s.pp}
        words = [f"{k} {v}" for k, v in degrees.items() if v > 1 or k == "tp"]
        if self.pools is not None:
            words = ["{} to prefill, {} to decode".format(*self.pools)]
        return ", ".join([*(words or ["the system's own"]), *words_of(self.extra)])

    @property
    def parts(self) -> int:
        """Return the number of device groups that process different tokens: dp times pp."""
        return 1 if self.start is None else self.start.dp * self.start.pp

    def unit(self, system: str) -> str:
        """Return the name of one replica: its system, with their number if it has prefill and decode pools."""
        return system if self.pools is None else f"{sum(self.pools)} {system}"

    def scenario(self, base: Scenario, folder: Path, copies: int = 1) -> Scenario:
        """Return the scenario with `copies` replicas, and write its engine file to a folder."""
        changes: dict[str, Any] = {"system": self.system, "dtype": self.dtype, "kv_dtype": self.kv_dtype}
        changes["framework"] = self.framework
        changes |= dict(self.extra)
        if self.pools is not None:
            counts = (f"{self.system}x{n * copies}" for n in self.pools)
            changes |= dict(zip(("prefill", "decode"), counts, strict=True)) | {"system": None}
            return base.changed(**changes, policy=self.policy, token_budget=self.token_budget)
        if copies > 1:
            changes["replicas"] = copies
        values = self.engine
        if values is not None:
            path = folder / f"{digest_of(tuple(sorted(map(str, values.items()))))}.json"
            path.write_text(json.dumps(values), encoding="utf-8")
            return base.changed(**changes, engine=path)
        if self.start is not None:
            changes |= {name: getattr(self.start, name) for name in ("tp", "dp", "ep", "pp")}
        return base.changed(**changes, policy=self.policy, token_budget=self.token_budget)

    def command(self, model: str, room: Room) -> str | None:
        """Return the command that starts a replica; None if no engine's command supports it.

        It names `FOLDER` if the checkpoint is unknown.
        """
        values = self.engine
        if values is None:
            return None
        try:
            line = command_line(self.policy, hub_name(model), values, room)
        except InputError as error:
            line = command_line(
                self.policy, FOLDER, values, replace(room, own=self.dtype or room.own, whose=hub_name(model))
            )
            return f"{line}  # {FOLDER}: {error.reason}"
        left = self.start.unsaid(self.policy) if self.start is not None else []
        left += self._unsaid(values)
        return f"{line}  # {self.policy} has no key for {', '.join(left)}" if left else line

    def _unsaid(self, values: Mapping[str, Any]) -> list[str]:
        """Return options that the engine file does not contain."""
        written = set(SHARING) | (
            {"speculative", "acceptance"} if {DRAFTS, "speculative_algorithm"} & values.keys() else set()
        )
        return [f"{flag_of(n)} {x}" for n, x in self.extra if n not in written]

    def copies(self, model: str, room: Room, copies: int, node: int) -> Copies:
        """Return the replicas as a manifest starts them, on nodes of the given number of devices.

        Raises
        ------
        InputError
            If no engine's command starts a replica, or its checkpoint is unknown.
        """
        if self.engine is None:
            raise InputError("--emit", "no engine's start command supports this layout and policy")
        launch = launch_of(self.policy, hub_name(model), self.engine, room)
        return Copies(self.policy, launch, copies, self.devices, node)


DRAFTERS = {"vllm": drafts_written, "sglang": sglang_drafts}
"""Functions that write the keys of drafts, by engine."""


def check_blocks(candidate: Candidate, model: ModelSpec) -> None:
    """Refuse slices of feed-forward layers that cut a weight block, as vLLM and SGLang do when they load them (fp8.py).

    Raises
    ------
    InputError
        Names the width of a slice, and what to change.
    """
    start = candidate.start
    if start is None or candidate.policy not in DRAFTERS:
        return
    for ffn in {layer.ffn for layer in model.layers}:
        if isinstance(ffn, MixtureOfExperts):
            group, parts = "experts", start.tp * start.dp // start.ep
        elif isinstance(ffn, FeedForward):
            group, parts = "ffn", start.tp
        else:
            continue
        if (candidate.dtype or model.numerics.weight_format(group)) == "fp8_block" and ffn.width % (128 * parts):
            raise InputError(
                "--tp",
                f"vLLM and SGLang load no fp8_block weights of width {ffn.width} in {parts} parts: not multiples of "
                "128; use a smaller --tp or a larger --ep",
            )


def systems_of(name: str | Path) -> list[tuple[str | Path, SystemSpec]]:
    """Return a system by name or file, or the systems with `SIZES` of a device of the catalog.

    Raises
    ------
    InputError
        An unknown name, or a device without a system.
    """
    if isinstance(name, Path) or is_path(name):
        return [(name, describe_system(name)[0])]
    known = family(name)
    if known is None and name.lower() not in list_devices():
        return [(name, describe_system(name)[0])]
    device = load_device(known[0].device if known else name)[0]
    fewest = known[0].mapping.fewest(device) if known else 1
    node = device.node_size
    sizes = [n for n in SIZES if n >= fewest and (n <= node or n % node == 0)]
    named = [f"{name}-x{n}" if n <= node else f"{name}-{n // node}x{node}" for n in sizes]
    return [(text, describe_system(text)[0]) for text in named]


def candidates(
    name: str | Path, system: SystemSpec, model: ModelSpec, axes: Axes, lone: bool,
    asked: DeployOptions = DeployOptions(),  # noqa: B008  # frozen
) -> Iterator[Candidate]:  # fmt: skip
    """Yield all candidates on one system that an engine can be started with.

    Parameters
    ----------
    lone : bool
        Whether smaller systems of the same devices are candidates, too. Data-parallel ranks of a dense model are independent,
        so they are then replicas of a smaller system.
    asked : DeployOptions
        How ranks share experts, and the framework of the kernels; by default as the engine does.
    """
    devices = system.nodes * system.devices_per_node
    sharing = Sharing(**{name: asked.option(name) for name in SHARING})
    formats = [
        {"dtype": None if w == OWN else w, "kv_dtype": None if kv == OWN else kv}
        for w, kv in product(axes.get("dtype") or (OWN,), axes.get("kv_dtype") or (OWN,))
    ]
    m = system.mapping
    fixed = m.separate or m.pipeline or m.prefill_share is not None
    starts: list[Start | None] = [None] if fixed else list(layouts(system, model, axes, lone))
    ways: list[tuple[Start | None, tuple[int, int] | None]] = [(start, None) for start in starts]
    if not fixed and POOLS in (axes.get("search") or ()):
        ways += [(None, ratio) for ratio in RATIOS]
    for policy, (start, pools), how, budget, extra in product(
        axes.get("policy") or (POLICY,), ways, formats, axes.get("token_budget") or (None,),
        axes.get("choices") or ((),),
    ):  # fmt: skip
        sharing_of = replace(sharing, **{n: x for n, x in extra if n in SHARING})
        given = None if start is None else replace(start, tokens=budget, sharing=sharing_of, **how)
        kernels = asked.framework or framework_of(policy, [system], asked.costs)
        candidate = Candidate(name, devices * sum(pools or (1,)), policy, given, budget, **how, framework=kernels,
                          extra=extra, pools=pools)  # fmt: skip
        try:
            candidate.engine  # noqa: B018  # refuses layouts that the engine does not have
        except InputError:
            continue
        yield candidate
