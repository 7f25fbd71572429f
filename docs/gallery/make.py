"""Draw every figure of the gallery from simulations: ``python docs/gallery/make.py [FOLDER]``."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from opbyte import capacity, roofline, simulate, sweep
from opbyte.analysis.plots import breakdown, latency, op_per_byte_vs_batch, save, timeline, trade_off
from opbyte.analysis.plots import roofline as draw_roofline
from opbyte.analysis.plots.gantt import lanes
from opbyte.analysis.report.simulation import ops_by_share
from opbyte.simulator.engine.kv import kv_rules

MODEL, DUPLEX, GPU = "mixtral-8x7b", "duplex-x4", "duplex-gpu-x4"
WORK = {"input_len": 1024, "output_len": 256, "lengths": "lognormal"}
STUDY = Path(__file__).parents[2] / "notebooks" / "logic_pim.yaml"


def main(folder: Path) -> None:
    step = roofline(MODEL, "duplex-plain-x4", batch=64, context=2048)
    title = "Mixtral-8x7B on duplex-plain-x4: 64 decodes at context 2,048"
    save(draw_roofline(step.processors(), step.figure_ops(), title), folder / "roofline.png")

    seen = roofline(MODEL, DUPLEX, batch=64, context=2048, prefill=512, timeline=True)
    save(seen.drawings()[1].figure, folder / "gantt.png")

    some = simulate(MODEL, DUPLEX, rate=300.0, requests=40, token_budget=1024, steps="5:45",
                    input_len=1024, output_len=24, lengths="lognormal")  # fmt: skip
    assert some.steps is not None
    title = f"Mixtral-8x7B on {DUPLEX}: steps 5 to 44"
    save(lanes(some.steps.span_frame(), title), folder / "lanes.png")

    ridges = step.processors().rename(columns={"ridge_op_per_byte": "op_per_byte"})
    table = pd.concat(
        [
            roofline(MODEL, "duplex-plain-x4", batch=n, context=2048).frame().assign(batch=n)
            for n in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        ]
    )
    chosen = {"qkv": "qkv", "experts": "experts: moe", "attention_decode": "attention"}
    table = table[table["name"].isin(chosen)].drop_duplicates(["name", "batch"])
    table = table.assign(layer=table["name"].map(chosen))
    figure = op_per_byte_vs_batch(table, ridges, "Mixtral-8x7B: Op/B of layers when decoding")
    save(figure, folder / "op_per_byte.png")

    runs = [simulate(MODEL, name, rate=12.0, requests=1000, keep_stages=True, **WORK) for name in (DUPLEX, GPU)]
    title = f"Mixtral-8x7B, {runs[0].run.workload}, 12 requests/s"
    save(breakdown(ops_by_share([r.run for r in runs]), title), folder / "breakdown.png")
    save(latency(runs[0].requests(), f"{title}, {DUPLEX}"), folder / "latency.png")
    size = kv_rules(runs[0].run.deployment).capacity
    save(timeline(runs[0].stages(), size, f"{title}, {DUPLEX}"), folder / "timeline.png")

    found = capacity(MODEL, [DUPLEX, GPU], "ttft_p99=1,tbt_p99=0.05", requests=500, **WORK)
    save(found.figure(), folder / "throughput_latency.png")
    save(found.front(), folder / "throughput_pace.png")

    done = sweep(STUDY, folder / "sweep")
    rows = done.frame()
    rows = rows[(rows["clients"] == 128) & (rows["capacity_GiB"] == 80) & rows["feasible"]]
    goals = {"processor_area_mm2": "min", "output_tokens_per_s": "max"}
    save(trade_off(rows, goals, ("tsv", "modules"), done.study.title), folder / "trade_off.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "gallery"))
