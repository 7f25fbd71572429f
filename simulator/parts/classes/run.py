"""Service of classes and tenants, counted from the requests of a run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ....workloads.requests import RequestStream
from ....workloads.requests.block import Labels
from ....workloads.requests.classes import Promise
from ...engine.state import F8, I8
from ...fleet.run_state import RunState
from ...quantity import Figures, Quantity
from ...results.metrics import Quantiles, quantiles
from ...results.record import Requests, Run
from ...results.steady import Window
from .admission import ClassQueues
from .class_queues import INPUT_WEIGHT, OUTPUT_WEIGHT
from .kinds import Classes, ClassRun, KeptPromise, TenantShares

Flags = npt.NDArray[np.bool_]


def classes_left(run: Run, served: RunState, stream: RequestStream, warmup: int) -> Classes | None:
    """Return the metrics of a run by class; None if requests have no classes."""
    requests, classes, window, outside_s = run.requests, stream.classes, run.window, served.policy.host.request_s
    table = served.table
    if table.labels is None:
        return None
    labels = table.labels.take(slice(0, table.count))
    done, refused = labels.take(table.done()), np.array(sorted(table.refused), dtype=np.int64)
    known = {c.name: c for c in classes}
    late = table.arrival_s[refused] >= served.warm_s
    warm, ended = requests.order >= warmup, requests.last_token_s
    within = (ended >= window.start_s) & (ended <= window.end_s)
    kinds, good, asked = [], np.zeros(len(warm), dtype=np.bool_), True
    for k, name in enumerate(labels.kinds):
        mine, away = done.kind == k, labels.kind[refused] == k
        promises = known[name].promises if name in known else ()
        lost = int((away & late).sum())
        passed = [_keeps(requests, promise, outside_s) for promise in promises]
        all_kept = np.logical_and.reduce(passed) if passed else np.ones(len(warm), dtype=np.bool_)
        good |= mine & all_kept
        asked = asked and bool(promises or not (labels.kind == k).any())
        ttft, tpot, e2e = _latencies(requests, mine & warm)
        kinds.append(
            ClassRun(
                name,
                int((labels.kind == k).sum()),
                int(away.sum()),
                int(mine.sum()),
                int(requests.preemptions[mine].sum()),
                ttft,
                tpot,
                e2e,
                tuple(KeptPromise(p, _share(met, mine & warm, lost)) for p, met in zip(promises, passed, strict=True)),
                _share(all_kept, mine & warm, lost) if promises else None,
                _rate(mine & all_kept & within, window) if promises else None,
            )
        )
    return Classes(
        tuple(kinds), _tenants(served, labels, refused), done, table.id[refused],
        _share(good, warm, int(late.sum())) if asked else None,
        _rate(good & within, window) if asked else None,
    )  # fmt: skip


def _share(good: Flags, which: Flags, lost: int) -> float | None:
    """Return the share of good requests among some requests and `lost` rejected ones."""
    count = int(which.sum()) + lost
    return int((good & which).sum()) / count if count else None


def _rate(which: Flags, window: Window) -> float | None:
    """Return the requests per second within a window."""
    return int(which.sum()) / window.length_s if window.length_s > 0 else None


def _values(requests: Requests, latency: str) -> F8:
    """Return one latency of each request [s], as the engine sees it; NaN if it has none."""
    if latency == "ttft":
        return requests.first_token_s - requests.arrival_s
    if latency == "e2e":
        return requests.last_token_s - requests.arrival_s
    gaps = requests.output_tokens - 1
    decode = requests.last_token_s - requests.first_token_s
    return np.where(gaps > 0, decode / np.maximum(gaps, 1), np.nan)


def _keeps(requests: Requests, promise: Promise, outside_s: float) -> Flags:
    """Return which requests meet an SLO; a single token has no time between tokens."""
    more = outside_s if promise.latency.startswith("client_") else 0.0
    values = _values(requests, promise.latency.removeprefix("client_")) + more
    kept: Flags = ~(values > promise.most_s)
    return kept


def _latencies(requests: Requests, which: Flags) -> tuple[Quantiles, ...]:
    return tuple(quantiles(_values(requests, name)[which]) for name in ("ttft", "tpot", "e2e"))


def _tenants(served: RunState, labels: Labels, refused: I8) -> TenantShares:
    """Return the requests and tokens of each tenant."""
    table, count = served.table, len(labels.tenants)
    rows = slice(0, table.count)
    begun = ~np.isnan(table.scheduled_s[rows])
    service = INPUT_WEIGHT * table.input_tokens[rows] * begun
    service = service + OUTPUT_WEIGHT * table.generated[rows]
    queues = [(engine, engine.does["classes"]) for engine in served.engines if "classes" in engine.does]
    fair = [
        (engine, queue) for engine, queue in queues if isinstance(queue, ClassQueues) and queue.rules.order == "vtc"
    ]
    spread = bound = None
    if fair:
        spread = max(queue.spread(engine) for engine, queue in fair)
        kv = fair[0][0].kv
        fit = int(kv.capacity / kv.block_bytes.sum() * kv.block) if kv.block_bytes.sum() else 0
        bound = max(INPUT_WEIGHT * int(table.input_tokens[rows].max()), OUTPUT_WEIGHT * fit)
    return TenantShares(
        labels.tenants, np.bincount(labels.tenant, minlength=count),
        np.bincount(labels.tenant[refused], minlength=count),
        np.bincount(labels.tenant, weights=service, minlength=count).astype(np.int64), spread, bound,
    )  # fmt: skip


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
    """Return the columns of each class for a row of a sweep."""
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
