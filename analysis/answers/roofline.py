"""Roofline of one step: every op of a batch, its processor and its bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ...devices.catalog import describe_system
from ...devices.checks import doubts, without_arithmetic
from ...devices.hosts.catalog import host_sources
from ...devices.power.cap import cap_texts
from ...devices.spec import SystemSpec
from ...simulator.deploy.deployment import Deployment
from ...simulator.deploy.placement import processors_of
from ...simulator.option import chosen
from ...simulator.scenario.options import DeployOptions
from ...simulator.step.explicit import StageCost
from ...workloads.catalog import load_model
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ...workloads.tower import read_size
from ..show.declared import record
from ..show.output import OutputFolder
from ..show.result import Drawing, Result
from ..show.text import Blocks, Records, Rows, seconds, show, si
from ..show.timeline import write_bars
from .error_factors import Conditions, engine_named
from .evidence import evidence, evidence_blocks
from .interval import Interval, interval_dict, spoken, step_interval
from .memory_rows import dram_blocks, dram_rows
from .part_answers import blocks_of, entries_after, step_parts
from .ranges import Ranges, ranges_of_stage
from .roofs import OpRow, formats, merged, roof_name, roof_rows, roofs
from .step import SPECULATIVE, bars_of_step, engine_devices, gain_of, image_tokens, stage_of, step_of, work_joules
from .step_timeline import Bar, frame_of, lane_rows, middle_of, records_of
from .summary import roof_of
from .usual import kernels_as_usual

if TYPE_CHECKING:
    import pandas as pd

    from ...simulator.frameworks.settings import EngineSettings
    from ...simulator.parts.drafts.left import DraftedStep
    from ...simulator.scenario.keywords import StepKeywords
    from .run_interval import Engine


FOOTNOTE = (
    "FLOP, traffic and time are of one call on one device. Ops that run in parallel count in full, so "
    "shares of the step may add up to more than 100%."
)


@dataclass(frozen=True, slots=True)
class Roofline(Result):
    """All ops of one step; see `roofline`."""

    deployment: Deployment
    batch: int
    context: int
    prefill: int
    step_seconds: float
    step_joules: float
    watts_per_device: float
    ops: tuple[OpRow, ...]
    warnings: tuple[str, ...]
    sources: Mapping[str, str]
    parts: Mapping[str, Any] = field(default_factory=dict)
    bars: tuple[Bar, ...] = ()
    ranges: Ranges | None = None
    stage: StageCost | None = None
    engine: Engine = ("", ())
    why: bool = False

    def remarks(self) -> Sequence[str]:
        return self.warnings

    def to_dict(self) -> dict[str, Any]:
        return {
            **record(self),
            "processors": [roof_of(p, self._default) for p in processors_of(self.deployment.device)],
            "roofs": self._roofs(),
            "intervals": self._intervals(),
            **entries_after(self.parts, "figures"),
            **({"memory": rows} if (rows := dram_rows(self.deployment)) else {}),
            **entries_after(self.parts, "layers"),
            **({"timeline": records_of(self.bars)} if self.bars else {}),
            "evidence": evidence(self.deployment, self.sources),
            "out_of_range": None if self.ranges is None else self.ranges.to_dict(),
            "warnings": list(self.warnings),
        }

    @property
    def sure(self) -> Interval | None:
        """Return factors on the step's time; None if too small a part is based on measurements."""
        return None if self.stage is None else step_interval(Conditions(self.deployment, self.stage, *self.engine))

    @property
    def drafted(self) -> DraftedStep | None:
        """Return the step's speculative drafts; None if no tokens are drafted."""
        return self.parts.get("drafts")

    def _intervals(self) -> dict[str, Any] | None:
        """Return the intervals of the step and, if tokens are drafted, of a verification and a token."""
        sure = self.sure
        if sure is None:
            return None
        drafted: dict[str, Any] = {}
        if step := self.drafted:
            a_token = step.whole_s / step.expected if step.speculation.rates is not None else None
            drafted = {
                "verify_seconds": interval_dict(step.gain.verify_s, sure), "seconds_per_token": interval_dict(a_token, sure)
            }  # fmt: skip
        return {"step_seconds": interval_dict(self.step_seconds, sure), **drafted}

    def records(self) -> Rows:
        return [op.to_dict() for op in self.ops]

    def rows(self) -> Rows:
        return [
            {
                "op": op.name,
                "calls": op.count,
                "FLOP": si(op.flops, "") if op.flops else None,
                "traffic": si(op.bytes, "B") if op.bytes else None,
                "Op/B": op.op_per_byte,
                "runs on": op.processor,
                "bound": op.bound,
                "time": seconds(op.seconds),
                "of step": f"{op.seconds * op.count / self.step_seconds:.1%}",
            }
            for op in sorted(self.ops, key=lambda op: -op.seconds * op.count)
        ]

    def blocks(self) -> Blocks:
        d = self.deployment
        stage = f"{self.batch:,} decodes at context {self.context:,}"
        if self.prefill:
            stage += f" and one prompt of {self.prefill:,} tokens"
        layout = f"placement {d.placement}, tp {d.layout.tp}, dp {d.layout.dp}"
        if d.has_experts:
            layout += f", ep {d.layout.ep}"
        if d.layout.pp > 1:
            layout += f", pp {d.layout.pp}"
        energy = show(self.step_joules)
        step = f"one step takes {seconds(self.step_seconds)}" + (f" ({spoken(self.sure)})" if self.sure else "")
        return [
            f"{d.model.name} on {d.system.name}: {stage}; {layout}",
            f"{step} and {energy} J of dynamic energy; a device consumes {self.watts_per_device:.0f} W",
            roof_rows(self._roofs()),
            *dram_blocks(dram_rows(d)),
            *([lane_rows(self.bars)] if self.bars else []),
            self.rows(),
            *blocks_of(self.parts, late=False),
            *blocks_of(self.parts, late=True),
            *evidence_blocks([(evidence(d, self.sources), d.system.name, self.ranges)], self.why),
            FOOTNOTE,
        ]

    def headline(self) -> str:
        """Return a sentence with the step's time, its longest op, and the bound of most of its time."""
        took: dict[str, float] = {}
        for op in self.ops:
            took[op.bound] = took.get(op.bound, 0.0) + op.seconds * op.count
        first = max(self.ops, key=lambda op: op.seconds * op.count)
        bound = max(took, key=lambda name: took[name])
        share = first.seconds * first.count / self.step_seconds
        return (
            f"One step takes {seconds(self.step_seconds)}. Its longest op is {first.name} on "
            f"{first.processor} ({share:.0%} of the step, bound by {first.bound}); of all ops' time "
            f"{took[bound] / sum(took.values()):.0%} is bound by {bound}."
        )

    def title(self) -> str:
        """Return the heading of the plot."""
        d = self.deployment
        text = f"{d.model.name} on {d.system.name}: {self.batch} decodes at context {self.context:,}"
        return text + (f", one prompt of {self.prefill:,} tokens" if self.prefill else "")

    def drawings(self) -> Sequence[Drawing]:
        from ..plots import roofline as draw

        figure = draw(self.processors(), self.figure_ops(), self.title())
        text = "Every op of the step under the roofs of the processor and format it runs in."
        return [Drawing(figure, text), *self._gantt()]

    def write(self, folder: OutputFolder) -> None:
        """Write ops.csv, the plots, what runs when, and roofline.json."""
        folder.table("ops.csv", self.records(), "%.9g")
        drawn = self.drawings()
        folder.figure("roofline.png", drawn[0].figure)
        if self.bars:
            folder.figure("timeline.png", drawn[1].figure)
            folder.table("timeline.csv", frame_of(self.bars), "%.12g")
            folder.write("timeline.json", lambda path: write_bars(self.bars, path))
        Result.write(self, folder)

    def _gantt(self) -> list[Drawing]:
        """Return the timeline plot of layers in the middle of the step, if a timeline was requested."""
        if not self.bars:
            return []
        from ..plots.gantt import gantt

        window = middle_of(self.bars)
        note = "Layers in the middle of the step, as a device of the slowest rank runs them."
        title = f"{self.title()}: {seconds(self.step_seconds)} a step"
        text = "Which op runs on which processor or link, when; what is side by side runs together."
        return [Drawing(gantt(frame_of(self.bars), window, title, note), text)]

    @property
    def _default(self) -> str:
        """Return the number format of the activations."""
        return self.deployment.model.numerics.default

    def _formats(self) -> dict[str, list[str]]:
        return formats((op.processor, op.dtype) for op in self.ops if op.flops > 0 and op.bytes)

    def _roofs(self) -> Records:
        d = self.deployment
        return roofs(processors_of(d.device), self._formats(), self._default)

    def memory(self) -> pd.DataFrame:
        """Return the memory efficiency of each processor; empty unless a simulated DRAM gives it."""
        import pandas as pd

        return pd.DataFrame(dram_rows(self.deployment), columns=["processor", "memory", "pattern", "efficiency", "ops"])

    def processors(self) -> pd.DataFrame:
        """Return the roofs of every processor, one for each arithmetic format of its ops."""
        import pandas as pd

        return pd.DataFrame(self._roofs())

    def figure_ops(self) -> pd.DataFrame:
        """Return ops as the roofline plot needs them (without collectives)."""
        import pandas as pd

        used = self._formats()
        return pd.DataFrame(
            [
                {
                    "name": op.name,
                    "layer": op.layer,
                    "processor": roof_name(op.processor, op.dtype, used),
                    "op_per_byte": op.op_per_byte,
                    "achieved_flops": op.flops / op.seconds,
                    "seconds_total": op.seconds * op.count,
                    "bound": op.bound,
                }
                for op in self.ops
                if op.flops > 0
            ]
        )


def roofline(
    model: str | Path | ModelSpec, system: str | Path | SystemSpec, *, batch: int = 64,
    context: int = 2048, prefill: int = 0, timeline: bool = False, images: int = 0,
    image_size: str | None = None, **options: Unpack[StepKeywords],
) -> Roofline:  # fmt: skip
    """Cost every op of one step, with expected expert loads.

    Parameters
    ----------
    model, system : str, Path or spec
        Catalog name or file.
    batch : int
        Decoding sequences in the whole system, distributed evenly to data-parallel ranks.
    context : int
        Cached tokens of each decoding sequence.
    prefill : int
        Tokens of one prompt in the same step (0 = a decode-only step).
    images, image_size : int, str
        Number of images of that prompt, and their pixels (``1920x1080``). Their tokens are added to `prefill`.
    timeline : bool
        Whether to compute when and where each op runs (`Roofline.bars`).
    **options
        Options of `simulator.scenario.options.DeployOptions`, such as ``tp`` or ``placement``, and of
        `SpeculationOptions`. Loads of experts are expectations, so the table has no noise.

    Returns
    -------
    Roofline
        Ops of the slowest rank and expert group; counts, times and energies per device.

    Raises
    ------
    InputError
        Unknown names, sizes out of range, degrees that do not divide the model.

    Notes
    -----
    A model larger than the system's memory is costed, too, because its Op/B is a property of the model. The result then
    has a warning.
    """
    if image_size is not None:
        read_size(image_size)
        if not images:
            raise InputError("--image-size", "needs --images N, the number of images in the prompt")
    if images:
        model = model if isinstance(model, ModelSpec) else load_model(model)
        prefill += image_tokens(model, images, image_size)
    deployment, stage = step_of(model, system, batch, context, prefill, options, images, image_size)
    work = work_joules(deployment, stage)
    parts = step_parts(deployment, stage)
    if (gain := gain_of(deployment, batch, context, prefill)) is not None:
        from ...simulator.parts.drafts.left import DraftedStep

        parts["drafts"] = DraftedStep(deployment.parts["drafts"], gain)
    if deployment.parts.get("overlap", "none") != "none":
        from ...simulator.parts.overlap.use import StepOverlap

        plain = stage_of(deployment.without("overlap"), batch, context, prefill)
        parts["overlap"] = StepOverlap.of(deployment, stage, plain.seconds)
    how = chosen(DeployOptions, {n: x for n, x in options.items() if n not in SPECULATIVE})
    where, ranges = deployment.system, ranges_of_stage(deployment, stage)
    ranges.refuse(how.strict)
    settings = _settings(deployment, how.framework or "")
    return Roofline(
        deployment, batch, context, prefill, stage.seconds,
        work, _watts(deployment, stage), merged(stage, work / stage.joules if work else 1.0),
        (*_warnings(deployment, settings, context + deployment.several, prefill), *doubts(where.device),
         *cap_texts(where.device), *_launch_warning(deployment, settings, batch, prefill, stage.seconds)),
        {} if isinstance(system, SystemSpec)
        else describe_system(system)[1] | host_sources(where, how.host),
        parts,
        bars_of_step(deployment, batch, context, prefill) if timeline else (), ranges, stage,
        engine_named(kernels_as_usual(how, where).framework),
    )  # fmt: skip


def _watts(deployment: Deployment, stage: StageCost) -> float:
    """Return the mean power of an engine's device during the step [W]."""
    board, devices = deployment.device.board, engine_devices(deployment)
    busy = board.busy_joules(stage.busy_within(devices))
    return board.idle_W + (work_joules(deployment, stage) + busy) / (stage.seconds * devices)


def _settings(deployment: Deployment, framework: str) -> EngineSettings | None:
    """Return an engine's default settings on a deployment; None without an engine."""
    if not framework:  # a roofline starts without compiled code
        return None
    from ...simulator.frameworks.engines import ENGINES, LaunchSettings

    name, _, version = framework.partition("@")
    return ENGINES[name](deployment, LaunchSettings(version=version)) if name in ENGINES else None


def _launch_warning(
    deployment: Deployment, settings: EngineSettings | None, batch: int, prefill: int, devices_s: float
) -> tuple[str, ...]:
    """Return a warning if the host takes longer to launch the step's kernels than the devices take to run them."""
    if settings is None:
        return ()
    from ...simulator.engine.host import starting  # compiled code, which a roofline starts without
    from ...simulator.step.launches import all_launches
    from ...workloads.jit import plainly

    host_delay = settings.policy.host_delay(
        all_launches(deployment, settings.policy.calls), deployment.layout.pp, deployment.several
    )
    tokens = prefill + batch * deployment.several / deployment.layout.dp
    launching_s = plainly(starting)(host_delay, tokens, int(prefill > 0)) * deployment.layout.pp
    if launching_s <= devices_s:
        return ()
    return (
        f"the host needs {launching_s * 1e3:.1f} ms to launch this step, longer than its ops take; simulate adds it",
    )


def _warnings(deployment: Deployment, settings: EngineSettings | None, *lengths: int) -> tuple[str, ...]:
    """Return the notes and warnings of a model, in the words of simulations."""
    out = [*deployment.model.notes, *without_arithmetic(deployment.model.numerics, [deployment.system.device])]
    try:
        deployment.memory(settings.cache_for(deployment).memory_bytes if settings else None)
    except InputError as error:
        out.append(str(error))
    if deployment.model.max_position is not None and max(lengths) > deployment.model.max_position:
        out.append(
            f"{max(lengths):,} tokens are more than the {deployment.model.max_position:,} positions {deployment.model.name} was made for"
        )
    return tuple(out)
