"""Commands that fit and check models, and write files in addition to their result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...workloads.errors import InputError
from .io import answer, resumed, show, side_file, split, told

if TYPE_CHECKING:
    from ..parallel import OnProgress
    from ..show.kept import Kept
    from ..show.output import OutputFolder
    from ..validate.calibrate import Calibration
    from ..validate.check import Compared
    from ..validate.kernels import KernelValidation


def calibrate(given: Any) -> None:
    """Fit kernel models of devices, and on request the sets that devices share."""
    from ..validate.calibrate import ALL, calibrate

    if given.shared and (given.device != ALL or given.out is None):
        raise InputError("--shared", "needs --device all, as the sets are fitted together, and --out")
    progress = (lambda text: print(f"fitting {text}", file=sys.stderr)) if sys.stderr.isatty() else None

    def write(result: Calibration, files: OutputFolder) -> None:
        for name in result.fits:
            files.text(f"{name}.yaml", result.yaml(name))
        files.text("calibration.md", result.report())
        if given.shared:
            for name, text in _shared(result, given.date, progress, parts).items():
                files.text(name, text)

    parts = resumed("calibrate", given.fresh)
    make = partial(
        calibrate, given.tables, given.device, date=given.date, family=given.family, progress=progress, kept=parts
    )
    answer(make, given.out, given.as_json, write=write, kept=parts, waits=False)


def _shared(
    result: Calibration, date: str | None, progress: Callable[[str], None] | None, kept: Kept
) -> dict[str, str]:
    """Return the files of the sets that devices share, and of their report."""
    from ..validate.calibrate import set_report, stamp
    from ..validate.kernel_sets import fit_sets

    fitted = fit_sets(result.measured, stamp(date), progress, kept)
    files = {f"kernels-{name}.yaml": text for name, text in fitted.files().items()}
    return {**files, "frameworks.md": set_report(fitted.sets)}


def calibrate_run(given: Any) -> None:
    """Fit the connection between a host and its GPUs to one measured run."""
    from ..validate.hosts import calibrate_run

    parts = resumed("calibrate-run", given.fresh)
    with side_file(given.out, "--out") as write:
        result = calibrate_run(
            given.run, given.free, host=given.host, part=given.part, seed=given.seed, kept=parts
        )  # fmt: skip
        write("text", lambda: result.yaml(Path(str(given.out))))
    show(result, given.as_json)
    parts.forget()


def measure(given: Any) -> None:
    """Measure kernels of this machine, or every configuration of them."""
    from ..validate.measure import measure_machine

    (out, as_json, what, backend, _), asked = split(given, "out", "as_json", "what", "backend", "options")
    asked["only"] = tuple(map(str.strip, given.only.split(","))) if given.only.strip() else ()
    make: Callable[..., Any] = partial(measure_machine, backend=backend, **asked)
    if what == "configs":
        refused = {"--loop": given.loop, "--threads": given.threads not in (None, 1), "--lenient": given.lenient}
        for option, is_given in refused.items():
            if is_given:
                raise InputError(option, "is not supported by measure configs, which searches on one thread; remove it")
        make = _configs(backend, quick=given.quick, only=asked["only"], seed=given.seed)
    elif what != "kernels":
        raise InputError(repr(what), "is not known; use configs, or remove it to measure kernels")
    answer(make, out, as_json, counted="shapes")


def _configs(backend: str, seed: int, **how: Any) -> Callable[..., Any]:
    """Return the function that measures configurations of the CPU's kernels, or of the GPU's."""
    if backend == "cupy":
        from ..validate.measure_configs import measure_gpu_configs

        return partial(measure_gpu_configs, **how)
    if backend != "numba":
        raise InputError(f"--backend {backend!r}", "must be numba or cupy")
    from ..validate.measure_configs import measure_configs

    return partial(measure_configs, seed=seed, **how)


def reproduce(given: Any) -> None:
    """Reproduce a paper's numbers; plots are made only if they are written to a folder."""
    from ..reproduce import reproduce

    if not 1 <= given.seeds <= 1000:
        raise InputError("--seeds", f"must be in [1, 1000], not {given.seeds}")
    parts = resumed("reproduce", given.fresh)
    make = partial(
        reproduce, given.experiment, seeds=range(1 if given.quick else given.seeds), routing=given.routing,
        device=given.device, figures=given.out is not None, kept=parts,
    )  # fmt: skip
    told(answer(make, given.out, given.as_json, counted="points", kept=parts))


def validate_kernels(given: Any) -> None:
    """Validate kernel models, and write each row's prediction to a file on request."""
    from ..show.output import SIGNIFICANT
    from ..validate.kernels import validate_kernels

    def make(progress: OnProgress | None) -> KernelValidation:
        with side_file(given.predictions, "--predictions") as write:
            result = validate_kernels(
                given.tables or (), family=given.family, transfer=given.transfer, device=given.device, progress=progress
            )  # fmt: skip
            write("csv", result.predictions, SIGNIFICANT)
        return result

    told(answer(make, given.out, given.as_json, counted="tables"))


def validate_configs(given: Any) -> None:
    """Validate ranked configurations; write the first picks and a fit to files on request."""
    from ..show.output import SIGNIFICANT
    from ..validate.configs import validate_configs

    def make() -> Compared:
        with side_file(given.predictions, "--predictions") as write, side_file(given.fit, "--fit") as write_fit:
            result = validate_configs(given.tables, given.constants, given.fit is not None, given.date)
            write("table", result.predictions, SIGNIFICANT)
            write_fit("text", lambda: result.fitted)
        return result

    told(answer(make, given.out, given.as_json))


def validate_power(given: Any) -> None:
    """Validate the power model; write a new fit to a file on request."""
    from datetime import UTC, datetime

    from ..validate.power import validate_power

    def make() -> Compared:
        with side_file(given.fit, "--fit") as write:
            date = None if given.fit is None else datetime.now(UTC).date().isoformat()
            result = validate_power(given.tables, given.cross_validate, date)
            write("text", lambda: result.fitted)
        return result

    told(answer(make, None, given.as_json))


def validate_runs(given: Any) -> None:
    """Validate simulations of measured runs; with ``--fit``, write the fitted error factors to a file."""
    from ..validate.runs import validate_runs
    from ..validate.runs.widths import widths_yaml

    (out, as_json, fresh, no_kernels, _), asked = split(given, "out", "as_json", "fresh", "no_kernels", "options")
    parts = resumed("validate-runs", fresh)
    asked |= {"fit": given.fit is not None, "kernels": not no_kernels, "kept": parts}

    def make(progress: OnProgress | None) -> Compared:
        with side_file(given.fit, "--fit") as write:
            result = validate_runs(progress=progress, **asked)
            write("text", lambda: widths_yaml(result.widths, result.entries) if result.widths else "")
        return result

    told(answer(make, out, as_json, counted="runs", kept=parts))
