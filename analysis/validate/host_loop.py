"""Closed loop on one machine: measure kernels, calibrate on half of the shapes, validate on the rest, simulate, compare."""

from __future__ import annotations

import datetime
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...devices.calibrated.calibrate import MIN_ROWS, FamilyFit, calibrate_family, usable_rows
from ...devices.calibrated.errors import Errors, errors
from ...devices.calibrated.family import families
from ...devices.calibrated.fit import predict
from ...devices.calibrated.layer_kernels import LAYER_FAMILIES, split_layers
from ...devices.calibrated.store import device_yaml
from ...devices.catalog import load_device, load_system
from ...devices.spec import SystemSpec
from ...kernels.measure import Measurement
from ...kernels.rounds import TimedCase
from ...kernels.toy import ToyConfig, ToyModel, ToyState
from ...simulator.deploy.deployment import deploy
from ...simulator.step.explicit import explicit_stage
from ...workloads.batch import Batch
from ...workloads.catalog import load_model
from ...workloads.errors import InputError
from ...workloads.kernel_tables import KernelTable, Skipped, read_tables, table_text
from ..answers.simulate import Simulation, simulate
from ..show.result import Drawing, Result
from ..show.text import Blocks, Rows, seconds

if TYPE_CHECKING:
    from ..show.output import OutputFolder

POSITIONS = 4096
DTYPE = "fp32"
"""Number format of the small model."""
ROOM = 40
"""Number of steps after which a batch of the small model restarts at its first context."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """Errors of a kernel family on the half of its shapes that a fit did not use, for both halves.

    `fitted` is the number of rows of the first half.
    """

    family: str
    fitted: int
    errors: Errors


@dataclass(frozen=True, slots=True)
class LoopStep:
    """Measured and simulated time of a decode step of the small model, at one batch size and context.

    Attributes
    ----------
    read_Bps : float
        Read rate of the machine during its steps, an input of the simulation [B/s].
    active : float
        Number of experts with a token, mean over layers and steps; `expected_active` is the simulator's.
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
    """Result of the closed loop: errors on unseen shapes, measured and simulated steps, and a simulated load.

    Attributes
    ----------
    serving : Simulation
        Simulation of the small model serving a small load on this machine.
    device : str
        YAML description of the machine as a device, with fits to the first half of the shapes.
    config : mapping
        ``config.json`` of the small model.
    skipped : sequence of Skipped
        Rows that were not used.
    """

    unseen: Sequence[Unseen]
    steps: Sequence[LoopStep]
    serving: Simulation
    device: str
    name: str
    config: Mapping[str, Any]
    skipped: Sequence[Skipped]

    @property
    def median_ape(self) -> float:
        """Return the median of the families' median errors on unseen shapes, weighted by their numbers of rows."""
        values = np.repeat([u.errors.median_ape for u in self.unseen], [u.errors.rows for u in self.unseen])
        return float(np.median(values))

    @property
    def step_ape(self) -> float:
        return float(np.median([abs(step.error) for step in self.steps]))

    def to_dict(self) -> dict[str, Any]:
        return {
            "unseen": [
                {"family": u.family, "fitted_rows": u.fitted, "rows": u.errors.rows, **u.errors.figures()}
                for u in self.unseen
            ],
            "unseen_median_ape": self.median_ape,
            "steps": [{**asdict(step), "error": step.error} for step in self.steps],
            "step_median_ape": self.step_ape,
            "serving": self.serving.to_dict(),
            "skipped": [str(row) for row in self.skipped],
        }

    def rows(self) -> Rows:
        return [
            {"batch": s.batch, "context": s.context, "measured": seconds(s.measured_s),
             "p10 to p90": f"{seconds(s.p10_s)} to {seconds(s.p90_s)}",
             "read rate": f"{s.read_Bps / 1e9:.1f} GB/s",
             "simulated": seconds(s.simulated_s), "error": f"{s.error:+.1%}",
             "experts with a token": f"{s.active:.1f} (expected {s.expected_active:.1f})"}
            for s in self.steps
        ]  # fmt: skip

    def blocks(self) -> Blocks:
        unseen = [
            {"family": u.family, "fitted on": u.fitted, "unseen rows": u.errors.rows,
             "median error": f"{u.errors.median_ape:.1%}", "p90": f"{u.errors.p90_ape:.1%}",
             "bias": f"{u.errors.median_bias:+.1%}"}
            for u in self.unseen
        ]  # fmt: skip
        rate = self.serving.run.output_tokens_per_s
        return [
            "Kernel models fitted on half of the shapes, on the other half, and the other way round:",
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
        """Write the fitted device, the small model's config, its steps, and the plot."""
        files.text(f"{self.name}-calibrated.yaml", self.device)
        files.json("toy/config.json", self.config)
        columns = {field.name: np.array([getattr(s, field.name) for s in self.steps]) for field in fields(LoopStep)}
        files.csv("steps.csv", columns)
        files.figure("steps.png", self.drawings()[0].figure)

    def drawings(self) -> Sequence[Drawing]:
        """Return a plot of the measured and simulated times of the small model's steps."""
        from ..plots.bars import step_times

        return [Drawing(step_times(self.steps, self.name), "Steps of the small model here.")]


def close_loop(run: Measurement, machine: str, small: SmallModel, *, seed: int = 0) -> Loop:
    """Calibrate this machine on half of the measured shapes, test on the rest, and simulate the small model's steps.

    `machine` is the YAML description of this machine as a device.

    Raises
    ------
    InputError
        Every family has too few usable rows to be fitted and tested.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base = folder / f"{run.host.device}.yaml"
        base.write_text(machine, encoding="utf-8")
        fits, unseen, skipped = _fit_half(run, folder, base)
        name = run.host.device
        text = device_yaml(name, fits, base.name)
        fitted = folder / f"{name}-calibrated.yaml"
        fitted.write_text(text, encoding="utf-8")
        config, model = small.config.to_hf(POSITIONS), folder / "toy.json"
        model.write_text(json.dumps(config), encoding="utf-8")
        steps = _steps(small, model, fitted, run)
        serving = simulate(
            str(model), str(fitted), rate=2.0, requests=32, input_len=64, output_len=32,
            seed=seed, dtype=DTYPE, kv_dtype=DTYPE, policy="chunked",
        )  # fmt: skip
    return Loop(unseen, steps, serving, text, name, config, skipped)


SMALL = ToyConfig(num_hidden_layers=2, vocab_size=4096)
"""The small model of a quick run, with half the layers."""


def _fit_half(run: Measurement, folder: Path, base: Path) -> tuple[dict[str, FamilyFit], list[Unseen], list[Skipped]]:
    """Fit every kernel family on each half of its shapes and predict the other half.

    Returns the fits of the first half, the errors on unseen shapes, and the skipped rows.
    """
    spec, _ = load_device(base)
    tables = run.tables()
    for name, columns in tables.items():
        (folder / f"{name}.csv").write_text(table_text(columns, []), encoding="utf-8")
    if not tables:
        raise InputError("--loop", "needs rows, and all were rejected: see --lenient")
    read, skipped = read_tables([folder])
    split_layers(read)
    fits: dict[str, FamilyFit] = {}
    unseen: list[Unseen] = []
    for name, table in read.items():
        family = families().get(name) or LAYER_FAMILIES.get(name)
        if family is None:
            continue
        halves = [h for h in (usable_rows(family, spec, t, skipped) for t in halve(table)) if h]
        if len(halves) < 2 or any(len(half.measured) < MIN_ROWS for half in halves):
            continue
        seen, rest = halves
        today = datetime.date.today().isoformat()
        fits[name], other = calibrate_family(seen, today), calibrate_family(rest, today)
        guess = [
            predict(family, done.fit, half.h, half.x, half.labels) for done, half in ((fits[name], rest), (other, seen))
        ]
        measured_s = np.concatenate([rest.measured, seen.measured])
        unseen.append(Unseen(name, fits[name].rows, errors(np.concatenate(guess), measured_s)))
    if not fits:
        raise InputError("--loop", f"needs {2 * MIN_ROWS} good rows of a family: see --lenient")
    return fits, unseen, skipped


def halve(table: KernelTable) -> tuple[KernelTable, KernelTable]:
    """Return the rows of a random half of the distinct shapes, and the rest.

    Taking every second shape would be biased: nested loops list the shapes, so an inner loop of even length (for example
    0 and 512 earlier keys) would put all shapes of one kind into one half.
    """
    keys = table.shape_keys()
    drawn = np.random.default_rng(0).permutation(keys.max() + 1)
    odd = drawn[keys] % 2 == 1
    return table.take(~odd), table.take(odd)


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A small model, with the states of batches that it decodes.

    Attributes
    ----------
    points : sequence of (int, int)
        Batch size and first context of each state.
    """

    config: ToyConfig
    model: ToyModel
    points: Sequence[tuple[int, int]]
    states: Sequence[ToyState]

    @property
    def work(self) -> list[TimedCase]:
        """Return the model's steps as cases to be timed between kernels, in the same state of the machine."""
        return [TimedCase(partial(self._step, state), lambda _: 0.0) for state in self.states]

    def _step(self, state: ToyState, _: int) -> None:
        """Run one decode step; restart at the first context after `ROOM` steps."""
        if state.steps == ROOM:
            state.restart()
        self.model.step(state)


def small_model(quick: bool, threads: int, seed: int) -> SmallModel:
    """Build the small model and its states; in a quick run it has half the layers and fewer contexts."""
    config = SMALL if quick else ToyConfig()
    model = ToyModel(config, threads, seed)
    points = [(batch, context) for batch in (1, 4, 16) for context in ((128, 1024) if quick else (128, 512, 2048))]
    return SmallModel(config, model, points, [model.start([c] * b, ROOM) for b, c in points])


def _steps(small: SmallModel, model: Path, device: Path, run: Measurement) -> list[LoopStep]:
    """Simulate the measured steps, each at the memory and arithmetic rates that were measured around it."""
    spec = load_model(model)
    # A config.json that says float32 stands for a server's 16 bit; this model keeps its 32.
    spec = replace(spec, numerics=spec.numerics.with_formats(DTYPE, DTYPE))
    system, usual = load_system(device), run.ceilings
    out = []
    for (batch, context), state, (taken, rates) in zip(small.points, small.states, run.besides, strict=True):
        memory = rates.read_Bps / usual.read_Bps
        arithmetic = rates.fma_flops_per_s / usual.fma_flops_per_s
        deployment = deploy(spec, _at_rates(system, memory, arithmetic))
        # Contexts grow by one a step and start again: the middle stands for all.
        middle = Batch.of([context + ROOM // 2] * batch)
        stage = explicit_stage(deployment, [middle], expected=True)
        loads = deployment.experts[0].router.expected(0, float(batch))
        out.append(
            LoopStep(batch, context, taken.median_s, taken.p10_s, taken.p90_s, stage.seconds,
                 rates.read_Bps, float(np.mean(state.active)), loads.active)
        )  # fmt: skip
    return out


def _at_rates(system: SystemSpec, memory: float, arithmetic: float) -> SystemSpec:
    """Return the system with its bandwidth multiplied by `memory` and its peak rates by `arithmetic`."""
    device = system.device
    bandwidth = memory * device.memory.bandwidth_bytes_per_s
    processors = {
        name: p.model_copy(update={"peak_flops_per_s": {
            k: arithmetic * v for k, v in (p.peak_flops_per_s or {}).items()}})
        for name, p in device.processors.items()
    }  # fmt: skip
    memory_ = device.memory.model_copy(update={"bandwidth_bytes_per_s": bandwidth})
    device = device.model_copy(update={"memory": memory_, "processors": processors})
    return system.model_copy(update={"device": device})
