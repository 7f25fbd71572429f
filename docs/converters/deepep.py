"""Write ``devices/collectives/deepep.csv``: DeepEP's kernels fitted to measured exchanges of a node.

``python docs/converters/deepep.py TABLE``, TABLE being a ``moe_alltoall.csv``; prints how far off each mode is on its
rows, with a layout (ranks, experts, experts of a token) left out, and with a card left out.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from opbyte.devices.calibrated.kernel_sets import LABELS
from opbyte.devices.calibrated.libraries import generation
from opbyte.devices.catalog import load_device
from opbyte.devices.collectives.deepep import KIN, LOW_LATENCY, NORMAL, SMS, TYPICAL, distinct, table

F8 = npt.NDArray[np.float64]
Row = Mapping[str, str]
Rows = npt.NDArray[np.object_]
ENGINES = {label: key for key, label in LABELS.items()}
MODES = {"deepep_normal": NORMAL, "deepep_ht": NORMAL, "trtllm_deepep_ht": NORMAL, "deepep_ll": LOW_LATENCY,
         "trtllm_deepep_ll": LOW_LATENCY}  # fmt: skip
SENT = ("-", "default", "bf16")
"""Formats of rows whose copies are 16-bit, or what the engine sends by default."""
GROUPS, CHOSEN = 8.0, 4
"""A DeepSeek-V3 router (256 experts, 8 a token) takes a token's experts from 4 of 8 groups, so of 4 of 8 ranks."""
FORMS = ("engine", "mode", "direction", "card", "launch_us", "GBps", "rows", "low", "middle", "high")


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of DeepEP's kernels, with the names of this module."""
    out = []
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            kernel, _, direction = row["kernel"].partition(":")
            label = row["source"].partition("-")[0]
            if kernel in MODES and row["dtype"] in SENT and label in ENGINES:
                named = {"engine": ENGINES[label], "mode": MODES[kernel], "direction": direction}
                out.append({**row, **named, "card": load_device(row["device"])[0].name})
    return out


def sent(row: Row) -> float:
    """Bytes that a device sends to others, of 16-bit copies, over the share of the usual SMs that send them [B]."""
    ranks, copies = int(row["ranks"]), int(row["topk"])
    if row["mode"] == LOW_LATENCY:
        reached = float(copies)
    elif row["experts"] == "256" and copies == 8 and ranks == GROUPS:
        reached = distinct(CHOSEN, copies)
    else:
        reached = distinct(ranks, copies)
    share = (float(row["sms"]) or SMS) / SMS
    return int(row["tokens"]) * int(row["hidden"]) * 2.0 * reached * (ranks - 1) / ranks / share


def fit(rows: Iterable[Row]) -> F8:
    """Launch [s] and rate [B/s] with the least (soft) error of logarithms; no rate is above the rows' fastest link's."""
    from scipy.optimize import least_squares

    x, seconds = measured(rows)

    def off(p: F8) -> F8:
        out: F8 = np.log(predicted(np.exp(p), x) / seconds)
        return out

    low, high = np.log([1e-6, 1e9]), np.log([1e-3, 9e11])
    found = least_squares(off, np.log([3e-5, 2e11]), loss="soft_l1", f_scale=0.1, bounds=(low, high))
    out: F8 = np.exp(found.x)
    return out


def measured(rows: Iterable[Row]) -> tuple[F8, F8]:
    """Bytes and seconds of rows."""
    kept = list(rows)
    return np.array([sent(row) for row in kept]), np.array([float(row["measured_s"]) for row in kept])


def predicted(p: F8, x: F8) -> F8:
    """Seconds of so many bytes."""
    out: F8 = p[0] + x / p[1]
    return out


def ratios_of(p: F8, rows: Iterable[Row]) -> F8:
    """Logarithms of measured over predicted seconds."""
    x, seconds = measured(rows)
    out: F8 = np.log(seconds / predicted(p, x))
    return out


def left_out(rows: list[dict[str, str]], key: Callable[[Row], str]) -> F8:
    """Ratios of rows by a fit to those with another key."""
    out = [np.zeros(0)]
    for one in sorted({key(row) for row in rows}):
        rest = [row for row in rows if key(row) != one]
        if rest:
            out.append(ratios_of(fit(rest), [row for row in rows if key(row) == one]))
    return np.concatenate(out)


def layout(row: Row) -> str:
    """Ranks, experts and experts of a token."""
    return "/".join(row[name] for name in ("ranks", "experts", "topk"))


def entries(rows: list[dict[str, str]]) -> Iterable[list[str]]:
    """Lines of the file, by engine, mode and direction: each card's, and a generation's means."""
    for engine in (*LABELS, TYPICAL):
        for mode in (NORMAL, LOW_LATENCY):
            for direction in ("dispatch", "combine"):
                alike = [r for r in rows if r["mode"] == mode and r["direction"] == direction]
                alike = [r for r in alike if engine in (TYPICAL, r["engine"])]
                yield from lines_of(alike, engine, mode, direction)


def lines_of(rows: list[dict[str, str]], *named: str) -> Iterable[list[str]]:
    """Lines of one engine, mode and direction."""
    fits: dict[str, F8] = {}
    for card in sorted({row["card"] for row in rows}):
        own = [row for row in rows if row["card"] == card]
        fits[card] = fit(own)
        ratios = left_out(own, layout) if len({layout(r) for r in own}) > 1 else ratios_of(fits[card], own)
        yield _line(named, card, fits[card], len(own), ratios)
    for capability, kin in KIN.items():
        cards = [card for card in fits if generation(load_device(card)[0]) == capability]
        mean = np.exp(np.mean([np.log(fits[card]) for card in cards], axis=0))
        others = {c: np.exp(np.mean([np.log(fits[o]) for o in cards if o != c], axis=0)) for c in cards}
        ratios = np.concatenate([ratios_of(others[c], (r for r in rows if r["card"] == c)) for c in cards])
        yield _line(named, kin, mean, sum(r["card"] in cards for r in rows), ratios)


def _line(named: tuple[str, ...], card: str, p: F8, rows: int, ratios: F8) -> list[str]:
    quantiles = (f"{v:.3f}" for v in np.quantile(ratios, (0.1, 0.5, 0.9)))
    error = 100.0 * float(np.median(np.abs(np.exp(-ratios) - 1.0)))
    print(f"{' '.join(named)} {card}: {rows} rows, {error:.1f} % off with a layout (a generation: a card) left out")
    return [*named, card, f"{p[0] * 1e6:.2f}", f"{p[1] / 1e9:.1f}", str(rows), *quantiles]


if __name__ == "__main__":
    lines = [list(FORMS), *entries(rows_of(Path(sys.argv[1])))]
    table().write_text("".join(",".join(line) + "\n" for line in lines), encoding="utf-8")
