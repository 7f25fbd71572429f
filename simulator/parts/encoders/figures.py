"""Values of an image encoder on separate devices."""

from __future__ import annotations

from ...quantity import Figures, Quantity

FIGURES = Figures("encoder", "Image encoder", (
    Quantity("devices", "Devices of the encoder; their energy and cost are not included.", label="devices"),
    Quantity("images", "Images encoded.", label="images"),
    Quantity("busy_s", "Time that its devices worked [s]."),
    Quantity("busy_share", "Share of the run that they worked.", unit="%", label="busy"),
    Quantity("waited_s", "Time that requests waited for their images [s].", unit="s", label="requests waited in all"),
))  # fmt: skip
