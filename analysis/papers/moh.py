"""MoH (arXiv 2410.11842): heads as experts. FLOPs from layer objects, times from an H100's price list."""

from __future__ import annotations

from collections.abc import Iterator

from opbyte.extend import Batch, Table

from .moh_step import HEADS, WIDTH, head_work_share, kv_read_share, step_parts
from .published import Prediction, paper

SHARES = (90, 75, 50)
CASES = {
    "prompt of 8k": Batch.of([], [(8192, 0)]),
    "1 decode at 1k": Batch.of([1023]),
    "32 decodes at 1k": Batch.of([1023] * 32),
    "128 decodes at 1k": Batch.of([1023] * 128),
    "32 decodes at 8k": Batch.of([8191] * 32),
}


def predictions() -> Iterator[Prediction]:
    """All rows, from layers alone."""
    for tokens in (256, 512):
        for percent in SHARES:
            yield Prediction(f"moh.{tokens}.h{percent}.time_share", head_work_share(tokens, percent))
    yield Prediction("moh.llama3.kv_read_share", kv_read_share())


def _steps() -> Table:
    """Time with routed heads over that with all: three quarters of the heads."""
    rows = []
    for case, batch in CASES.items():
        row: dict[str, float | str] = {"step": case}
        for costs, name in (("roofline", "roofline"), ("auto", "kernels")):
            ours, plain = (step_parts(routed, batch, costs) for routed in (True, False))
            whole = sum(plain.values())
            row |= {f"all heads, {name} (ms)": whole * 1e3, f"MoH, {name}": sum(ours.values()) / whole}
            row |= {f"{part}, {name}": ours[part] / plain[part] for part in ("scores", "projections")}
        rows.append(row)
    note = "24 of 32 heads; projections of routed heads run as experts, for the tokens that chose them"
    title = "A step of MoH-LLaMA3-8B over that of Llama 3 8B, one H100"
    return Table("steps_time", title, rows, note)


def _drawn() -> Table:
    """Parts of steps with all and with routed heads, as the figure takes them."""
    rows = []
    for case, batch in CASES.items():
        whole = sum(step_parts(False, batch, "roofline").values())
        for name, routed in (("all heads", False), ("MoH", True)):
            parts = step_parts(routed, batch, "roofline")
            rows.append({"case": f"{case}, {name}", **{k: v / whole for k, v in parts.items()}})
    return Table("steps", "Time of a step over that with all heads, roofline of an H100", rows)


paper(
    "moh", "Reproduce MoH: work of some heads against the time that it takes, and keys that are read.", predictions,
    facts={"HEADS": HEADS, "WIDTH": WIDTH}, tables=(_steps,), drawn=_drawn, runs=4 * len(CASES),
)  # fmt: skip
