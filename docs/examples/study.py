"""Which batch limit serves a chat load best on three systems? A study as a script, its types checked.

Writes study.csv and study.png into the folder where it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from opbyte import InputError, capacity, compare, roofline, simulate

SYSTEMS = ["h100-x1", "h200-x1", "h100-logic-pim-x1"]
MODEL = "llama-3-8b"


@dataclass(frozen=True)
class Point:
    """One simulation."""

    system: str
    max_seqs: int
    output_tokens_per_s: float
    tbt_p99_s: float


def points(limits: tuple[int, ...]) -> list[Point]:
    """Simulate every system with every limit; those that a model does not fit on are left out."""
    found = []
    for system in SYSTEMS:
        for limit in limits:
            try:
                run = simulate(
                    MODEL, system, rate=20.0, requests=120, input_len=256, output_len=64,
                    lengths="lognormal", max_seqs=limit, seed=1,
                ).run  # fmt: skip
            except InputError as error:
                print(error)
                continue
            rate, gap = run.output_tokens_per_s or 0.0, run.tbt_s.p99 or 0.0
            found.append(Point(system, limit, rate, gap))
    return found


def main() -> None:
    """Run the study, write a table and a figure, print what a step waits for."""
    table = pd.DataFrame(points((8, 64)))
    table.to_csv("study.csv", index=False)
    figure, axes = plt.subplots()
    for system, rows in table.groupby("system"):
        axes.plot(rows["output_tokens_per_s"], rows["tbt_p99_s"] * 1e3, "o-", label=str(system))
    axes.set(xlabel="output tokens/s", ylabel="time between tokens, p99 [ms]")
    axes.legend()
    figure.savefig(Path("study.png"))
    print(table.to_string(index=False))
    print(compare(MODEL, SYSTEMS, batch=16, context=512).frame().to_string(index=False))
    print(roofline(MODEL, SYSTEMS[-1], batch=16, context=512).frame().head(3).to_string(index=False))
    print(capacity(MODEL, SYSTEMS[:1], "tbt_p99=0.05", input_len=256, output_len=64, requests=100))


if __name__ == "__main__":
    main()
