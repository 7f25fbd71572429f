"""Values of expert caches, of a run or of one step."""

from __future__ import annotations

from ...quantity import Figures, Quantity, ratio

FIGURES = Figures("expert_cache", "Expert cache", (
    Quantity("slots", "Experts of a layer that a device keeps.", label="slots"),
    Quantity("held", "Experts of a layer that a device serves.", label="of experts"),
    Quantity("policy", "What leaves first.", "store.policy", label="policy"),
    Quantity("look_ahead", "Layers that are known ahead.", "store.look_ahead"),
    Quantity("predictor_accuracy", "Share of the experts needed that a predictor names.", "store.accuracy"),
    Quantity("predictor_false_rate", "Share of the others that it names.", "store.false_rate"),
    Quantity("horizon", "When it names them.", lambda c: c.store.horizon if c.store.predicts else None),
    Quantity("hit_rate", "Share of the experts needed that were there.", "fetch.hit_rate", "%", "hits"),
    Quantity("experts_needed", "Experts that devices needed.", "fetch.needed"),
    Quantity("experts_fetched_late", "Experts fetched when they were needed.", "fetch.misses", "1", "fetched late"),
    Quantity("experts_fetched_ahead", "Experts fetched before.", "fetch.ahead", "1", "fetched ahead"),
    Quantity("fetched_bytes", "Bytes fetched [B].", "fetch.bytes", "B", "fetched"),
    Quantity("link_s", "Time that the busiest links were busy [s].", "fetch.link_s", "s", "link busy"),
    Quantity("hidden_s", "What of it computation hid [s].", lambda c: max(0.0, c.fetch.link_s - c.fetch.waited_s), "s", "hidden"),
    Quantity("waited_s", "Time that layers waited [s].", "fetch.waited_s", "s", "layers waited"),
    Quantity("waited_share", "Its share of all steps.", lambda c: ratio(c.fetch.waited_s, c.seconds), "%", "of all steps"),
))  # fmt: skip
