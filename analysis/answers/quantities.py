"""Values that the result of every run contains; parts define their own (`Part.figures`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...simulator.quantity import Quantity, ratio

if TYPE_CHECKING:
    from ...simulator.results.record import Run

Figure = float | int | str | None

COUNTS = (
    Quantity("requests", "Completed requests.", lambda r: len(r.requests), column=True),
    Quantity("iterations", "Engine steps, summed over all engines.", lambda r: r.iterations, label="steps", column=True),
    Quantity("preemptions", "Preemptions of running requests, summed over all engines.",
             lambda r: r.preemptions, label="preemptions", column=True),
    Quantity("output_tokens", "Output tokens of all requests.", lambda r: r.output_tokens, column=True),
    Quantity("prompt_tokens", "Prompt tokens of all requests.", lambda r: r.prompt_tokens, column=True),
    Quantity("cached_tokens", "Prompt tokens found in a prefix cache, which were not computed.", lambda r: r.cached_tokens),
)  # fmt: skip
LENGTHS = (
    Quantity("makespan_s", "Time from the first arrival to the end of the last step [s].", lambda r: r.makespan_s,
             "s", "simulated time", True),
    Quantity("interval_s", "Length of the steady window that rates are measured in [s].", lambda r: r.interval_s),
)  # fmt: skip
RATES = (
    Quantity("interval_output_tokens", "Output tokens in the steady window.", lambda r: r.interval_output_tokens),
    Quantity("output_tokens_per_s", "Output tokens per second of all devices in the steady window [1/s].",
             lambda r: r.output_tokens_per_s, "1/s", "output tokens per second", True),
    Quantity("total_tokens_per_s", "Prompt and output tokens per second of all devices in the steady window [1/s].",
             lambda r: r.total_tokens_per_s, "1/s", "tokens per second, prompts too", True),
    Quantity("joules_per_token", "Energy of all devices per output token in the steady window, with static power [J].",
             lambda r: r.joules_per_token, "J", "energy per output token", True),
    Quantity("dynamic_joules", "Dynamic energy of all devices over the run [J].", lambda r: r.joules),
    Quantity("static_joules_per_token", "Energy of static power per output token, a part of joules_per_token [J].",
             lambda r: ratio(r.interval_static_joules, r.interval_output_tokens),
             "J", "  of it static power", True),
    Quantity("busy_joules_per_token", "Energy per output token that busy devices take independent of their work, a part of joules_per_token [J].",
             lambda r: ratio(r.interval_busy_joules, r.interval_output_tokens),
             "J", "  constant part of it"),
    Quantity("watts_per_device", "Mean power of a device over the run [W].",
             lambda r: r.watts_per_device, "W", "mean power of a device"),
)  # fmt: skip
STATE = (
    Quantity("kv_peak_fraction", "Largest share of the KV cache in use, 0 to 1.", lambda r: r.kv_peak,
             "%", "KV cache in use at most", True),
    Quantity("failures", "Failures of replicas.", lambda r: r.failures),
    Quantity("restarts", "Requests restarted after a failure.", lambda r: r.restarts),
    Quantity("moved_kv_bytes", "KV cache transferred from the prefill to the decode pool [B].", lambda r: 0.0 if (pools := r.parts.get("two-pools")) is None else pools.moves.total_bytes),
)  # fmt: skip
RUN_QUANTITIES = {q.name: q for q in (*COUNTS, *LENGTHS, *RATES, *STATE)}
"""Every number of any run by its name, in JSON's order."""


def labelled(run: Run, *names: str) -> list[tuple[str, Any, str]]:
    """Return label, value and unit of the named values of a run."""
    return [(q.label, q.of(run), q.unit) for q in map(RUN_QUANTITIES.__getitem__, names)]
