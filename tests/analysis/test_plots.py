"""Do the figures say what their tables say, legibly and the same each time?

Sample ops come from the library (Mixtral-8x7B, 64 decodes at context 2,048). Expected positions
are closed forms: the ridge is peak / bandwidth, the break-even the lower peak over the lower
bandwidth, both with efficiencies.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import BinaryIO

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from opbyte.analysis.plots import (
    breakdown,
    kernel_errors,
    latency,
    op_per_byte_vs_batch,
    roofline,
    roofline_fractions,
    save,
    throughput_latency,
    throughput_pace,
    timeline,
    trade_off,
)
from opbyte.analysis.plots.labels import LabelledPoint, crosses, overlaps, place, spread
from opbyte.analysis.plots.latencies import MAX_BINS, MAX_POINTS, _tokens_by
from opbyte.analysis.plots.looks import hover_of
from opbyte.analysis.plots.style import LAYERS, PROCESSORS, layer_styles, processor_styles
from opbyte.analysis.plots.timelines import BINS, binned_max, binned_mean
from opbyte.analysis.plots.validation import replays
from opbyte.analysis.studies.front import front
from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.step.explicit import StageCost, explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model

OP_PER_BYTE = "FLOP per byte of memory traffic (Op/B)"
SYSTEMS = ("duplex-plain-x4", "h100-x4")


def stage(model: str, system: str, batch: Batch) -> tuple[Deployment, StageCost]:
    deployment = deploy(load_model(model), load_system(system), costs="roofline")
    return deployment, explicit_stage(deployment, [batch] * deployment.ranks, expected=True)


def processor_table(deployment: Deployment) -> pd.DataFrame:
    spec = deployment.system.device.processors
    return pd.DataFrame(
        [
            (name, p.peak["fp16"], p.bandwidth, spec[name].compute_efficiency, spec[name].memory_efficiency)
            for name, p in deployment.device.processors.items()
        ],
        columns=["name", "peak_flops", "bandwidth", "compute_efficiency", "memory_efficiency"],
    )


def op_table(cost: StageCost, run: str = "run") -> pd.DataFrame:
    rows = []
    for placed in cost.ops:
        if not placed.critical:
            continue
        op, c, n = placed.op, placed.cost, placed.count
        joules = {f"{p}_joules": c.joules.get(p, 0.0) * n for p in ("dram", "compute", "link")}
        rows.append(
            {
                "run": run, "name": op.name, "layer": op.layer, "kind": op.kind,
                "processor": placed.processor, "bound": c.bound,
                "op_per_byte": None if op.layer == "communication" else op.op_per_byte,
                "achieved_flops": op.flops / c.seconds, "seconds_total": c.seconds * n,
                "wall_s": c.seconds * n, "busy_s": c.seconds * n * placed.devices,
                "flops": op.flops * n, "bytes": op.bytes * n, **joules,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


Samples = dict[str, tuple[pd.DataFrame, pd.DataFrame]]


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Processors and ops by system."""
    batch = Batch.of([2048] * 64)
    stages = {name: stage("mixtral-8x7b", name, batch) for name in SYSTEMS}
    return {name: (processor_table(d), op_table(cost, name)) for name, (d, cost) in stages.items()}


def crowd(ops: int = 25, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three processors, and many ops in little space."""
    columns = ["name", "peak_flops", "bandwidth", "compute_efficiency", "memory_efficiency"]
    processors = pd.DataFrame(
        [("xpu", 989e12, 3.35e12, 0.8, 0.85), ("logic-pim", 107e12, 13.4e12, 1.0, 0.85),
         ("bank-pim", 20e12, 40e12, 0.9, 0.9)], columns=columns,
    )  # fmt: skip
    draw = np.random.default_rng(seed)
    x = 10 ** draw.uniform(1.0, 2.0, ops)
    kinds = [*LAYERS, "unheard of"]
    table = pd.DataFrame(
        {
            "name": [f"operation_{i}" for i in range(ops)],
            "layer": [kinds[i % 9] for i in range(ops)],
            "processor": [processors["name"][i % 3] for i in range(ops)],
            "op_per_byte": x, "achieved_flops": x * 1e12 * draw.uniform(0.3, 0.9, ops),
            "seconds_total": draw.exponential(1e-4, ops), "bound": "memory",
        }
    )  # fmt: skip
    return processors, table


def request_table(n: int, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    arrival = np.cumsum(draw.exponential(0.2, n))
    first = arrival + 0.05 + draw.lognormal(-2, 0.9, n)
    tokens = np.maximum(1, draw.lognormal(5, 0.8, n)).astype(int)
    return pd.DataFrame(
        {
            "request_id": np.arange(n), "arrival_s": arrival, "input_tokens": 100,
            "output_tokens": tokens, "scheduled_s": first, "first_token_s": first,
            "last_token_s": first + (tokens - 1) * 0.02, "preemptions": 0,
        }
    )  # fmt: skip


def texts(figure: Figure) -> list[Text]:
    """All texts that show; ticks beyond the limits exist but do not."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            room = 1e-9 * (high - low)
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low - room <= tick.get_loc() <= high + room:
                    hidden |= {id(tick.label1), id(tick.label2)}
    found = [t for t in figure.findobj(Text) if isinstance(t, Text) and id(t) not in hidden]
    return [t for t in found if t.get_visible() and t.get_text().strip()]


def marked(figure: Figure, gid: str) -> list[Text]:
    return [t for t in texts(figure) if t.get_gid() == gid]


def drawn(figure: Figure, gid: str) -> list[object]:
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def assert_legible(figure: Figure) -> None:
    """No two texts overlap, none leaves the figure, all are at least 8 pt."""
    FigureCanvasAgg(figure).draw()
    inside = figure.bbox
    shown = []
    for text in texts(figure):
        box = text.get_window_extent()
        assert text.get_fontsize() >= 8, text.get_text()
        assert box.x0 >= -0.5, text.get_text()
        assert box.y0 >= -0.5, text.get_text()
        assert box.x1 <= inside.x1 + 0.5, text.get_text()
        assert box.y1 <= inside.y1 + 0.5, text.get_text()
        shown.append((text.get_text(), box))
    for (name, a), (other, b) in combinations(shown, 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, f"{name!r} and {other!r} overlap"


def png(figure: Figure, folder: Path) -> bytes:
    return save(figure, folder / "figure.png").read_bytes()


# Roofline


@pytest.mark.parametrize("system", SYSTEMS)
def test_roofline_of_a_real_step(samples: Samples, system: str) -> None:
    processors, ops = samples[system]
    figure = roofline(processors, ops, f"mixtral-8x7b on {system}")
    (axes,) = figure.axes
    assert axes.get_xlabel() == OP_PER_BYTE
    assert axes.get_ylabel() == "Performance (TFLOP/s)"
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    for gid in ("roof-nominal", "roof-attainable", "ridge"):
        assert len(drawn(figure, gid)) == len(processors)
    assert len(drawn(figure, "break-even")) == len(processors) - 1
    # one marker an op: 32 equal rows of experts are one; two norms and both reduces as well
    shown = (ops["layer"] != "communication") & (ops["flops"] > 0)  # partial sums are only read
    names = ops[shown].drop_duplicates(["name", "layer", "processor"])
    assert len(drawn(figure, "op")) == len(names)
    labels = ", ".join(t.get_text().replace("\n", " ") for t in marked(figure, "op-label"))
    for name in ("qkv, out", "experts", "attention decode"):
        assert name in labels
    assert_legible(figure)


def test_roofline_marks_ridge_and_break_even() -> None:
    processors, ops = crowd(6)
    figure = roofline(processors, ops, "")
    at = {
        gid: sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in drawn(figure, gid))  # type: ignore[attr-defined]
        for gid in ("ridge", "break-even")
    }
    ridges = processors["peak_flops"] / processors["bandwidth"]
    np.testing.assert_allclose([x for x, _ in at["ridge"]], sorted(ridges))
    # lower attainable peak over lower attainable bandwidth, pair by pair
    expected = sorted([(107 / (3.35 * 0.85), 107), (18 / (3.35 * 0.85), 18), (18 / (13.4 * 0.85), 18)])
    np.testing.assert_allclose(at["break-even"], expected)
    said = " ".join(t.get_text() for t in marked(figure, "mark"))
    for value in ("295 Op/B", "7.99 Op/B", "0.5 Op/B", "break-even 37.6 Op/B"):
        assert value in said


def test_processor_better_in_both_has_no_break_even() -> None:
    processors, ops = crowd(6)
    processors.loc[0, "bandwidth"] = 1e14
    assert len(drawn(roofline(processors[:2], ops, ""), "break-even")) == 0


@pytest.mark.parametrize("seed", range(4))
def test_crowded_rooflines_are_legible(seed: int) -> None:
    title = "A title that is far too long for one line of a page, so that it has to be broken"
    figure = roofline(*crowd(25, seed), title, label_share=0.0)
    assert_legible(figure)
    assert len(drawn(figure, "op")) == 25
    said = ", ".join(t.get_text().replace("\n", " ") for t in marked(figure, "op-label"))
    more = sum(int(n) for n in re.findall(r"and (\d+) more", said))
    named = set(re.findall(r"operation \d+", said))
    assert len(named) + more == 25, "every op is named, or counted where five or more coincide"


def test_a_roofline_says_when_labels_find_no_room() -> None:
    figure = roofline(*crowd(150), "too many ops", label_share=0.0)
    found = re.search(r"(\d+) labels found no room", figure.get_supxlabel().replace("\n", " "))
    assert found
    assert_legible(figure)


def test_small_ops_are_drawn_but_not_named() -> None:
    processors, ops = crowd(3)
    ops.loc[2, "seconds_total"] = 1e-9
    figure = roofline(processors, ops, "")
    assert len(drawn(figure, "op")) == 3
    assert "operation 2" not in " ".join(t.get_text() for t in marked(figure, "op-label"))
    assert "below 0.2\u00a0%" in figure.get_supxlabel()


@pytest.mark.parametrize("missing", [None, 0.0, float("nan")])
def test_ops_without_op_per_byte_are_listed(missing: float | None) -> None:
    processors, ops = crowd(4)
    ops["seconds_total"] = 1.0
    ops["op_per_byte"] = ops["op_per_byte"].astype(object)
    ops.loc[1, "op_per_byte"] = missing
    figure = roofline(processors, ops, "")
    assert len(drawn(figure, "op")) == 3
    assert "operation 1 25\u00a0%" in figure.get_supxlabel()


@pytest.mark.parametrize("ops", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_roofline_of_few_ops(ops: int, count: int) -> None:
    processors, table = crowd(max(ops, 1))
    figure = roofline(processors[:count], table[:ops], "few")
    assert len(drawn(figure, "op")) == len(marked(figure, "op-label")) == ops
    assert_legible(figure)


def test_a_missing_column_is_named() -> None:
    processors, ops = crowd(2)
    with pytest.raises(ValueError, match="ops lacks the columns layer, bound"):
        roofline(processors, ops.drop(columns=["layer", "bound"]), "")


# Latency


def test_latency_panels() -> None:
    figure = latency(request_table(300), "300 requests")
    cdf, output, rate = figure.axes
    assert cdf.get_xscale() == "log"
    assert cdf.get_xlabel() == "Latency (s)"
    assert output.get_ylabel() == "Output (tokens/s)"
    assert rate.get_ylabel() == "Arrivals (requests/s)"
    assert rate.get_xlabel() == "Time since first arrival (s)"
    assert len(drawn(figure, "cdf")) == 2
    assert len(marked(figure, "op-label")) == 6
    assert_legible(figure)


def test_latency_percentiles_and_rates() -> None:
    table = request_table(500)
    figure = latency(table, "")
    for line, column in zip(drawn(figure, "cdf"), ("first_token_s", "last_token_s"), strict=True):
        x, y = line.get_data()  # type: ignore[attr-defined]
        assert len(x) <= MAX_POINTS
        values = np.sort(table[column] - table["arrival_s"])
        assert (x[0], x[-1], y[0], y[-1]) == (values[0], values[-1], 0, 100)
    at = [(q.get_xdata()[0], q.get_ydata()[0]) for q in drawn(figure, "quantile")]  # type: ignore[attr-defined]
    ttft = table["first_token_s"] - table["arrival_s"]
    np.testing.assert_allclose(at[:3], [(ttft.quantile(q), 100 * q) for q in (0.5, 0.9, 0.99)])
    output, rate = (s.get_data() for s in drawn(figure, "bins"))  # type: ignore[attr-defined]
    width = np.diff(output.edges)[0]
    assert len(output.values) <= MAX_BINS
    assert output.values.sum() * width == pytest.approx(table["output_tokens"].sum())
    assert rate.values.sum() * width == pytest.approx(len(table))


def test_tokens_are_spread_evenly() -> None:
    """One request: 1 token at 1 s, 10 more evenly over 4 s; another with 3 tokens at once."""
    first, last, tokens = np.array([1.0, 2.5]), np.array([5.0, 2.5]), np.array([11.0, 3.0])
    made = _tokens_by(np.arange(7.0), first, last, tokens)
    np.testing.assert_allclose(made, [0, 0, 3.5, 9, 11.5, 14, 14])


def test_latency_of_one_request() -> None:
    figure = latency(request_table(1), "one request")
    assert len(marked(figure, "op-label")) == 6
    assert_legible(figure)


def test_latency_of_one_instant() -> None:
    """One token, made as it arrived: nothing lasts any time."""
    table = request_table(1)
    table[["first_token_s", "last_token_s"]] = table[["arrival_s", "arrival_s"]].to_numpy()
    table["output_tokens"] = 1
    assert_legible(latency(table, "at once"))


@pytest.mark.parametrize("finished", [0, 40])
def test_latency_of_unfinished_requests(finished: int) -> None:
    table = request_table(50)
    table.loc[finished:, ["first_token_s", "last_token_s"]] = np.nan
    figure = latency(table, "cut off")
    assert f"{50 - finished} unfinished" in figure.get_supxlabel()
    assert_legible(figure)


def test_latency_of_many_requests() -> None:
    table = request_table(200_000)
    figure = latency(table, "many")
    assert all(len(line.get_xdata()) <= MAX_POINTS for line in drawn(figure, "cdf"))  # type: ignore[attr-defined]
    output = drawn(figure, "bins")[0].get_data()  # type: ignore[attr-defined]
    made = output.values.sum() * np.diff(output.edges)[0]
    assert made == pytest.approx(table["output_tokens"].sum(), rel=1e-9)


# Breakdown


def test_breakdown_of_two_runs(samples: Samples) -> None:
    ops = pd.concat([ops for _, ops in samples.values()])
    figure = breakdown(ops, "Mixtral-8x7B")
    time, energy = figure.axes
    assert time.get_xlabel() == "Share of clock time (%)"
    assert energy.get_xlabel() == "Dynamic energy (mJ)"
    names = [t.get_text() for t in time.get_yticklabels()]
    assert [n.split("\n")[0] for n in names] == list(SYSTEMS)
    assert [n.split("\n")[1] for n in names] == ["5.39 ms", "11.9 ms"]
    assert time.get_ylim()[0] > time.get_ylim()[1], "first run on top"
    for y in range(2):
        bars = [p for p in time.patches if round(p.get_y() + p.get_height() / 2) == y]  # type: ignore[attr-defined]
        assert sum(b.get_width() for b in bars) == pytest.approx(100)  # type: ignore[attr-defined]
    assert {p.get_hatch() for p in time.patches} == {"", PROCESSORS["logic-pim"].hatch}
    joules = ops[["dram_joules", "compute_joules", "link_joules"]].to_numpy().sum()
    drawn_J = sum(p.get_width() for p in energy.patches) / 1e3  # type: ignore[attr-defined]
    assert drawn_J == pytest.approx(joules)
    assert_legible(figure)


def many_runs(count: int) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = [
        (f"a-very-long-system-name-number-{k}-with-2x8", layer, processor)
        for k in range(count)
        for layer in LAYERS
        for processor in (("nvlink",) if layer == "communication" else tuple(PROCESSORS)[:3])
    ]
    table = pd.DataFrame(rows, columns=["run", "layer", "processor"])
    for name in ("name", "kind"):
        table[name] = "x"
    for name in ("wall_s", "busy_s", "flops", "bytes", "dram", "compute", "link"):
        column = f"{name}_joules" if name in ("dram", "compute", "link") else name
        table[column] = draw.exponential(1.0, len(table))
    return table


@pytest.mark.parametrize("count", [1, 2, 12])
def test_breakdown_of_many_layers_and_runs(count: int) -> None:
    figure = breakdown(many_runs(count), "many")
    assert len(figure.axes[0].get_yticks()) == count
    assert_legible(figure)


def test_breakdown_without_time_or_energy() -> None:
    table = many_runs(2)
    table.loc[table["run"] == table["run"].iloc[0], table.columns[5:]] = 0.0
    assert_legible(breakdown(table, "first run empty"))


# Op/B against batch


def batch_table(layers: list[str]) -> pd.DataFrame:
    rows = [(layer, 2**i, 2.0**i if layer != "norm" else 0.5) for layer in layers for i in range(9)]
    return pd.DataFrame(rows, columns=["layer", "batch", "op_per_byte"])


RIDGES = pd.DataFrame({"name": ["xpu", "logic-pim"], "op_per_byte": [295.2, 7.94]})


def test_op_per_byte_vs_batch() -> None:
    table = batch_table(["moe", "attention", "norm"])
    table.loc[len(table)] = ["communication", 1, None]
    figure = op_per_byte_vs_batch(table, RIDGES, "Mixtral")
    (axes,) = figure.axes
    assert axes.get_ylabel() == OP_PER_BYTE
    assert axes.get_xlabel().startswith("Batch (sequences")
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert len(drawn(figure, "layer")) == 3
    assert len(drawn(figure, "ridge")) == 2
    said = [t.get_text() for t in marked(figure, "op-label")]
    assert said == ["attention", "moe", "norm", "xpu ridge, 295 Op/B", "logic-pim ridge, 7.94 Op/B"]
    assert "communication" in figure.get_supxlabel()
    ticks = [t.get_text() for t in axes.get_xticklabels()]
    assert ticks == ["1", "2", "4", "8", "16", "32", "64", "128", "256"]
    assert_legible(figure)


@pytest.mark.parametrize(("layers", "ridges"), [([], 0), ([], 2), (["moe"], 0), ([*LAYERS, "a", "b", "c"], 2)])
def test_op_per_byte_vs_batch_of_any_number(layers: list[str], ridges: int) -> None:
    assert_legible(op_per_byte_vs_batch(batch_table(layers), RIDGES[:ridges], "lines"))


# Style, labels, files


def test_styles_differ() -> None:
    """Within a figure no two layers share colour and shape, no two processors colour and fill."""
    layers = layer_styles([*LAYERS, "a", "b", "c"])
    assert len({(s.color, s.marker) for s in layers.values()}) == len(layers)
    assert len({s.marker for s in LAYERS.values()}) == len(LAYERS)
    assert layer_styles(["head", "moe"])["moe"] == LAYERS["moe"]
    units = processor_styles(["xpu", "h100 xpu", "logic-pim", "other"])
    assert units["xpu"] == PROCESSORS["xpu"]
    assert len({(s.color, s.fill) for s in units.values()}) == 4
    assert processor_styles(["duplex bank-group-pim"]) == {"duplex bank-group-pim": PROCESSORS["bank-group-pim"]}


def test_crossing_and_overlap() -> None:
    boxes = np.array([[0.0, 0.0, 2.0, 1.0]])
    lines = np.array([[-1.0, -1.0, 3.0, 2.0], [-1.0, 2.0, 3.0, 2.0], [0.5, 0.5, 0.6, 0.6], [3.0, 0.5, 4.0, 0.5]])
    assert crosses(boxes, lines).tolist() == [[True, False, True, False]]
    others = np.array([[1.0, 0.5, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
    assert overlaps(boxes, others).tolist() == [[True, False]]


def test_spread_keeps_distance_order_and_range() -> None:
    draw = np.random.default_rng(0)
    for n in (1, 2, 9):
        wanted = draw.uniform(-1, 11, n).tolist()
        placed = np.array(spread(wanted, 1.0, 0.0, 10.0))
        assert (np.diff(np.sort(placed)) >= 1 - 1e-9).all()
        assert (np.argsort(placed) == np.argsort(wanted)).all()
        assert placed.min() >= 0
        assert placed.max() <= 10


def test_labels_that_find_no_room_are_left_out() -> None:
    figure = Figure(figsize=(1.2, 0.8), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    points = [LabelledPoint(0.5, 0.5, 2.0, f"a wide label {i}") for i in range(9)]
    kept = place(axes, points, points[:1])
    assert 0 < len(kept) < 9
    assert kept[0].get_text() == "a wide label 0", "the most important first"


@pytest.fixture
def figures(samples: Samples) -> list[list[Figure]]:
    """Each kind of figure, made twice."""
    processors, ops = samples["duplex-plain-x4"]
    return [
        [make() for _ in range(2)]
        for make in (
            lambda: roofline(processors, ops, "roofline"),
            lambda: latency(request_table(200), "latency"),
            lambda: breakdown(ops, "breakdown"),
            lambda: op_per_byte_vs_batch(batch_table(["moe", "norm"]), RIDGES, "batch"),
        )
    ]


def test_png_bytes_are_the_same_each_time(figures: list[list[Figure]], tmp_path: Path) -> None:
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9}):  # a user's own settings
        again = op_per_byte_vs_batch(batch_table(["moe", "norm"]), RIDGES, "batch")
    for first, second in [*figures, [figures[-1][0], again]]:
        data = png(first, tmp_path)
        assert data == png(second, tmp_path)
        assert data == png(first, tmp_path), "saving does not change the figure"
        assert data.startswith(b"\x89PNG")
        size = [int.from_bytes(data[i : i + 4], "big") for i in (16, 20)]
        assert size == [round(200 * inches) for inches in first.get_size_inches()]


def test_settings_are_left_alone() -> None:
    roofline(*crowd(1), "roofline")
    assert matplotlib.rcParams["text.parse_math"]
    assert matplotlib.rcParams["font.size"] == matplotlib.rcParamsDefault["font.size"]


def test_save_replaces_the_whole_file_or_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new folder" / "figure.png"
    figure = latency(request_table(3), "three")
    assert save(figure, path) == path
    before = path.read_bytes()

    def broken(_: FigureCanvasAgg, file: BinaryIO, **__: object) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(FigureCanvasAgg, "print_png", broken)
    with pytest.raises(OSError, match="disk full"):
        save(figure, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]


def test_names_are_not_read_as_formulas() -> None:
    """A dollar sign or an underscore in a name is text, and no name breaks the drawing."""
    processors, ops = crowd(3)
    ops["name"] = ["a$b$_{", "$x^$", "plain"]
    figure = roofline(processors, ops, "cost in $ per $_{token")
    assert_legible(figure)
    assert all(isinstance(t, Annotation) for t in marked(figure, "op-label"))


# Studies: trade-offs, loads, timelines

GOALS = {"output_tokens_per_s": "max", "joules_per_token": "min"}


def designs(n: int = 120, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    table = pd.DataFrame({"tsv": draw.choice([2, 4, 8], n), "modules": draw.choice([16, 32], n)})
    table["output_tokens_per_s"] = table["tsv"] ** 0.5 * draw.uniform(500, 1000, n)
    table["joules_per_token"] = table["output_tokens_per_s"] / 900 * draw.uniform(0.5, 1.5, n)
    return table


@pytest.mark.parametrize("n", [1, 2, 120])
def test_trade_off_joins_what_none_beats(n: int) -> None:
    table = designs(n)
    table.loc[0, "joules_per_token"] = np.nan if n > 2 else 1.0
    figure = trade_off(table, GOALS, ("tsv", "modules"), "designs")
    assert_legible(figure)
    (line,) = drawn(figure, "best")
    best = front(table.to_dict("records"), GOALS)
    expected = sorted((r["output_tokens_per_s"], r["joules_per_token"]) for r in best)
    np.testing.assert_allclose(np.transpose(line.get_data()), expected)
    (rows,) = drawn(figure, "row")
    assert len(rows.get_xdata()) == int(table["joules_per_token"].notna().sum())


def test_labels_hide_no_point_that_they_name() -> None:
    rows = [("mi325x-x1, 5, tp 1", 11.25, 1.86), ("h200-x2, 3, tp 2", 22.74, 1.57), ("mi325x-x2, 4, tp 2", 18, 2.5)]
    table, goals = pd.DataFrame(rows, columns=["system", "usd", "watts"]), {"usd": "min", "watts": "min"}
    (axes,) = trade_off(table, goals, ("system",), "designs", named="system").axes
    places = [axes.transData.transform(note.xy) for note in axes.texts]
    assert not any(note.get_window_extent().contains(*place) for note, place in zip(axes.texts, places, strict=True))


def test_trade_off_of_nothing_and_of_one_objective() -> None:
    assert_legible(trade_off(designs(3)[:0], GOALS, ("tsv",), "nothing"))
    with pytest.raises(ValueError, match="two objectives"):
        trade_off(designs(3), {"joules_per_token": "min"}, (), "")
    with pytest.raises(ValueError, match="table lacks the columns e2e_s_p99"):
        trade_off(designs(3), GOALS | {"e2e_s_p99": "min"}, (), "")


def test_workloads_have_panels_and_fronts_of_their_own() -> None:
    """A longer prompt is no design: what serves the shorter one never hides what serves it best."""
    table = designs(60)
    table["input_len"] = np.where(np.arange(60) % 2, 128, 4096)
    table.loc[table["input_len"] == 4096, "output_tokens_per_s"] /= 100
    figure = trade_off(table, GOALS, ("tsv", "input_len"), "designs", facets=("input_len",))
    assert_legible(figure)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["input len 4,096", "input len 128"]
    best = front(table.to_dict("records"), GOALS, ("input_len",))
    assert len({row["input_len"] for row in best}) == 2
    joined = sum(len(line.get_xdata()) for line in drawn(figure, "best"))
    assert joined == len(best)


def test_settings_in_labels_are_never_rounded() -> None:
    table = designs(3).assign(tsv=[1.23456, 2048, 8], modules="a-name-that-is-long-x4")
    figure = trade_off(table, GOALS, ("tsv", "modules"), "designs")
    (rows,) = drawn(figure, "row")
    said = "\n".join(hover_of(rows).texts)
    assert "tsv: 1.23456\n" in said
    assert "tsv: 2,048\n" in said
    assert "modules: a-name-that-is-long-x4" in said


@pytest.mark.parametrize("runs", [0, 1, 7])
def test_throughput_against_pace(runs: int) -> None:
    draw = np.random.default_rng(1)
    table = pd.DataFrame(
        {"run": f"system-{i}-x4", "load": f"{n} requests/s", "within": bool(n % 3),
         "tokens_per_s_per_user": draw.uniform(20, 90), "usd_per_million_tokens": 0.5,
         "tokens_per_s_per_device": draw.uniform(500, 3000), "joules_per_token": np.nan}
        for i in range(runs) for n in range(6)
    )  # fmt: skip
    if not runs:
        columns = ("run", "load", "within", "tokens_per_s_per_user", "tokens_per_s_per_device",
                   "usd_per_million_tokens", "joules_per_token")  # fmt: skip
        table = pd.DataFrame(columns=columns)
    figure = throughput_pace(table, ("load",), "every load of every system")
    assert_legible(figure)
    goals = {"tokens_per_s_per_user": "max", "tokens_per_s_per_device": "max"}
    good = [row for row in table.to_dict("records") if row["within"]]
    assert sum(len(x.get_xdata()) for x in drawn(figure, "best")) == len(front(good, goals))
    fronts = sum(len(x.get_xdata()) for x in drawn(figure, "front"))
    assert fronts == len(front(good, goals, ("run",)))
    for line in drawn(figure, "within"):
        assert len(hover_of(line).texts) == 4
        assert "Price of a million output tokens (USD): 0.5" in hover_of(line).texts[0]
        assert "Energy" not in hover_of(line).texts[0]  # unknown


def loads(runs: int) -> pd.DataFrame:
    rows = []
    for i in range(runs):
        for load in np.linspace(1, 8 + i, 6):
            rows.append({"run": f"system-{i}-x4", "load_per_s": load,
                         "ttft_s_p99": 0.05 + 0.05 / (9 + i - load), "tbt_s_p99": 0.01 + load / 500,
                         "e2e_s_p50": 1 + load / 8})  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("runs", [0, 1, 4, 9])
@pytest.mark.parametrize("panels", [1, 2, 3])
def test_loads_have_a_curve_a_run_and_a_level_a_limit(runs: int, panels: int) -> None:
    names = ("ttft_s_p99", "tbt_s_p99", "e2e_s_p50")[:panels]
    table = loads(runs) if runs else loads(1)[:0]
    figure = throughput_latency(table, names, "loads", load="load_per_s", limits={"ttft_s_p99": 1.0})
    assert_legible(figure)
    assert len(drawn(figure, "curve")) == runs * panels
    assert len(drawn(figure, "limit")) == (1 if runs else 0)
    if runs:
        x, y = drawn(figure, "curve")[0].get_data()
        np.testing.assert_allclose(x, table["load_per_s"][:6])
        np.testing.assert_allclose(y, table["ttft_s_p99"][:6])


def stages(n: int, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    length, idle = draw.exponential(0.1, n), draw.exponential(0.02, n)
    start = np.cumsum(length + idle) - length
    whole = {name: draw.integers(0, 300, n).astype(float)
             for name in ("decodes", "prefill_tokens", "running", "waiting")}  # fmt: skip
    return pd.DataFrame({"start_s": start, "end_s": start + length, "steps": 1.0, **whole,
                         "kv_bytes": draw.uniform(0, 5e10, n),
                         "watts": draw.uniform(70, 690, n)})  # fmt: skip


@pytest.mark.parametrize("n", [0, 1, 5000])
def test_timelines_are_legible(n: int) -> None:
    figure = timeline(stages(n), 5e10, "an engine")
    assert_legible(figure)
    if n:
        found = drawn(figure, "bins")
        assert len(found) == 6
        assert all(len(each.get_data().values) == BINS for each in found)
        watts = found[-1].get_data().values
        assert 0 <= watts.min() <= watts.max() <= 690


def test_bins_keep_areas_and_maxima() -> None:
    table = stages(400)
    start, end, value = (table[name].to_numpy() for name in ("start_s", "end_s", "running"))
    edges = np.linspace(0, float(end.max()), 38)
    mean = binned_mean(start, end, value, edges)
    assert (mean * np.diff(edges)).sum() == pytest.approx((value * (end - start)).sum())
    most = binned_max(start, end, value, edges)
    for i, (low, high) in enumerate(pairwise(edges)):
        touching = (start < high) & (end > low)
        assert most[i] == value[touching].max(initial=0.0)
        assert mean[i] <= most[i] + 1e-9


# Validation


def kernel_rows(devices: int, sources: int, count: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    measured = 10.0 ** rng.uniform(-6, 0, count)
    return pd.DataFrame(
        {
            "device": [f"device-{i}" for i in rng.integers(0, devices, count)],
            "source": [f"lab/kernel-{i}" for i in rng.integers(0, sources, count)],
            "measured_s": measured,
            "predicted_s": measured * np.exp(rng.normal(0, 0.2, count)),
        }
    )


@pytest.mark.parametrize(("devices", "sources", "count"), [(3, 4, 900), (12, 20, 3000), (1, 1, 1)])
def test_kernel_errors_panels(devices: int, sources: int, count: int) -> None:
    figure = kernel_errors(kernel_rows(devices, sources, count), "Predicted and measured time")
    scatter, size, source = figure.axes
    assert scatter.get_xscale() == scatter.get_yscale() == "log"
    assert len(source.get_yticks()) == min(sources, 8)
    curves = [line for line in size.lines if line.get_marker() != "None"]
    assert len(curves) == (min(devices, 8) if count >= 40 else 0)
    assert_legible(figure)


def fraction_rows(devices: int, families: int, count: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    which = [f"family-{i}" for i in rng.integers(0, families, count)]
    return pd.DataFrame(
        {
            "device": [f"device-{i}" for i in rng.integers(0, devices, count)],
            "family": which,
            "title": which,
            "op_per_byte": 10.0 ** rng.uniform(0, 4, count),
            "roofline_s": 10.0 ** rng.uniform(-7, -3, count),
            "measured": rng.uniform(1e-4, 1.2, count),
            "predicted": rng.uniform(1e-4, 1.2, count),
        }
    )


@pytest.mark.parametrize(("devices", "families", "count"), [(5, 3, 1500), (2, 1, 40), (1, 1, 1)])
def test_fractions_have_a_panel_a_device_and_family(devices: int, families: int, count: int) -> None:
    rows = fraction_rows(devices, families, count)
    figure = roofline_fractions(rows, "Fraction of the roofline by Op/B")
    assert len(figure.axes) == devices * families
    drawn = sum(len(line.get_xdata()) for axes in figure.axes for line in axes.lines if line.get_marker() == "o")
    assert drawn == count
    assert_legible(figure)


NOTHING: dict[str, Callable[[], Figure]] = {
    "roofline": lambda: roofline(*(table[:0] for table in crowd(1)), "nothing"),
    "latency": lambda: latency(request_table(1)[:0], "none"),
    "breakdown": lambda: breakdown(many_runs(1)[:0], "none"),
    "op_per_byte": lambda: op_per_byte_vs_batch(batch_table(["moe"]).query("batch == 4"), RIDGES, "one"),
    "kernel_errors": lambda: kernel_errors(kernel_rows(1, 1, 4)[:0], "nothing"),
    "fractions": lambda: roofline_fractions(fraction_rows(1, 1, 4)[:0], "nothing"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_figures_of_nothing_are_legible(name: str) -> None:
    """And of one batch size."""
    assert_legible(NOTHING[name]())


def test_any_percentile_of_a_run_is_drawn() -> None:
    table = pd.DataFrame(
        {"metric": ["ttft_p95", "ttft_mean"], "measured": [2.0, 1.0], "simulated": [2.0, 1.0], "error": 0.0}
    )
    legend = replays(table, "Runs").axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["mean", "p95"]
