"""`opbyte plan`: the system that meets an SLO at a load with the fewest devices, or least cost, energy or carbon."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, cast

from ....simulator.option import flag_of
from ....simulator.scenario import Scenario
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec
from ....workloads.requests.options import check_count, check_rate, check_real
from ...answers.price import check_prices
from ...parallel import OnProgress
from ...parallel.local import Workers
from ...parallel.study import Study
from ..loads import ATTAINMENT, knob_of, names_of, read_level
from .best import OnBest, Searched, searched_on
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
"""Default maximum number of devices of a plan."""
VARIED = ("tp", "dp", "ep", "pp", "dtype", "kv_dtype", "policy", "token_budget")
"""Scenario options that may have several comma-separated values; each value is tried."""
SEARCHED = ("rate", "rate_scale", "closed_loop", "replicas", "engine", "warmup", "stop", "duration")
"""Options that the plan sets itself, or that would change what its bounds count."""
APART = ("two-pools", "experts-apart", "autoscale")
"""Parts of a scenario that a plan refuses; pools are a choice of `search`, and the plan sets the number of replicas."""
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
    on_best: OnBest = None,
    **options: Unpack[PlanKeywords],
) -> Plan:
    """Find the best system, layout and policy that meet an SLO at a load.

    Parameters
    ----------
    model : Scenario, or str, Path or ModelSpec
        The scenario of every simulation, without system, layout and load, or its model.
    systems : sequence of str or Path, or str
        Devices (``h100``: replicas of 1 to 16 devices are tried) and systems (``h100-x8``: replicas of this system).
    slo : str or mapping of str to float
        As `capacity` takes it [s].
    load : float
        Total load [requests/s]; required unless a trace has arrival times.
    goal : str
        Value to minimise: ``devices``, ``cost`` (USD/h), ``energy`` (J/token) or ``carbon``. The others break ties.
    budget : float, optional
        Maximum cost [USD/h].
    most_devices : int
        Maximum number of devices of all replicas.
    sure : float, optional
        Probability from 0.5 to 0.99 of meeting the SLO. Systems are ranked by the replicas needed for it. Default: the
        median of the evidence.
    search : str, optional
        Comma-separated additional choices: pools, drafts, tiers, caps, copies. All but pools vary options that must be given.
    quick : bool
        Whether to skip the runs after the search; the result then has no intervals and no reason why fewer devices fail.
    availability : float, optional
        With ``mtbf`` and ``repair``: share of time in which enough replicas must be up (default 0.999). It determines the
        number of spare replicas.
    workers : int, optional
        Number of processes; default: one per name of `systems`, at most one per core.
    progress : callable, optional
        Called with (names done, names in all).
    on_row : callable
        Called with a one-line result for each name as soon as it is known.
    on_best : callable
        Called in the process of a name's search when its first candidate meets the SLO; it must be picklable.
    **options
        Other options of `Scenario`. ``tp``, ``dp``, ``ep``, ``pp``, ``dtype``, ``kv_dtype``, ``policy`` and
        ``token_budget`` may be lists or comma-separated texts of values to try. By default, degrees are varied, formats
        are the model's published ones (``own`` in a list), the policy is vllm, and the token budget is the policy's.

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
            raise InputError(flag_of(name), "is chosen by the plan; remove it")
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
    return Plan.of(task, tuple(_searched(task, names, Workers(workers), progress, on_row, on_best)))


def _searched(
    task: PlanTask, names: Sequence[str | Path], workers: Workers, progress: OnProgress | None,
    on_row: Callable[[str], None], on_best: OnBest,
) -> list[Searched]:  # fmt: skip
    """Search all names in parallel; each search is independent of the others."""
    ordered = sorted(names, key=partial(_usd_per_byte, task))  # refuses what is unknown before anything is simulated

    def print_row(searched: Searched) -> None:
        if searched.tried:  # else its options may be wrong, which the error below says
            on_row(finished(searched))

    searches = Study(partial(searched_on, task, on_best), workers=workers).results(ordered, progress, print_row)
    searches.sort(key=lambda searched: names.index(searched.name))
    if not any(s.tried for s in searches):
        refused = next((s.refused for s in searches if s.refused is not None), None)
        degrees = {name: task.axes[name] for name in VARIED if task.axes[name]}
        raise refused or InputError("--systems", f"no layout is possible with {degrees}")
    return searches


def _usd_per_byte(task: PlanTask, name: str | Path) -> float:
    """Return the USD per hour and byte/s of memory bandwidth: the systems that are probably cheapest are simulated first."""
    system = systems_of(name)[0][1]
    return (task.usd_per_hour(system, 1) or float("inf")) / system.device.memory.bandwidth_bytes_per_s


def _load(scenario: Scenario, load: float | None) -> tuple[dict[str, float], float]:
    """Return the option that sets the load with its value, and the load [requests/s]."""
    knob, unit = knob_of(scenario)
    if load is None:
        if knob == "rate":
            raise InputError("--load", "is needed: requests per second in all, for example 10")
        return {}, unit
    check_rate(load, "--load")
    return {knob: load / unit}, load


def _values(name: str, given: Any) -> tuple[Any, ...]:
    """Return the values of a varied option, given as one value, a list, or a comma-separated text.

    Raises
    ------
    InputError
        If a value is empty, or not a whole number although the option needs one.

    Examples
    --------
    >>> _values("tp", "4, 8"), _values("dtype", "own,fp8"), _values("pp", None)
    ((4, 8), ('own', 'fp8'), ())
    """
    if given is None:
        return ()
    listed = given.split(",") if isinstance(given, str) else given
    listed = [listed] if isinstance(listed, int) else list(listed)
    flag, out = flag_of(name), []
    integral = name not in ("dtype", "kv_dtype", "policy")
    for value in listed:
        text = value.strip() if isinstance(value, str) else value
        if integral and isinstance(text, str):
            text = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
        if text == "" or (not integral and not isinstance(text, str)):
            raise InputError(flag, f"needs comma-separated values, not {given!r}")
        out.append(check_count(text, flag, 1) if integral else text)
    return tuple(dict.fromkeys(out))
