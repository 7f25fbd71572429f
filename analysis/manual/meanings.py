"""What metrics of a sweep and kinds of op are, for the reference."""

from __future__ import annotations

from ..answers.summary import LATENCIES, QUANTILES
from ..studies.sweep.point import CLASSED, METRICS, POOLED, TIERED

FIGURES = {
    "requests": "Requests that were served.",
    "iterations": "Steps of all engines.",
    "preemptions": "Times a running request's blocks were taken away.",
    "output_tokens": "Tokens made, of all requests.",
    "prompt_tokens": "Tokens read, of all requests.",
    "makespan_s": "From the first arrival to the last token [s].",
    "output_tokens_per_s": "Output of all devices in the steady window [1/s].",
    "total_tokens_per_s": "The same with prompt tokens [1/s].",
    "joules_per_token": "Energy of all devices by output tokens, static power included [J].",
    "static_joules_per_token": "Of it what static power takes [J].",
    "kv_peak_fraction": "Most of the KV cache that was in use.",
    "steady": "1 where rates are of a steady window, 0 where a run is too short for one.",
    "devices": "Devices of all copies.",
    "device_usd_per_hour": "Price of one device [USD/h].",
    "usd_per_million_tokens": "Price of all devices by output tokens [USD].",
    "processor_area_mm2": "What processors near memory add to all stacks of a device [mm2].",
    "gco2_per_token": "Carbon of the energy, where the grid's intensity is given [g].",
    "outside_share": "Share of the time that is priced out of a model's fitted range.",
    "tokens_per_s_per_device": "Output of all devices by their number [1/s].",
    "tokens_per_s_per_user": "One over the mean time per output token [1/s].",
    "watts_per_device": "Mean power of a device over the run [W].",
    "prefill_utilisation": "Share of the time that the pool of prompts is busy.",
    "decode_utilisation": "Share of the time that the pool of decodes is busy.",
    "kv_wait_s_mean": "Mean wait of a KV cache for the link between pools [s].",
    "kv_transfer_s_mean": "Mean time of its transfer [s].",
    "kv_share_of_latency": "Share of a request's time that its transfer takes.",
    "refused": "Requests that admission turned away.",
    "attainment": "Share of the requests that were sent which kept what their class promises.",
    "goodput_per_s": "Requests that kept it [1/s].",
    "kv_hit_rate": "Share of the prompt tokens asked for that were found somewhere.",
    "kv_hit_rate_hbm": "Share that was found in the devices' own memory.",
    "kv_hit_rate_host": "Share that came from the host's memory.",
    "kv_hit_rate_disk": "Share that came from the disk.",
    "kv_hit_rate_shared": "Share that came from the shared pool.",
    "kv_loaded_bytes": "Bytes loaded from tiers.",
    "kv_stored_bytes": "Bytes written to tiers.",
    "kv_load_wait_s_mean": "Mean time from a load's order to its end [s].",
    "kv_steps_held_s": "Time that steps waited for blocks to be copied [s].",
    "limiting_pool": "The pool that more load would fill first.",
}
"""Metric -> meaning; of latencies see `TIMES`."""
TIMES = {
    "ttft_s": "Time to first token", "tbt_s": "Time between two tokens",
    "tpot_s": "Time per output token, one value a request", "e2e_s": "Arrival to last token",
    "client_ttft_s": "Time to first token as a client sees it",
    "client_e2e_s": "Arrival to last token as a client sees it",
}  # fmt: skip
"""Latency -> meaning."""


def metrics() -> dict[str, str]:
    """Every column of figures with its meaning, in the order of the table."""
    out = {}
    for name in (*METRICS, *POOLED, *CLASSED, *TIERED):
        stem, _, quantile = name.rpartition("_")
        if stem in LATENCIES and quantile in QUANTILES:
            share = "mean" if quantile == "mean" else f"{quantile[1:]}th percentile"
            out[name] = f"{TIMES[stem]}, {share} [s]."
        else:
            out[name] = FIGURES[name]
    return out
