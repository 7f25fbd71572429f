"""`opbyte plan`: the system that meets an SLO at a load with the fewest devices, or least cost, energy or carbon."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

from ....simulator.scenario import Scenario
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec
from ....workloads.requests.options import check_count, check_rate, check_real
from ...answers.price import check_prices
from ...parallel import OnProgress
from ...parallel.local import Workers
from ...parallel.study import Study
from ..loads import ATTAINMENT, knob_of, names_of, read_level
from .best import Searched, searched_on
from .candidates import choices_of, read_search, systems_of
from .points import PlanTask, check_goal
from .result import Plan
from .spares import outages_of
from .words import finished

if TYPE_CHECKING:
    from ....simulator.scenario.keywords import PlanKeywords, ScenarioKeywords

Goal = Literal["devices", "cost", "energy", "carbon"]
SPAN_S, FEWEST_REQUESTS, MOST_REQUESTS = 60.0, 400, 4000
"""Requests of every simulation: one minute of the load, within limits."""
MOST_DEVICES = 64
"""Devices that a plan has at most unless more are allowed."""
VARIED = ("tp", "dp", "ep", "pp", "dtype", "kv_dtype", "policy", "token_budget")
"""Options of a scenario that may have several comma-separated values."""
SEARCHED = ("rate", "rate_scale", "closed_loop", "replicas", "engine", "warmup", "stop", "duration")
"""Options that the plan sets itself, or that would change what its bounds count."""
APART = ("two-pools", "experts-apart", "autoscale")
"""Parts of a scenario that no plan is given; two pools may be searched, and the plan sets the replicas."""
TRIED = {"drafts": "drafts", "kv-tiers": "tiers"}
"""Parts that are tried with and without, by their name in `search`."""


def plan(
    model: Scenario | str | Path | ModelSpec,
    systems: Sequence[str | Path] | str,
    slo: str | Mapping[str, float],
    *,
    load: float | None = None,
    goal: Goal = "devices",
    budget: float | None = None,
    most_devices: int = MOST_DEVICES,
    sure: float | None = None,
    search: str | None = None,
    quick: bool = False,
    availability: float | None = None,
    workers: int | None = None,
    progress: OnProgress | None = None,
    on_row: Callable[[str], None] = lambda row: None,
    **options: Unpack[PlanKeywords],
) -> Plan:
    """Find the system, layout and policy that meet an SLO at a load best.

    Parameters
    ----------
    model : Scenario, or str, Path or ModelSpec
        The scenario of every simulation, without system, layout and load, or its model.
    systems : sequence of str or Path, or str
        Devices (``h100``: copies of 1 to 16 of them are tried) and systems (``h100-x8``: copies of it).
    slo : str or mapping of str to float
        As `capacity` takes it [s].
    load : float
        Requests per second in all; needed unless a trace says when its own come.
    goal : str
        What is to be small: ``devices``, ``cost`` (dollars an hour), ``energy`` (of a token) or
        ``carbon``; then, between equals, the others.
    budget : float, optional
        Most dollars an hour.
    most_devices : int
        Most devices of all copies.
    sure : float, optional
        Probability from 0.5 to 0.99 of meeting the SLO: systems are ranked by the replicas that it needs; default: the
        median of the evidence.
    search : str, optional
        Additional choices: pools, and drafts, tiers, caps and copies as options give them; see `choices`.
    quick : bool
        Whether the search's own runs are enough: no intervals, and no reason why fewer devices fail.
    availability : float, optional
        With ``mtbf`` and ``repair``: share of time in which enough replicas must be up, 0.999 by default. There are as
        many spare replicas as that takes.
    workers : int, optional
        Processes; one a name of `systems`, at most one a core, by default.
    progress : callable, optional
        Called with (names done, names in all).
    on_row : callable
        Called with a one-line result for each name as soon as it is known.
    **options
        Other options of `Scenario`. ``tp``, ``dp``, ``ep``, ``pp``, ``dtype``, ``kv_dtype``, ``policy``
        and ``token_budget`` may be lists, or texts with commas: what is tried. Without them, degrees are
        varied, formats are the model's own (``own`` in a list), the policy is vllm and the budget its own.

    Raises
    ------
    InputError
        Anything wrong with the arguments or files.
    """
    level, names = read_level(slo), names_of(systems)
    given = dict(options)
    if ATTAINMENT in level or options.get("classes") is not None:
        name = "--slo attainment" if ATTAINMENT in level else "--classes"
        raise InputError(name, "is not supported by plan; use capacity")
    for name in ("system", *SEARCHED):
        if given.get(name) is not None:
            raise InputError(f"--{name.replace('_', '-')}", "is chosen by the plan; remove it")
    axes = {name: _values(name, given.pop(name, None)) for name in VARIED}
    axes["search"] = read_search(search)
    scenario, axes["choices"] = choices_of(Scenario.of(model, **cast("ScenarioKeywords", given)), axes["search"])
    check_prices(scenario)
    outages = outages_of(scenario, availability)
    if outages is not None:
        scenario = scenario.changed(mtbf=None, repair=None)
    for placed, _ in scenario.given():
        if placed.group in APART:
            raise InputError(placed.flag, "is not supported by plan; use capacity")
        if placed.group in TRIED:
            raise InputError(placed.flag, f"needs --search {TRIED[placed.group]}, which tries it")
    if scenario.model is None:
        raise InputError("MODEL", "is needed too, for example llama-3-70b")
    check_goal(scenario, goal, budget)
    check_count(most_devices, "--most-devices", 1)
    if sure is not None:
        check_real(sure, "--sure", 0.5, 0.99)
    knob, per_s = _load(scenario, load)
    if scenario.workload.requests is None:
        few = math.ceil(min(max(per_s * SPAN_S, FEWEST_REQUESTS), MOST_REQUESTS))
        scenario = scenario.changed(requests=few)
    task = PlanTask(scenario, knob, per_s, level, goal, budget, most_devices, axes, sure, quick, outages)
    return Plan.of(task, tuple(_searched(task, names, Workers(workers), progress, on_row)))


def _searched(
    task: PlanTask, names: Sequence[str | Path], workers: Workers, progress: OnProgress | None,
    on_row: Callable[[str], None],
) -> list[Searched]:  # fmt: skip
    """Search all names in parallel; each search is independent of the others."""
    for name in names:
        systems_of(name)  # refuses what is unknown before anything is simulated

    def print_row(searched: Searched) -> None:
        if searched.tried:  # else its options may be wrong, which the error below says
            on_row(finished(searched))

    searches = Study(partial(searched_on, task), workers=workers).results(names, progress, print_row)
    if not any(s.tried for s in searches):
        refused = next((s.refused for s in searches if s.refused is not None), None)
        degrees = {name: task.axes[name] for name in VARIED if task.axes[name]}
        raise refused or InputError("--systems", f"no layout is possible with {degrees}")
    return searches


def _load(scenario: Scenario, load: float | None) -> tuple[dict[str, float], float]:
    """The option that sets the load, and requests per second."""
    knob, unit = knob_of(scenario)
    if load is None:
        if knob == "rate":
            raise InputError("--load", "is needed: requests per second in all, for example 10")
        return {}, unit
    check_rate(load, "--load")
    return {knob: load / unit}, load


def _values(name: str, given: Any) -> tuple[Any, ...]:
    """Values of a varied option: one, a list, or a text with commas.

    Raises
    ------
    InputError
        No whole number where one is needed, or an empty value.

    Examples
    --------
    >>> _values("tp", "4, 8"), _values("dtype", "own,fp8"), _values("pp", None)
    ((4, 8), ('own', 'fp8'), ())
    """
    if given is None:
        return ()
    listed = given.split(",") if isinstance(given, str) else given
    listed = [listed] if isinstance(listed, int) else list(listed)
    flag, out = f"--{name.replace('_', '-')}", []
    integral = name not in ("dtype", "kv_dtype", "policy")
    for value in listed:
        text = value.strip() if isinstance(value, str) else value
        if integral and isinstance(text, str):
            text = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
        if text == "" or (not integral and not isinstance(text, str)):
            raise InputError(flag, f"needs comma-separated values, not {given!r}")
        out.append(check_count(text, flag, 1) if integral else text)
    return tuple(dict.fromkeys(out))
