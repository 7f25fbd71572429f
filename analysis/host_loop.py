"""The loop on one machine: measure, calibrate on half, validate on the rest, simulate, compare."""

from __future__ import annotations

import datetime
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..devices.calibrated.calibrate import (
    MIN_ROWS,
    FamilyFit,
    calibrate_family,
    usable_rows,
)
from ..devices.calibrated.errors import Errors, errors
from ..devices.calibrated.family import families
from ..devices.calibrated.fit import predict
from ..devices.calibrated.store import device_yaml
from ..devices.catalog import load_device, load_system
from ..devices.spec import SystemSpec
from ..kernels.ceilings import read_rate
from ..kernels.lab import Bench
from ..kernels.timing import sample
from ..kernels.toy import State, ToyConfig, ToyModel
from ..simulator.deployment import deploy
from ..simulator.stage import explicit_stage
from ..workloads.batch import Batch
from ..workloads.catalog import load_model
from ..workloads.errors import InputError
from ..workloads.kernel_tables import Skipped, Table, read_tables
from .result import Result, seconds
from .simulate import Simulation, simulate

if TYPE_CHECKING:
    from .measure import Measured
    from .output import OutputFolder

POSITIONS = 4096
READ_BLOCK = 192 << 20
"""Block that the read rate is taken from [B]."""
DTYPE = "fp32"
"""What the small model computes in."""
SETTLE, STEPS, MOST_STEPS = 2, 12, 40
"""Steps of the small model left out at first; undisturbed ones wanted; and timed at most."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """How well a family fitted on half of its shapes predicts the others."""

    family: str
    fitted: int
    errors: Errors


@dataclass(frozen=True, slots=True)
class Step:
    """One point of the small model: measured and simulated seconds of a decode step.

    Attributes
    ----------
    batch, context : int
    measured_s, p10_s, p90_s, simulated_s : float
    read_Bps : float
        Read rate of the machine before and after, which the simulation is told [B/s].
    active : float
        Experts with a token, mean over layers and steps; the simulator expects
        `expected_active` of them.
    """

    batch: int
    context: int
    measured_s: float
    p10_s: float
    p90_s: float
    simulated_s: float
    read_Bps: float
    active: float
    expected_active: float

    @property
    def error(self) -> float:
        return self.simulated_s / self.measured_s - 1.0


@dataclass(frozen=True, slots=True)
class Loop(Result):
    """What the loop found.

    Attributes
    ----------
    unseen : sequence of Unseen
    steps : sequence of Step
    serving : Simulation
        The small model serving a small load on this machine, simulated.
    device : str
        Description with the fits of half of the shapes (YAML).
    config : mapping
        ``config.json`` of the small model.
    skipped : sequence of Skipped
        Rows that were not used.
    """

    unseen: Sequence[Unseen]
    steps: Sequence[Step]
    serving: Simulation
    device: str
    name: str
    config: Mapping[str, Any]
    skipped: Sequence[Skipped]

    @property
    def median_ape(self) -> float:
        """Median error over all unseen rows, weighted by the families' rows."""
        values = np.repeat(
            [u.errors.median_ape for u in self.unseen], [u.errors.rows for u in self.unseen]
        )
        return float(np.median(values))

    @property
    def step_ape(self) -> float:
        return float(np.median([abs(step.error) for step in self.steps]))

    def to_dict(self) -> dict[str, Any]:
        return {
            "unseen": [
                {"family": u.family, "fitted_rows": u.fitted, "rows": u.errors.rows,
                 "median_ape": u.errors.median_ape, "p90_ape": u.errors.p90_ape,
                 "median_bias": u.errors.median_bias}
                for u in self.unseen
            ],
            "unseen_median_ape": self.median_ape,
            "steps": [{**_fields(step), "error": step.error} for step in self.steps],
            "step_median_ape": self.step_ape,
            "serving": self.serving.to_dict(),
            "skipped": [str(row) for row in self.skipped],
        }  # fmt: skip

    def rows(self) -> Sequence[Mapping[str, Any]]:
        return [
            {"batch": s.batch, "context": s.context, "measured": seconds(s.measured_s),
             "p10 to p90": f"{seconds(s.p10_s)} to {seconds(s.p90_s)}",
             "read rate": f"{s.read_Bps / 1e9:.1f} GB/s",
             "simulated": seconds(s.simulated_s), "error": f"{s.error:+.1%}",
             "experts with a token": f"{s.active:.1f} (expected {s.expected_active:.1f})"}
            for s in self.steps
        ]  # fmt: skip

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        unseen = [
            {"family": u.family, "fitted on": u.fitted, "unseen rows": u.errors.rows,
             "median error": f"{u.errors.median_ape:.1%}", "p90": f"{u.errors.p90_ape:.1%}",
             "bias": f"{u.errors.median_bias:+.1%}"}
            for u in self.unseen
        ]  # fmt: skip
        rate = self.serving.run.output_tokens_per_s
        return [
            "Kernel models fitted on every other shape, on the shapes they never saw:",
            unseen,
            "A small MoE model decoding here, and the simulator's prediction of its steps:",
            self.rows(),
            f"median error of a step {self.step_ape:.1%}",
            (
                f"Simulated on this machine, that model serves {rate or 0.0:,.1f} output tokens/s at "
                "two requests a second of 64 + 32 tokens."
            ),
        ]

    def write(self, files: OutputFolder) -> None:
        """Write the fitted device, the small model's config, its steps, and the figure."""
        from .plots.steps import step_times

        files.text(f"{self.name}-calibrated.yaml", self.device)
        files.json("toy/config.json", self.config)
        columns = {
            name: np.array([getattr(s, name) for s in self.steps])
            for name in Step.__dataclass_fields__
        }
        files.csv("steps.csv", columns)
        from .plots.files import save

        figure = step_times(self.steps, self.name)
        files.write("steps.png", lambda path: save(figure, path))


def _fields(step: Step) -> dict[str, Any]:
    return {name: getattr(step, name) for name in Step.__dataclass_fields__}


def close_loop(measured: Measured, *, quick: bool, seed: int = 0) -> Loop:
    """Close the loop over a measurement of this machine.

    Raises
    ------
    InputError
        Too few good rows to fit and to check a family.
    """
    run = measured.run
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base = folder / f"{run.host.device}.yaml"
        base.write_text(measured.yaml(), encoding="utf-8")
        fits, unseen, skipped = _fit_half(measured, folder, base)
        name = run.host.device
        text = device_yaml(name, fits, base.name)
        fitted = folder / f"{name}-calibrated.yaml"
        fitted.write_text(text, encoding="utf-8")
        config = SMALL if quick else ToyConfig()
        model = folder / "config.json"
        model.write_text(json.dumps(config.to_hf(POSITIONS)), encoding="utf-8")
        steps = _steps(config, model, fitted, run.host.threads, quick, seed)
        serving = simulate(
            str(model),
            str(fitted),
            rate=2.0,
            requests=32,
            input_len=64,
            output_len=32,
            seed=seed,
            dtype=DTYPE,
            kv_dtype=DTYPE,
        )
    assert isinstance(serving, Simulation)
    return Loop(unseen, steps, serving, text, name, config.to_hf(POSITIONS), skipped)


SMALL = ToyConfig(num_hidden_layers=2, vocab_size=4096)
"""The small model of a quick run: half the layers."""


def _fit_half(
    measured: Measured, folder: Path, base: Path
) -> tuple[dict[str, FamilyFit], list[Unseen], list[Skipped]]:
    """Fit every family on every other shape, and predict the shapes between."""
    from .measure import table_text

    spec, _ = load_device(base)
    tables = measured.run.at_best_rate().tables()
    for name, columns in tables.items():
        (folder / f"{name}.csv").write_text(table_text(columns, []), encoding="utf-8")
    if not tables:
        raise InputError("--loop", "needs rows, and all were rejected: see --lenient")
    read, skipped = read_tables([folder])
    fits: dict[str, FamilyFit] = {}
    unseen: list[Unseen] = []
    for name, table in read.items():
        family = families().get(name)
        if family is None:
            continue
        halves = [usable_rows(family, spec, half, skipped) for half in halve(table)]
        if any(half is None or len(half.measured) < MIN_ROWS for half in halves):
            continue
        seen, rest = halves
        assert seen is not None
        assert rest is not None
        done = calibrate_family(seen, datetime.date.today().isoformat())
        guess = predict(family, done.fit, rest.h, rest.x, rest.labels)
        fits[name] = done
        unseen.append(Unseen(name, done.rows, errors(guess, rest.measured)))
    if not fits:
        raise InputError("--loop", f"needs {2 * MIN_ROWS} good rows of a family: see --lenient")
    return fits, unseen, skipped


def halve(table: Table) -> tuple[Table, Table]:
    """Rows of every other distinct shape, in the table's order, and the rest."""
    odd = table.shape_keys() % 2 == 1
    return table.take(~odd), table.take(odd)


def _steps(
    config: ToyConfig, model: Path, device: Path, threads: int, quick: bool, seed: int
) -> list[Step]:
    """Run the small model at several batches and contexts, and simulate the same steps."""
    spec = load_model(model)
    # A config.json that says float32 stands for a server's 16 bit; this model keeps its 32.
    spec = replace(spec, numerics=spec.numerics.with_formats(DTYPE, DTYPE))
    system = load_system(device)
    toy = ToyModel(config, threads, seed)
    bench = Bench(READ_BLOCK, threads, seed)
    out = []
    for batch in (1, 4, 16):
        for context in (128, 1024) if quick else (128, 512, 2048):
            state = toy.start([context] * batch, SETTLE + MOST_STEPS)

            def one(_: int, state: State = state) -> None:
                toy.step(state)

            before = read_rate(bench)
            taken = sample(
                one, threads=1, least=STEPS, most=STEPS, budget_s=0.1 if quick else 1.0,
                warm_up=SETTLE, at_most=MOST_STEPS,
            )  # fmt: skip
            rate = 0.5 * (before + read_rate(bench))
            deployment = deploy(spec, _reading_at(system, rate))
            # The middle step stands for all: contexts grow by one a step.
            middle = context + SETTLE + taken.taken // 2
            stage = explicit_stage(deployment, [Batch.of([middle] * batch)], expected=True)
            loads = deployment.experts[0].router.expected(0, float(batch))
            out.append(
                Step(batch, context, taken.median_s, taken.p10_s, taken.p90_s, stage.seconds,
                     rate, float(np.mean(state.active)), loads.active)
            )  # fmt: skip
    return out


def _reading_at(system: SystemSpec, read_Bps: float) -> SystemSpec:
    """The machine at the read rate of the moment, which the simulation is told."""
    memory = system.device.memory.model_copy(update={"bandwidth_bytes_per_s": read_Bps})
    device = system.device.model_copy(update={"memory": memory})
    return system.model_copy(update={"device": device})
