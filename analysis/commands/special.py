"""Commands that do more than call one function with their options: each is handed all that was given."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from ...simulator.scenario import Scenario
from ...workloads.errors import InputError, typed_number, visible
from ...workloads.latencies import read_quantiles
from .io import answer, counting, folder, print_json, progress, show, split

if TYPE_CHECKING:
    from ..answers.demo import Comparison
    from ..answers.seeds import Seeds
    from ..answers.simulate import Simulation
    from ..live.recording import Recording
    from ..parallel import OnProgress

DESCRIBE = "describe"
"""Name in place of a search space, for the area, power and cost of an existing device."""
HOST = "host"
"""Name in place of a device, for this machine's CPU."""


def simulate(given: Any) -> None:
    """Simulate one run or several seeds, or the demo comparison if there are no arguments."""
    from ..answers.demo import compare_demo
    from ..answers.seeds import simulate_seeds
    from ..answers.simulate import simulate as run
    from ..answers.started import started

    scenario, keep, seeds, shown = Scenario.of(**given.options), given.out is not None, given.seeds, given.percentiles
    read_quantiles(shown)
    one = {name: getattr(given, name) for name in ("groups", "workers", "dask", "steps")}
    _check_emit(given.emit)
    if given.emit is not None:
        if seeds is not None:
            raise InputError("--emit", "needs one run: remove --seeds")
        started(given.emit, scenario)  # what it cannot start is refused before it is served
    for option, value in one.items():
        if value is not None and (seeds is not None or scenario.model is None):
            raise InputError(f"--{option}", "is for one run: name a model and system, remove --seeds")
    if shown is not None and scenario.model is None:
        raise InputError("--percentiles", "needs a model and system")

    def make() -> Simulation | Seeds | Comparison:
        with progress() as watch:
            if seeds is not None:
                return simulate_seeds(scenario, seeds=seeds, keep_stages=keep, progress=watch, percentiles=shown)
            if scenario.model is None and scenario.system is None and scenario.serving.engine is None:
                return compare_demo(scenario, keep_stages=keep, progress=watch)
            return replace(
                run(scenario, keep_stages=keep, progress=watch, percentiles=shown, **one),
                why=given.why,
                emit=given.emit,
            )

    answer(make, given.out, given.as_json, waits=False)  # `progress` says how far it is


def _check_emit(name: str | None) -> None:
    """Refuse a manifest of no known kind."""
    from ...simulator.frameworks.manifests import WRITERS

    if name is not None and name not in WRITERS:
        raise InputError("--emit", f"must be one of {', '.join(WRITERS)}, not {name!r}")


def _print_row(row: str) -> None:
    print(f"opbyte: {visible(row)}", file=sys.stderr, flush=True)


def _print_best(searched: Any) -> None:
    """Print the first layout that meets the SLO; a worker calls this."""
    from ..studies.plan.words import finished

    _print_row(f"so far, {finished(searched)}")


def plan(given: Any) -> None:
    """Make a plan, and print its rows as they are finished."""
    from ..studies.plan import plan

    _check_emit(given.emit)
    (out, as_json, options, why, emit), asked = split(given, "out", "as_json", "options", "why", "emit")
    make = partial(plan, on_row=_print_row, on_best=_print_best, **asked, **options)
    answer(lambda **more: replace(make(**more), why=why, emit=emit), out, as_json, counted="systems")


def design(given: Any) -> None:
    """Search a design space, or describe the area, power and cost of a device."""
    from ..studies.design import design, design_describe

    (out, as_json, device, _), asked = split(given, "out", "as_json", "device", "options")
    if given.space == DESCRIBE:
        answer(partial(design_describe, device), out, as_json)
        return
    if device is not None:
        raise InputError(device, f"needs {DESCRIBE} before it: opbyte design {DESCRIBE} {device}")
    answer(partial(design, folder=out, **asked), out, as_json, counted="designs")


def sweep(given: Any) -> None:
    """Evaluate the points of a sweep file, or a model on several systems at several loads."""
    from ...simulator.option import placed
    from ..report.files import write_sweep
    from ..studies.sweep import sweep
    from .options import counts, goals, reals, words

    study, usual = given.file, placed(Scenario)
    options = {name: x for name, x in given.options.items() if x != usual[name].default}
    loads = {"closed_loop": counts(given.closed_loop or "", "--closed-loop"), "rate": reals(given.rate or "", "--rate")}
    axes: dict[str, Any] = {name: values for name, values in loads.items() if values}
    if given.systems is not None:
        if len(axes) != 1:
            raise InputError("--closed-loop", "is needed, such as --closed-loop 1,4,16,64; or --rate instead, not both")
        axes = {"system": words(given.systems, "--systems"), **axes}
        study = {"title": f"{study} on {', '.join(axes['system'])}", "base": {"model": study, **options}, "axes": axes}
    elif given_names := [*options, *axes]:
        raise InputError(usual[given_names[0]].flag, "needs a model and --systems; a sweep file has its own options")
    wanted = None if given.objectives is None else goals(given.objectives, "--objectives")

    with counting("points") as watch:
        result = sweep(
            study, given.out, objectives=wanted, workers=given.workers, dask=given.dask, progress=watch,
            measured=given.measured, also=write_sweep,
        )  # fmt: skip
    show(result, given.as_json)
    if result.failed == len(result.table):
        raise typer.Exit(1)


def train(given: Any) -> None:
    """Simulate a training step, search the fastest one, or simulate a step from a framework's file."""
    from ..answers.train import train
    from ..answers.train_recipe import fastest_training, train_recipe

    (out, as_json, options, search), others = split(given, "out", "as_json", "options", "search")
    asked = {name: value for name, value in others.items() if value is not None}
    make: Callable[..., Any] = fastest_training if search else train
    if given.recipe is not None:
        make = partial(train_recipe, search=search)
    answer(partial(make, **asked, **options), out, as_json)


def tune(given: Any) -> None:
    """Rank configurations of one shape, of a file of shapes, or for this machine's CPU."""
    from ..answers.tune import TOP, tune
    from ..answers.tune_host import TOP_OF_FILE, tune_host, tune_rows

    replaced = real_numbers(pairs(",".join(given.set_ or ()), "--set"), "--set")
    top, kernel, config = given.top, given.kernel, given.config
    if top is not None and not 1 <= top <= 100_000:
        raise InputError("--top", f"must be from 1 to 100000, not {top}")
    if (given.shape is None) == (given.shapes is None):
        raise InputError("opbyte tune", "needs one of --shape and --shapes")
    searched = {"--sensitivity": given.sensitivity, "--config": config}
    make: Callable[..., Any]
    if given.shapes is not None:
        _refuse(searched, "needs --shape, not --shapes")
        make = partial(tune_rows, kernel, given.shapes, device=given.device, top=top or TOP_OF_FILE,
                       grid=given.grid, set_=replaced)  # fmt: skip
    elif given.device is None:
        raise InputError("--device", "is needed with --shape")
    elif given.device == HOST:
        others = {"--grid": given.grid, "--set": given.set_, "--config": config, "--sensitivity": given.sensitivity}
        _refuse(others, "is not supported for CPU kernels of this machine; remove it")
        make = partial(tune_host, kernel, pairs(given.shape or "", "--shape"), top=top or TOP)
    else:
        make = partial(
            tune, kernel, pairs(given.shape or "", "--shape"), given.device, top=top or TOP, grid=given.grid,
            set_=replaced, sensitivity=given.sensitivity,
            config=None if config is None else whole_numbers(pairs(config, "--config"), "--config"),
        )  # fmt: skip
    answer(make, given.out, given.as_json)


def _refuse(given: Mapping[str, object], reason: str) -> None:
    """Refuse given options that do not apply to this call."""
    for option, value in given.items():
        if value:
            raise InputError(option, reason)


def record(given: Any) -> None:
    """Record a server; the recording is written even if a signal ends it."""
    from ..live.record import record
    from ..live.recording import partial_copy
    from ..show.interrupt import Ended, heard

    (out, as_json, options), asked = split(given, "out", "as_json", "options")
    told_late: list[int] = []
    with ExitStack() as stack:

        def make(progress: OnProgress | None) -> Recording:
            copy = stack.enter_context(partial_copy(out))
            result = record(progress=progress, on_ended=copy, **asked, **options)
            stack.enter_context(heard(told_late.append))  # it is written, whatever comes now
            return result

        result = answer(make, out, as_json, counted="requests")
    if result.cut or told_late:
        raise Ended(signal.Signals[result.cut] if result.cut else told_late[0])
    if not result.answered:
        raise typer.Exit(1)


def catalog(given: Any) -> None:
    """Print a list of the catalog."""
    from ..names import catalog

    kind = given.kind
    with folder(given.out) as files:
        rows = catalog(kind)
        data = {"kind": kind, "names": [row["name"] for row in rows], "items": rows}
        if files:
            files.json(f"{kind}.json", data)
    if given.as_json:
        print_json(data)
        return
    from ..show.console import print_table, print_text

    print_table(rows) if rows else print(f"no {kind} yet")
    if kind == "systems":
        print_text("Any <device>-x<N> and <device>-<nodes>x<N> is a system too: h100-x4, h100-2x8.")


def describe(given: Any) -> None:
    """Print the definition of a name as a file to copy."""
    from ..answers.description import describe

    with folder(given.out) as files:
        description = describe(given.name)
        if files:
            files.text(f"{description.name}.yaml", description.text())
    if given.as_json:
        print_json(description.to_dict())
    else:
        print(description.text(), end="")


def init(given: Any) -> None:
    """Print or write a template file, or its schema."""
    from ..reference.kinds import TEMPLATES, schema, template

    with folder(given.out) as files:
        made = schema(given.kind) if given.as_schema else None
        text = template(given.kind)
        if files and made is not None:
            files.json(f"{given.kind}.schema.json", made)
        elif files:
            files.text(TEMPLATES[given.kind], text)
    if made is not None:
        print_json(made)
    else:
        print(text, end="")


def measure_torch(given: Any) -> None:
    """Print the script that fills kernel tables on a GPU."""
    from ..reference.kinds import measuring_script

    print(measuring_script(), end="")


def pairs(text: str, option: str) -> dict[str, str]:
    """Return the keys and values of an option as text.

    Raises
    ------
    InputError
        If a part is not ``key=value``, or a key occurs twice.

    Examples
    --------
    >>> pairs("m=16, n=4096", "--shape")
    {'m': '16', 'n': '4096'}
    """
    out: dict[str, str] = {}
    for part in map(str.strip, text.split(",") if text.strip() else ()):
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals or not key or not value:
            raise InputError(option, f"{part!r:.60} is not KEY=VALUE")
        if key in out:
            raise InputError(option, f"{key} is given twice")
        out[key] = value
    return out


def real_numbers(given: Mapping[str, str], option: str) -> dict[str, float]:
    """Return the values as finite numbers.

    Raises
    ------
    InputError
        If a value is not a finite number.
    """
    out = {}
    for key, value in given.items():
        out[key] = typed_number(value)
        if not abs(out[key]) < 1e100:
            raise InputError(option, f"{key} must be a number, not {value!r:.40}")
    return out


def whole_numbers(given: Mapping[str, str], option: str) -> dict[str, int]:
    """Return the values as whole numbers.

    Raises
    ------
    InputError
        A value that is none.
    """
    numbers = real_numbers(given, option)
    for key, value in numbers.items():
        if value != int(value):
            raise InputError(option, f"{key} must be a whole number, not {given[key]!r:.40}")
    return {key: int(value) for key, value in numbers.items()}
