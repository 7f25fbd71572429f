"""Values of experts on separate devices."""

from __future__ import annotations

from math import isfinite

from ...quantity import Figures, Quantity

FIGURES = Figures("experts_apart", "Disaggregated experts", (
    Quantity("experts_on", "System that has the experts.", "deployment.system.name", label="experts on"),
    Quantity("attention_devices", "Devices that attend.", label="attention devices"),
    Quantity("experts_devices", "Devices that have experts.", label="expert devices"),
    Quantity("micro_batches", "Micro-batches of a step.", "batches", label="micro-batches"),
    Quantity("link", "Link between both.", inside=(
        Quantity("bytes_per_s", "Rate of one device, one way [B/s].",
                 lambda k: k.bandwidth_bytes_per_s if isfinite(k.bandwidth_bytes_per_s) else None, "B/s", "link"),
        Quantity("latency_s", "Latency of a message [s].", unit="s", label="latency"),
    )),
    Quantity("attention_busy", "Share of the steps' time that the former work.", "attention", "%", "attention busy"),
    Quantity("experts_busy", "Share that the latter work.", "experts", "%", "experts busy"),
    Quantity("link_busy", "Share that the link is busy.", "link_busy", "%", "link busy"),
    Quantity("limit", "What limits steps.", label="limited by"),
))  # fmt: skip
