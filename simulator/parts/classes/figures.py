"""Values of request classes and tenants."""

from __future__ import annotations

from ...quantity import Figures, Quantity
from .kinds import Classes

CLASS = (
    Quantity("class", "Its name.", "name", label="class"),
    Quantity("sent", "Requests sent.", label="sent"),
    Quantity("refused", "Requests that admission rejected.", label="refused"),
    Quantity("finished", "Requests that completed."),
    Quantity("preemptions", "Preemptions of those.", label="preemptions"),
    Quantity("ttft_s", "Time to first token [s].", unit="s", label="TTFT"),
    Quantity("tpot_s", "Time per output token [s].", unit="s", label="TPOT"),
    Quantity("e2e_s", "Latency [s]."),
    Quantity("attainment", "Share of its requests within all its SLOs.", "attained", "%", "in time"),
    Quantity("goodput_per_s", "Such requests [1/s].", unit="1/s", label="goodput/s"),
    Quantity("promises", "Its SLOs.", lambda c: list(c.kept), inside=(
        Quantity("latency", "Latency and statistic.", "promise.name", label="SLO"),
        Quantity("most_s", "Limit [s].", "promise.most_s", "s", "limit"),
        Quantity("kept", "Share of requests within it.", "share", "%", "kept"),
        Quantity("met", "Whether that is as many as must.", label="met"),
    )),
)  # fmt: skip
TENANTS = (
    Quantity("served", "Each tenant.", lambda t: t.rows(), inside=(
        Quantity("tenant", "Its name.", lambda r: r[0], label="tenant"),
        Quantity("sent", "Requests sent.", lambda r: r[1], label="sent"),
        Quantity("refused", "Requests rejected.", lambda r: r[2], label="refused"),
        Quantity("service", "Prompt tokens plus twice the output tokens.", lambda r: r[3], label="service"),
    )),
    Quantity("counters_apart", "Largest difference of two waiting tenants' counters.", "spread", label="counters apart"),
    Quantity("counters_bound", "Largest fair difference without preemption.", "bound", label="fair limit"),
)  # fmt: skip


def by_class(found: Classes) -> dict[str, float | None]:
    """Columns of each class."""
    return {
        f"{name}_{kind.name}": getattr(kind, own)
        for kind in found.kinds
        for name, own in (("attainment", "attained"), ("goodput_per_s", "goodput_per_s"))
    }


FIGURES = Figures("", "Classes", (
    Quantity("sent", "Requests sent.", lambda c: sum(k.sent for k in c.kinds), label="sent"),
    Quantity("refused", "Requests that admission rejected.", lambda c: len(c.refused_id), label="refused"),
    Quantity("attainment", "Share of requests within all SLOs.", "attained", "%", "in time"),
    Quantity("goodput_per_s", "Such requests [1/s].", unit="1/s", label="goodput/s"),
    Quantity("classes", "Each class.", lambda c: list(c.kinds), inside=CLASS),
    Quantity("tenants", "Tenants.", inside=TENANTS),
), (
    Quantity("refused", "Requests that admission rejected.", lambda c: float(len(c.refused_id)), column=True),
    Quantity("attainment", "Share of all sent requests that met the SLO of their class.",
             "attained", column=True),
    Quantity("goodput_per_s", "Requests that kept it [1/s].", column=True),
), "classes", "it is of classes of requests (classes)", late=True, more=by_class)  # fmt: skip
