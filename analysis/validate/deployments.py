"""Simulated against measured TTFT and TPOT of whole deployments (``opbyte validate points``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...workloads.errors import InputError
from ...workloads.kernel_tables import Skipped
from ..answers.interval import LEVEL
from ..parallel import OnProgress
from ..show.kept import NOTHING, Kept
from ..show.output import SIGNIFICANT
from ..show.result import Drawing
from ..show.text import Blocks, Records, Rows
from .check import Compared, RunCheck, for_people, percent, summary
from .points.predict import Prediction, predict_all
from .points.table import ServingPoint, read_points
from .runs.basis import check_of

if TYPE_CHECKING:
    import pandas as pd

KEYS, TIMES = ("device", "model", "mode"), ("tpot", "ttft")


@dataclass(frozen=True, slots=True)
class Scored:
    """A point with its prediction, and both as a check whose errors are relative."""

    point: ServingPoint
    predicted: Prediction
    check: RunCheck

    def to_dict(self) -> dict[str, Any]:
        """One line of the table of predictions."""
        p, predicted, metrics = self.point, self.predicted, self.check.metrics(sure=True)
        errors = {name: metrics.get(f"{name}_mean", {}).get("error") for name in TIMES}
        return {
            "line": p.line, "device": p.device_name, "framework": p.framework, "model": p.model,
            "mode": p.mode, "weight_dtype": p.weight_dtype, "gpus": p.gpus, "tp": p.workers.tp,
            "attention_dp": p.workers.dp, "ep": p.workers.ep, "pp": p.workers.pp, "isl": p.isl, "osl": p.osl,
            "concurrency": p.clients, "ttft_measured_s": p.ttft_s, "ttft_simulated_s": predicted.ttft_s,
            "ttft_error": errors["ttft"], "tpot_measured_s": p.tpot_s,
            "tpot_simulated_s": predicted.tpot_s, "tpot_error": errors["tpot"],
            **{f"{name}_{end}_s": check and getattr(check, end) * getattr(predicted, f"{name}_s")
               for name, check in zip(TIMES, predicted.sure or (None, None), strict=True)
               for end in ("low", "high")},
            "requests": predicted.requests, "preemptions": predicted.preemptions,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class PointsValidation(Compared):
    """Every point's prediction, and the rows that were not scored.

    Attributes
    ----------
    scored : tuple of Scored
        In the order of the table.
    """

    FILE = "points.json"
    PICTURES = ("points.png",)
    TABLES = (("predictions.csv", "predictions", SIGNIFICANT),)

    scored: tuple[Scored, ...]
    skipped: tuple[Skipped, ...]

    def groups(self, *keys: str) -> dict[tuple[str, ...], list[Scored]]:
        """Points by some of their attributes, in order of the names."""
        names = {"device": "device_name"}
        out: dict[tuple[str, ...], list[Scored]] = {}
        for s in self.scored:
            key = tuple(str(getattr(s.point, names.get(k, k))) for k in keys)
            out.setdefault(key, []).append(s)
        return dict(sorted(out.items()))

    def frameworks(self) -> Records:
        """Errors by framework."""
        return [{"framework": key[0]} | errors(scored) for key, scored in self.groups("framework").items()]

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": [dict(zip(KEYS, key, strict=True)) | errors(scored) for key, scored in self.groups(*KEYS).items()],
            "frameworks": self.frameworks(),
            "overall": errors(self.scored),
            "skipped": [{"line": s.line, "reason": s.reason} for s in self.skipped],
        }

    def records(self) -> Rows:
        return [s.to_dict() for s in self.scored]

    def predictions(self) -> pd.DataFrame:
        """One row a point."""
        import pandas as pd

        frame = pd.DataFrame(list(self.records()))
        return frame.astype({"ttft_error": np.float64})

    def drawings(self) -> Sequence[Drawing]:
        from ..plots import points

        table = self.predictions()
        figure = points(table, f"{len(table)} measured deployments")
        return [Drawing(figure, "Predicted against measured times of every deployment.")]

    def rows(self) -> Rows:
        return for_people(self.to_dict()["rows"])

    def blocks(self) -> Blocks:
        totals = errors(self.scored)
        tpot, ttft = (percent(totals[f"{name}_median_ape"]) for name in TIMES)
        every = f"all {totals['n']} points: median error of TPOT {tpot}, of TTFT {ttft}"
        inside = [percent(totals[f"{name}_within"]) for name in TIMES]
        text = f"inside: measured values within their {LEVEL:.0%} intervals, of TPOT {inside[0]}, of TTFT {inside[1]}"
        return [self.rows(), for_people(self.frameworks()), every, text]


def errors(scored: Sequence[Scored]) -> dict[str, Any]:
    """Absolute relative errors of a set of points: median, 90th percentile, median with sign."""
    rows = {}
    for name in TIMES:
        metric = f"{name}_mean"
        checks = [s.check for s in scored if metric in s.check.measured]
        rows[name] = summary([c.metrics()[metric]["error"] for c in checks], [c.within(metric) for c in checks])
    out: dict[str, Any] = {"n": len(scored)}
    out |= {f"{name}_{key}": row[key] for name, row in rows.items() for key in ("median_ape", "p90_ape", "median_bias")}
    out["ttft_n"] = rows["ttft"]["n"]
    return out | {f"{name}_within": row["within"] for name, row in rows.items()}


def validate_points(
    path: str | Path, *, seed: int = 0, progress: OnProgress | None = None, kept: Kept = NOTHING
) -> PointsValidation:
    """Simulate every row of a table of serving points and compare TTFT and TPOT.

    Parameters
    ----------
    path : path-like
        Table in the form of ``$OPBYTE_DATA/serving_points/points.csv``; models are in ``model_configs`` next to it or
        one folder above.
    seed : int
        Seed of the sampled lengths.
    progress : callable, optional
        Called with (points done, points).
    kept : Kept
        Points that an earlier call finished; this call adds its own.

    Raises
    ------
    InputError
        A file or cell that cannot be used, or no row that can be simulated.
    """
    path = Path(path)
    points, skipped = read_points(path)
    outcomes = predict_all(points, path.parent, seed, progress, kept)
    scored = []
    for point, outcome in zip(points, outcomes, strict=True):
        if isinstance(outcome, Prediction):
            scored.append(Scored(point, outcome, check_of(point, outcome)))
        else:
            skipped.append(Skipped(path.name, point.line, outcome))
    if not scored:
        raise InputError(path, f"has no row that can be simulated; {skipped[0]}")
    skipped.sort(key=lambda s: s.line)
    return PointsValidation(tuple(scored), tuple(skipped))
