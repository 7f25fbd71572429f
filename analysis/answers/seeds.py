"""Results of several simulations: one scenario over several seeds, with means and confidence intervals (``opbyte simulate --seeds``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ...devices.spec import SystemSpec
from ...simulator.results.progress import Progress
from ...simulator.scenario import Scenario
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ...workloads.requests.options import check_count
from ..show.result import Drawing, Result
from ..show.text import Blocks, Rows, seconds, show
from .evidence import evidence_line
from .simulate import Simulation, simulate
from .summary import LATENCIES, flat, heading

if TYPE_CHECKING:
    from ...simulator.scenario.keywords import ScenarioKeywords


@dataclass(frozen=True, slots=True)
class Several(Result):
    """Several simulations in one result."""

    FILE = "summary.json"

    runs: tuple[Simulation, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the warnings of all runs without duplicates."""
        return tuple(dict.fromkeys(w for r in self.runs for w in r.warnings))

    def drawings(self) -> Sequence[Drawing]:
        """Return the plots of every run, in order."""
        return [drawing for run in self.runs for drawing in run.drawings()]

    def remarks(self) -> Sequence[str]:
        return self.warnings

    def timing(self) -> dict[str, Any]:
        return {"wall_s": sum(r.run.wall_s for r in self.runs)}


MAX_SEEDS = 1000


@dataclass(frozen=True, slots=True)
class Seeds(Several):
    """One simulation with several seeds: means and 95 % confidence intervals."""

    def to_dict(self) -> dict[str, Any]:
        first = self.runs[0].to_dict()
        tables = [r.to_dict() for r in self.runs]
        out = dict(first)
        out["seeds"] = [r.run.seed for r in self.runs]
        for key, value in first.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and key != "seed":
                out[key], _ = mean_ci95([t[key] for t in tables])
        for key in LATENCIES:
            stats = {q: mean_ci95([t[key][q] for t in tables]) for q in first[key]}
            out[key] = {q: m for q, (m, _) in stats.items()}
            out[key]["ci95"] = {q: half for q, (_, half) in stats.items()}
        rates = ("output_tokens_per_s", "total_tokens_per_s", "joules_per_token")
        out["ci95"] = {key: mean_ci95([t[key] for t in tables])[1] for key in rates}
        out["warnings"] = list(self.warnings)
        for name in ("layers", "classes", "tenants"):
            out.pop(name, None)
        return out

    def headline(self) -> str:
        """Return a sentence with the mean rate, its interval, and the mean latencies."""
        data = self.to_dict()
        rate, half = data["output_tokens_per_s"], data["ci95"]["output_tokens_per_s"]
        return (
            f"{show(rate)} output tokens/s on average of {len(self.runs)} seeds (95 % interval "
            f"+- {show(half)}); time to first token {seconds(data['ttft_s']['p50'])}, per output "
            f"token {seconds(data['tpot_s']['p50'])} (medians)."
        )

    def records(self) -> Rows:
        tables = [flat(r.run, r.shown) for r in self.runs]
        return [
            {"metric": name, "mean": mean, "ci95": half}
            for name in tables[0]
            for mean, half in [mean_ci95([t[name] for t in tables])]
        ]

    def blocks(self) -> Blocks:
        first = self.runs[0]
        seeds = f"{len(self.runs)} seeds from {first.run.seed} on"
        return [f"{heading(first.run)}; {seeds}", self.rows(), evidence_line(*first.rests_on())]

    def rows(self) -> Rows:
        data = self.to_dict()
        out = [
            {"metric": key, "mean": show(data[key]), "95 % interval": f"+- {show(half)}"}
            for key, half in data["ci95"].items()
        ]
        for key in LATENCIES:
            for q, half in data[key]["ci95"].items():
                row = {"metric": f"{key} {q}", "mean": seconds(data[key][q])}
                out.append(row | {"95 % interval": f"+- {seconds(half)}"})
        return out


def mean_ci95(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Return the mean and the half width of its 95 % interval (Student's t); None if any value is undefined."""
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return None, None
    mean = sum(known) / len(known)
    if len(known) < 2:
        return mean, None
    from scipy.stats import t

    variance = sum((v - mean) ** 2 for v in known) / (len(known) - 1)
    return mean, float(t.ppf(0.975, len(known) - 1)) * (variance / len(known)) ** 0.5


def simulate_seeds(
    model: Scenario | str | Path | ModelSpec | None = None,
    system: str | Path | SystemSpec | None = None,
    *,
    seeds: int,
    keep_stages: bool = False,
    progress: Progress | None = None,
    percentiles: str | None = None,
    **options: Unpack[ScenarioKeywords],
) -> Seeds:
    """Simulate the scenario with several seeds, starting from its own seed.

    Parameters
    ----------
    model, system, keep_stages, progress, percentiles, **options
        See `simulate`.
    seeds : int
        Number of seeds, 1 to 1,000.

    Raises
    ------
    InputError
        Anything that cannot be used; the message says what would be right.
    """
    check_count(seeds, "--seeds", 1, MAX_SEEDS)
    scenario = Scenario.of(model, system, **options)
    if scenario.model is None and scenario.system is None:
        raise InputError("--seeds", "needs MODEL and --system, for example mixtral-8x7b")
    return Seeds(
        tuple(
            simulate(scenario.changed(seed=seed), keep_stages=keep_stages, progress=progress, percentiles=percentiles)
            for seed in range(scenario.seed, scenario.seed + seeds)
        )
    )
