"""What of a step's exchanges was hidden behind what, and what was not, for people and for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...simulator.deploy.deployment import Deployment
from ...simulator.parts.overlap.explicit import hidden_s
from ...simulator.step.explicit import StageCost, explicit_stage
from ...simulator.streams.scheduler import Timeline
from ..show.text import seconds
from .facet import Facet

if TYPE_CHECKING:
    import pandas as pd

    from ...simulator.serving.record import Run

REMARK = (
    "Each chunk reads the weights that it multiplies by, so those are read more than once; tokens and "
    "what is exchanged are not. Beside an exchange computation is as fast as alone (assumed), but for the cores that "
    "DeepEP's normal kernels keep: those count as not hidden."
)


def overlap_of_step(d: Deployment, stage: StageCost, plain_s: float) -> dict[str, Any]:
    """A step's overlap for JSON.

    Parameters
    ----------
    stage : StageCost
        The step.
    plain_s : float
        What it takes without overlap [s].
    """
    sums: dict[str, list[float]] = {}
    for placed in stage.ops:
        if placed.critical and placed.op.exchange:
            took = placed.cost.seconds * placed.count
            own = sums.setdefault(placed.op.name, [0.0, 0.0])
            own[0] += took
            own[1] += took * placed.exposed
    behind = hidden_s(stage.timelines)
    return {
        "asked": d.overlap,
        "way": stage.way,
        "step_seconds_without": plain_s,
        "exchanges": [
            {
                "exchange": name, "seconds": total, "exposed_s": exposed,
                "hidden_s": total - exposed,
                "behind": {other: s for (own, other), s in behind.items() if own == name},
            }
            for name, (total, exposed) in sums.items()
        ],
    }  # fmt: skip


def step_blocks(found: Mapping[str, Any], step_s: float) -> list[str | Sequence[Mapping[str, Any]]]:
    """A step's overlap for people; nothing where none was asked for."""
    if not found:
        return []
    plain = found["step_seconds_without"]
    text = f"overlap {found['asked']}: {found['way']}"
    if found["way"] == "none":
        return [f"{text}, because nothing else is faster."]
    rows = [{**_shown(row), "hidden behind": _behind(row["behind"], row["seconds"])} for row in found["exchanges"]]
    return [f"{text}; the step takes {step_s / plain:.3f} of the {seconds(plain)} without.", rows, REMARK]


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    """How long an exchange took and what of it was hidden."""
    hidden = f"{row['hidden_s'] / row['seconds']:.1%}" if row["seconds"] else "-"
    return {"exchange": row["exchange"], "time": seconds(row["seconds"]), "hidden": hidden,
            "not hidden": seconds(row["exposed_s"])}  # fmt: skip


def _behind(behind: Mapping[str, float], total: float) -> str:
    """What hides an exchange, most first."""
    parts = sorted(behind.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {s / total:.0%}" for name, s in parts if s >= 0.005 * total)


def run_rows(r: Run) -> list[dict[str, Any]]:
    """Exchanges of a whole run, on one device: how long they took and what of it counted."""
    layout = r.deployment.layout
    together = layout.devices / r.deployment.replicas
    out = []
    for op in r.ops:
        if op.layer != "communication":
            continue
        busy = op.busy_s / together
        out.append({
            "exchange": op.name, "seconds": busy, "exposed_s": min(op.wall_s, busy),
            "hidden_s": max(busy - op.wall_s, 0.0),
        })  # fmt: skip
    return out


def usual_steps(r: Run) -> dict[str, dict[str, Any]]:
    """Overlap of a run's usual step of decodes, and of one with a prompt beside them, every rank alike."""
    from .interval import typical

    d, out = r.deployment, dict[str, dict[str, Any]]()
    for name, batch in zip(("decodes", "decodes and a prompt"), typical(r), strict=True):
        stage, plain = (
            explicit_stage(each, [batch] * d.ranks, expected=True) for each in (d, replace(d, overlap="none"))
        )
        out[name] = {
            "sequences": len(batch.q_len), "tokens": batch.tokens, "step_seconds": stage.seconds,
            **overlap_of_step(d, stage, plain.seconds),
        }  # fmt: skip
    return out


def run_dict(r: Run) -> dict[str, Any]:
    """A run's overlap for JSON; nothing where none was asked for."""
    asked = r.deployment.overlap
    if asked == "none":
        return {}
    return {"overlap": {"asked": asked, "exchanges": run_rows(r), "usual_steps": usual_steps(r)}}


def run_blocks(r: Run) -> list[str | Sequence[Mapping[str, Any]]]:
    """A run's overlap for people; nothing where none was asked for."""
    if r.deployment.overlap == "none":
        return []
    rows = [_shown(row) for row in run_rows(r)]
    heading = f"overlap {r.deployment.overlap}: exchanges over the whole run, of a device"
    if not rows:
        return [f"{heading}: none"]
    return [heading, rows, *(_usual(name, one) for name, one in usual_steps(r).items()), REMARK]


FACET = Facet(run_dict, run_blocks, after="layers", late=True)


def _usual(name: str, step: Mapping[str, Any]) -> str:
    """One usual step in a sentence."""
    text = f"A usual step of {name} ({step['tokens']:,} tokens a rank), {step['way']}: "
    text += f"{step['step_seconds'] / step['step_seconds_without']:.3f} of its time without"
    hidden = [
        f"{row['exchange']} behind {_behind(row['behind'], row['seconds'])}"
        for row in step["exchanges"] if row["hidden_s"] > 0.0
    ]  # fmt: skip
    return "; ".join([text, *hidden]) + "."


def tasks_shown(timelines: Sequence[Timeline], most: int = 90) -> pd.DataFrame:
    """Tasks from the middle of a step, as `plots.streams` draws them: `most` that take longest there."""
    import pandas as pd

    line = max(timelines, key=lambda one: one.makespan)
    tasks = line.graph.tasks
    first = max(len(tasks) // 2 - most // 2, 0)
    return pd.DataFrame(
        [
            {"stream": task.resource, "name": task.name, "chunk": task.chunk, "start_s": start, "end_s": end}
            for task, start, end in zip(
                tasks[first : first + most],
                line.starts[first : first + most],
                line.ends[first : first + most],
                strict=True,
            )
        ],
        columns=["stream", "name", "chunk", "start_s", "end_s"],
    )
