"""Values that the result of every run contains; parts define their own (`Part.figures`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...simulator.quantity import Quantity, ratio

if TYPE_CHECKING:
    from ...simulator.results.record import Run

Figure = float | int | str | None

COUNTS = (
    Quantity("requests", "Requests that were served.", lambda r: len(r.requests), column=True),
    Quantity("iterations", "Steps of all engines.", lambda r: r.iterations, label="steps", column=True),
    Quantity("preemptions", "Times a running request's blocks were taken away.",
             lambda r: r.preemptions, label="preemptions", column=True),
    Quantity("output_tokens", "Tokens made, of all requests.", lambda r: r.output_tokens, column=True),
    Quantity("prompt_tokens", "Tokens read, of all requests.", lambda r: r.prompt_tokens, column=True),
    Quantity("cached_tokens", "Prompt tokens that were found, not read.", lambda r: r.cached_tokens),
)  # fmt: skip
LENGTHS = (
    Quantity("makespan_s", "From the first arrival to the end of the last step [s].", lambda r: r.makespan_s,
             "s", "simulated time", True),
    Quantity("interval_s", "Length of the window of the rates [s].", lambda r: r.interval_s),
)  # fmt: skip
RATES = (
    Quantity("interval_output_tokens", "Tokens made in that window.", lambda r: r.interval_output_tokens),
    Quantity("output_tokens_per_s", "Output of all devices in the steady window [1/s].",
             lambda r: r.output_tokens_per_s, "1/s", "output tokens per second", True),
    Quantity("total_tokens_per_s", "The same with prompt tokens [1/s].",
             lambda r: r.total_tokens_per_s, "1/s", "tokens per second, prompts too", True),
    Quantity("joules_per_token", "Energy of all devices by output tokens, static power included [J].",
             lambda r: r.joules_per_token, "J", "energy per output token", True),
    Quantity("dynamic_joules", "Energy of all work of the run [J].", lambda r: r.joules),
    Quantity("static_joules_per_token", "Of it what static power takes [J].",
             lambda r: ratio(r.interval_static_joules, r.interval_output_tokens),
             "J", "  of it static power", True),
    Quantity("busy_joules_per_token", "Constant part of it, independent of the work [J].",
             lambda r: ratio(r.interval_busy_joules, r.interval_output_tokens),
             "J", "  constant part of it"),
    Quantity("watts_per_device", "Mean power of a device over the run [W].",
             lambda r: r.watts_per_device, "W", "mean power of a device"),
)  # fmt: skip
STATE = (
    Quantity("kv_peak_fraction", "Most of the KV cache that was in use.", lambda r: r.kv_peak,
             "%", "KV cache in use at most", True),
    Quantity("failures", "Failures of replicas.", lambda r: r.failures),
    Quantity("restarts", "Requests that were computed again.", lambda r: r.restarts),
    Quantity("moved_kv_bytes", "KV cache that crossed between pools [B].", lambda r: 0.0 if (pools := r.parts.get("two-pools")) is None else pools.moves.total_bytes),
)  # fmt: skip
RUN_QUANTITIES = {q.name: q for q in (*COUNTS, *LENGTHS, *RATES, *STATE)}
"""Every number of any run by its name, in JSON's order."""


def labelled(run: Run, *names: str) -> list[tuple[str, Any, str]]:
    """Return label, value and unit of the named values of a run."""
    return [(q.label, q.of(run), q.unit) for q in map(RUN_QUANTITIES.__getitem__, names)]
