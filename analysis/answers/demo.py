"""The run without arguments: one model on Duplex and on GPUs, compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from ...simulator.quantity import ratio
from ...simulator.results.progress import Progress
from ...simulator.results.record import Run
from ...simulator.scenario import Scenario
from ..show.text import Blocks, Records, Rows
from .evidence import evidence_line
from .seeds import Several
from .simulate import layer_totals, simulate
from .summary import comparison_rows, flat, heading, took, where_rows, window_text

if TYPE_CHECKING:
    from ...simulator.scenario.keywords import ScenarioKeywords

DEMO_MODEL = "mixtral-8x7b"
DEMO_SYSTEMS = ("duplex-x4", "duplex-gpu-x4")
DEMO_CLIENTS, DEMO_REQUESTS, DEMO_WARMUP = 64, 2048, 128
"""Default run: 64 clients in a closed loop, the middle one of the Duplex paper's batch sizes (32, 64, 128). The first
128 completed requests (two batches) are excluded as warm-up, as in the paper."""


@dataclass(frozen=True, slots=True)
class Comparison(Several):
    """One request stream on several systems."""

    def to_dict(self) -> dict[str, Any]:
        return {"runs": [r.to_dict() for r in self.runs], "verdict": self.verdict()}

    def rows(self) -> Rows:
        return comparison_rows([r.run for r in self.runs])

    def records(self) -> Rows:
        return [{"system": r.run.deployment.system.name, **flat(r.run)} for r in self.runs]

    def blocks(self) -> Blocks:
        out: Blocks = []
        for simulation in self.runs:
            text = f"{heading(simulation.run)}. {window_text(simulation.run.window)}"
            out += [text, where_rows(simulation.run)]
        return [
            *out,
            self.rows(),
            self.verdict(),
            *(evidence_line(*r.rests_on()) for r in self.runs),
            took(self.timing()["wall_s"]),
        ]

    def report_title(self) -> str:
        systems = " and ".join(r.run.deployment.system.name for r in self.runs)
        return f"{self.runs[0].run.deployment.model.name} on {systems}"

    def headline(self) -> str:
        return self.verdict()

    def verdict(self) -> str:
        """Return a text that compares the first and last run and names layers that changed their processor."""
        best, base = self.runs[0].run, self.runs[-1].run
        ratios = {
            "the output tokens per second": ratio(best.output_tokens_per_s, base.output_tokens_per_s),
            "the median time between tokens": ratio(best.tbt_s.p50, base.tbt_s.p50),
            "the energy per token": ratio(best.joules_per_token, base.joules_per_token),
        }
        known = ", ".join(f"{x:.2f}x {what}" for what, x in ratios.items() if x is not None)
        text = (
            f"{best.deployment.system.name} against {base.deployment.system.name} on "
            f"{best.deployment.model.name}: {known}."
        )
        moved = [
            f"{m['name']} ({m['op_per_byte']:.1f} Op/B, {m['share']:.0%} of its memory traffic)"
            for m in moved_layers(best, base)
        ]
        if moved:
            near = ", ".join(p.name for p in best.deployment.device.processors.values() if p.kind != "xpu")
            text += f" Memory-bound on the xPU and moved to {near}: {', '.join(moved)}."
        return text


def moved_layers(best: Run, base: Run) -> Records:
    """Return the ops that are memory-bound on `base` and moved to another processor in `best`, with the moved share."""
    main = {p.name: p for p in base.deployment.device.processors.values() if p.kind == "xpu"}
    dtype = base.deployment.model.numerics.default
    bound = {
        op.name
        for op in base.ops
        if op.processor in main and op.op_per_byte is not None and op.op_per_byte < main[op.processor].ridge(dtype)
    }
    out = []
    near = [p.name for p in best.deployment.device.processors.values() if p.kind != "xpu"]
    for op in layer_totals(best):
        if op.processor in near and op.name in bound:
            traffic = sum(o.bytes for o in best.ops if o.name == op.name)
            share = op.bytes / traffic if traffic else 0.0
            out.append({"name": op.name, "op_per_byte": op.op_per_byte, "share": share})
    return out


def compare_demo(
    scenario: Scenario | None = None,
    *,
    keep_stages: bool = False,
    progress: Progress | None = None,
    **options: Unpack[ScenarioKeywords],
) -> Comparison:
    """Simulate Mixtral-8x7B on four Duplex devices and on four GPUs, with the same embedded sample of requests.

    Parameters
    ----------
    scenario : Scenario, optional
        Without model and system; its other options apply to both runs.
    keep_stages, progress, **options
        See `simulate`.

    Raises
    ------
    InputError
        Anything that cannot be used; the message says what would be right.
    """
    base = Scenario.of(scenario, **options)
    if not base.workload.given:
        warmup = DEMO_WARMUP if base.warmup is None else base.warmup
        base = base.changed(closed_loop=DEMO_CLIENTS, requests=DEMO_REQUESTS, warmup=warmup)
    return Comparison(
        tuple(
            simulate(base.changed(model=DEMO_MODEL, system=system), keep_stages=keep_stages, progress=progress)
            for system in DEMO_SYSTEMS
        )
    )
