"""Classes of requests and tenants in an answer: what each was promised and what it got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...workloads.errors import InputError
from ..show.text import seconds, show
from .facet import Facet
from .quantities import Figure, Quantity, entries

if TYPE_CHECKING:
    from ...simulator.parts.classes.kinds import Classes, ClassRun, TenantShares
    from ...simulator.serving.record import Run

MOST_TENANTS = 16
"""Tenants that a table shows, those served most; JSON has them all."""


def classes_dict(run: Run) -> dict[str, Any]:
    """Entries of an answer's JSON; nothing where requests have no classes."""
    found = run.classes
    if found is None:
        return {}
    return {
        "sent": sum(c.sent for c in found.kinds),
        "refused": len(found.refused_id),
        "attainment": found.attained,
        "goodput_per_s": found.goodput_per_s,
        "classes": [_class_dict(c) for c in found.kinds],
        "tenants": _tenants_dict(found.tenants),
    }


def _class_dict(c: ClassRun) -> dict[str, Any]:
    return {
        "class": c.name,
        **{name: getattr(c, name) for name in ("sent", "refused", "finished", "preemptions")},
        **{name: getattr(c, name).as_dict() for name in ("ttft_s", "tpot_s", "e2e_s")},
        "attainment": c.attained,
        "goodput_per_s": c.goodput_per_s,
        "promises": [
            {"latency": k.promise.name, "most_s": k.promise.most_s, "kept": k.share, "met": k.met} for k in c.kept
        ],
    }


def _tenants_dict(t: TenantShares) -> dict[str, Any]:
    columns = t.sent.tolist(), t.refused.tolist(), t.served.tolist()
    return {
        "served": [
            {"tenant": name, "sent": sent, "refused": refused, "service": served}
            for name, sent, refused, served in zip(t.names, *columns, strict=True)
        ],
        "counters_apart": t.spread,
        "counters_bound": t.bound,
    }


def class_rows(run: Run) -> list[dict[str, Any]]:
    """One row a class, and one of all where every class is promised something."""
    found = run.classes
    if found is None:
        return []
    rows = [_row(c) for c in found.kinds]
    if len(rows) > 1 and found.attained is not None:
        rows.append({
            "class": "all", "sent": sum(c.sent for c in found.kinds), "refused": len(found.refused_id),
            **dict.fromkeys(list(rows[0])[3:7], "-"),
            "preemptions": sum(c.preemptions for c in found.kinds),
            "in time": _percent(found.attained), "goodput/s": show(found.goodput_per_s),
        })  # fmt: skip
    return rows


def _row(c: ClassRun) -> dict[str, Any]:
    return {
        "class": c.name, "sent": c.sent, "refused": c.refused,
        "TTFT p50": seconds(c.ttft_s.p50), "TTFT p99": seconds(c.ttft_s.p99),
        "TPOT p50": seconds(c.tpot_s.p50), "TPOT p99": seconds(c.tpot_s.p99),
        "preemptions": c.preemptions, "in time": _percent(c.attained),
        "goodput/s": "-" if c.goodput_per_s is None else show(c.goodput_per_s),
    }  # fmt: skip


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def class_blocks(run: Run) -> list[str | Sequence[Mapping[str, Any]]]:
    """The same as a table, then what was promised, and what tenants got; nothing without classes."""
    found = run.classes
    if found is None:
        return []
    return [class_rows(run), *_promises(found), *_tenant_blocks(found.tenants)]


def _promises(found: Classes) -> list[str]:
    """Every promise with the share that kept it, in a sentence."""
    lines = []
    for c in found.kinds:
        for k in c.kept:
            text = f"{c.name} {k.promise.name.replace('_', ' ')} <= {seconds(k.promise.most_s)}"
            text += f" kept by {_percent(k.share)}"
            lines.append(text + ("" if k.met is not False else " (MISSED)"))
    return [f"Promised: {'; '.join(lines)}."] if lines else []


def _tenant_blocks(t: TenantShares) -> list[str | Sequence[Mapping[str, Any]]]:
    """What tenants got, where there are several."""
    if len(t.names) < 2:
        return []
    total = int(t.served.sum())
    order = np.argsort(-t.served, kind="stable")[:MOST_TENANTS].tolist()
    rows = [
        {
            "tenant": t.names[i], "sent": int(t.sent[i]), "refused": int(t.refused[i]),
            "service": int(t.served[i]), "share": f"{t.served[i] / total:.1%}" if total else "-",
        }
        for i in order
    ]  # fmt: skip
    if t.spread is None:
        return [rows]
    text = f"Counters of tenants that wait were at most {t.spread:,} apart; "
    return [rows, f"{text}{t.bound:,} is the most that is fair, where nothing is preempted."]


def _found(run: Run) -> Classes:
    assert run.classes is not None
    return run.classes


QUANTITIES = (
    Quantity("refused", "Requests that admission turned away.",
             lambda r: float(len(_found(r).refused_id)), column=True),
    Quantity("attainment", "Share of the requests that were sent which kept what their class promises.",
             lambda r: _found(r).attained, column=True),
    Quantity("goodput_per_s", "Requests that kept it [1/s].", lambda r: _found(r).goodput_per_s, column=True),
)  # fmt: skip
PROMISED = ("attainment", "goodput_per_s")
"""Those that need classes with promises."""


def class_figures(run: Run) -> dict[str, Figure]:
    """Figures of classes by name, as columns of tables; nothing without classes."""
    if run.classes is None:
        return {}
    out = entries(run, QUANTITIES)
    for c in run.classes.kinds:
        out |= {f"attainment_{c.name}": c.attained, f"goodput_per_s_{c.name}": c.goodput_per_s}
    return out


def needs_promises(run: Run, where: str) -> Classes:
    """Classes of a run that is asked how many of its requests are in time.

    Raises
    ------
    InputError
        No classes, or one that is promised nothing.
    """
    if run.classes is None:
        raise InputError(where, "needs --classes with a latency each, such as chat:ttft_p99=0.5")
    for c in run.classes.kinds:
        if c.attained is None and c.sent and not c.kept:
            reason = f"class {c.name!r} has no latency in --classes, such as ttft_p99=1"
            raise InputError(where, reason)
    return run.classes


FACET = Facet(classes_dict, class_blocks, QUANTITIES, "classes", "it is of classes of requests (classes)", late=True)
