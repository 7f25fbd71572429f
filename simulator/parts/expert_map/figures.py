"""Values of placed experts."""

from __future__ import annotations

from ...quantity import Figures, Quantity

FIGURES = Figures("expert_placement", "Expert placement", (
    Quantity("policy", "Which devices have which experts.", label="policy"),
    Quantity("redundant_experts", "Copies of a layer's experts.", label="copies a layer"),
    Quantity("dispatch", "Copies that a token may go to.", label="dispatched to"),
    Quantity("held", "Experts of a layer on a device."),
    Quantity("max_over_mean", "Load of the most loaded device over the mean, in the long run.", unit="1", label="max/mean load"),
    Quantity("copies_bytes", "Bytes of copies on a device [B].", unit="B", label="copies on a device"),
    Quantity("sent_share", "Tokens that ranks send, over those without copies."),
    Quantity("leaves_node_share", "Share of the copies of tokens that leave their node."),
))  # fmt: skip
