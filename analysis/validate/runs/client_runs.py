"""Runs as their clients printed them: one row per run, with the engine's file and a command of `opbyte` in the row.

The columns are the same as in ``$OPBYTE_DATA/real_runs_2026_11``. Rows of training and of verify steps have fewer.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ....simulator.frameworks.keys import numbers_of
from ....simulator.option import placed
from ....simulator.scenario import Scenario
from ....workloads.catalog import fp8_format, load_model
from ....workloads.csvfile import header_of, read_whole
from ....workloads.errors import InputError, typed_number
from ...answers.train_recipe import CHECKPOINTS, STAGED, TITANS
from .published import ArrivalPattern, PublishedRun, table_name

T = TypeVar("T")
COLUMNS = ("id", "model", "gpu", "opbyte")
USABLE, ASSUMED = "yes", "layout assumed"
"""Values of column `score`: fully specified; a submission whose layout is a guess."""
TIMES = re.compile(r"(ttft|tpot|itl|e2e)_(mean|p50|p90|p95|p99)_(ms|s)")
FIGURES = {"output_tok_s": "output_tokens_per_s", "tokens_per_s_gpu": "training_tokens_per_s"}
POWER = re.compile(r"power (\d+) W a GPU")
CAP = re.compile(r"limited to (\d+) W")
MOST = 1_000_000
"""Of any number that a run needs."""
LEAST = 1e-9
"""Minimum of a measured value, in its unit; the inverse is the maximum, so that an error in percent is finite."""
RECIPE = (
    "models",
    "devices",
    "precision",
    "since",
    "overlap_experts",
    "graphs",
    "mtp",
    "all_to_all",
    "recompute",
    "offload",
    "moment_bits",
)
WORDS: Mapping[str, Any] = {"yes": True, "no": False, **{str(n): n for n in range(128)}}
"""Cells of a recipe with another type than text."""
FUSED = (26, 8)
"""Release of NVIDIA's container from which on the fused loss has a gradient of its own (NVIDIA/TransformerEngine#3193, July 2026)."""
DRAFTS = 3
"""Drafts a step where only the measured tokens of a step are known."""
ROUNDS, WARM, END = 3.4, 1.2, 2.6
"""An offline run is much longer than its requests in flight: its lengths are repeated in random order to these
multiples, and the middle is measured."""
COPIES = re.compile(r"times (\d+) replicas")


def is_client_table(path: Path) -> bool:
    """Whether a table is of this form, by its header."""
    return set(COLUMNS) <= set(header_of(path))


def read_client_runs(path: Path) -> tuple[list[PublishedRun], list[str]]:
    """Runs of a table, and what was left out with the reason; submissions of one layout are one run, their median."""
    columns = read_whole(path, COLUMNS)
    lines = columns["id"].lines
    rows = [{name: str(c.cells[i]).strip() for name, c in columns.items()} for i in range(len(lines))]
    runs, left = list[PublishedRun](), list[str]()
    same: dict[tuple[str, str], list[tuple[int, Mapping[str, str]]]] = {}
    for line, row in zip(lines, rows, strict=True):
        score = row.get("score", USABLE)
        if score == ASSUMED:
            same.setdefault((row["opbyte"], row.get("engine_json", "")), []).append((line, row))
        elif score == USABLE and row["opbyte"] and row["model"]:
            _add(path, line, row, runs, left)
        else:
            left.append(f"{path}:{line}: {'not in the catalog' if score == USABLE else f'score is {score}'}")
    for group in same.values():
        group.sort(key=lambda pair: _needed(path, pair[1], "output_tok_s", least=0.0) / _needed(path, pair[1], "count"))
        _add(path, *group[len(group) // 2], runs, left)
    return runs, left


def _add(path: Path, line: int, row: Mapping[str, str], runs: list[PublishedRun], left: list[str]) -> None:
    measured = _measured(f"{path}:{line}", row)
    if measured:
        runs.append(_run(path, line, row, measured))
    else:
        left.append(f"{path}:{line}: nothing that is measured has a known name, such as tpot_p50_ms or output_tok_s")


def _measured(where: str, row: Mapping[str, str]) -> dict[str, float]:
    """Return metric -> measured value of a row, in SI units."""
    out = {}
    for name, text in row.items():
        time = TIMES.fullmatch(name)
        if not _number(text) or not (time or name in FIGURES):
            continue
        value = _needed(where, row, name, least=LEAST, most=1 / LEAST)
        if time:
            out[f"{time[1]}_{time[2]}"] = value * (1e-3 if time[3] == "ms" else 1.0)
        else:
            out[FIGURES[name]] = value * (_needed(where, row, "gpus") if name == "tokens_per_s_gpu" else 1)
    told = POWER.search(row.get("note", ""))
    given = _number(row.get("power_W", "")) and _needed(where, row, "power_W", least=LEAST)
    watts = given or (float(told[1]) if told else None)
    if watts:
        out["power_all_gpus"] = watts * _needed(where, row, "count")
    if row.get("kind") == "verify_step":
        out["verify_step"] = _needed(where, row, "value", least=LEAST) * (1e-3 if row.get("unit") == "ms" else 1.0)
    return out


def _run(path: Path, line: int, row: Mapping[str, str], measured: dict[str, float]) -> PublishedRun:
    """Return a table row as a published run, with the options of the command in its column `opbyte`."""
    where = f"{path}:{line}"
    command, model, options = read_command(where, row["opbyte"])
    dtype = row.get("weights", "")
    if dtype.startswith("fp8") and "dtype" not in options and not (spec := load_model(model)).numerics.weights:
        options["dtype"] = fp8_format(spec)  # the command says nothing, and the catalog's checkpoint is of 16 bits
    accepted = _number(row.get("accept_len", ""))
    if accepted and "speculative" not in options:
        options |= {"speculative": f"mtp:{DRAFTS}", "acceptance": ",".join([f"{acceptance(accepted):.3f}"] * DRAFTS)}
    if row.get("kind") == "verify_step":
        command, options = "roofline", _verify_step(where, row)
    if command == "train":
        options = _trained(row) | options | ({"dtype": "mxfp8"} if row.get("precision") == "MXFP8" else {})
        if row.get("source", "").startswith("pytorch/torchtitan"):
            options |= _torchtitan(row, options)
    copies = COPIES.search(row["opbyte"])
    if "trace" in options:
        table = path.parent / str(options["trace"])
        options |= (
            {"trace": str(table)} if copies is None else _offline(table, int(_needed(where, options, "closed_loop")))
        )
    devices = int(_needed(where, row, "count", "gpus"))
    clients = _number(options.get("closed_loop") or options.get("batch") or 0) or 0.0
    rate = _needed(where, options, "rate", least=0.0) if "rate" in options else None
    load = ArrivalPattern("closed", clients) if rate is None else ArrivalPattern("open", rate)
    layout = {name: int(row[name]) for name in ("tp", "pp", "dp", "ep") if row.get(name, "").isdecimal()}
    return PublishedRun(
        line, table_name(path), row["gpu"], devices, model, row.get("engine", ""), row.get("version") or row.get("release", ""),
        None, layout, _number(row.get("input_mean", "")) or 0.0, _number(row.get("output_mean", "")) or 0.0,
        load, measured=measured, command=command, options=options, engine=row.get("engine_json", ""),
        copies=int(copies[1]) if copies else 1, table=table_name(path),
    )  # fmt: skip


def _needed(where: object, row: Mapping[str, Any], *names: str, least: float = 1.0, most: float = MOST) -> float:
    """Return the first number in the named columns; refuse a row without one or outside the limits."""
    number = next((x for name in names if (x := _number(row.get(name, ""))) is not None), None)
    if number is None or not least <= number <= most:
        raise InputError(where, f"{' or '.join(names)}: must be a number from {least:g} to {most:,.0f}")
    return number


def _number(text: str | float) -> float | None:
    value = typed_number(text)
    return value if np.isfinite(value) else None


def read_command(where: str, text: str) -> tuple[str, str, dict[str, Any]]:
    """A command line as the command, the model and options of the library.

    Examples
    --------
    >>> read_command("", "opbyte train llama-3-8b --system h100-x8 --micro-batch 2 --json  # a remark")
    ('train', 'llama-3-8b', {'system': 'h100-x8', 'micro_batch': 2})
    """
    try:
        words = shlex.split(re.sub(r"\([^)]*\)", "", text.partition("#")[0]).replace("--json", ""))
    except ValueError:  # a quotation without its end
        words = []
    _, command, model, *rest = words if len(words) > 2 else ("", "", "", "no command")
    if len(rest) % 2 or not all(name.startswith("--") for name in rest[::2]):
        raise InputError(where, "opbyte: must be a command, a model and options with a value each")
    known, options = placed(Scenario), dict[str, Any]()
    for flag, value in zip(rest[::2], rest[1::2], strict=True):
        name = flag[2:].replace("-", "_")
        number = None if name in known and known[name].option.kind is str else _number(value)
        options[name] = value if number is None else int(number) if value.lstrip("-").isdigit() else number
    return command, model, options


def acceptance(tokens: float) -> float:
    """Return the acceptance of each of `DRAFTS` drafts for the given tokens per step."""
    chance = np.linspace(0.0, 1.0, 1001)
    return float(np.interp(tokens, sum(chance**n for n in range(DRAFTS + 1)), chance))


def _trained(row: Mapping[str, str]) -> dict[str, Any]:
    """Options of a training step that its row says in columns, and those of its recipe that no column has."""
    release = numbers_of(row.get("release", ""))
    options: dict[str, Any] = {
        "cp": int(_number(row.get("cp", "")) or 1),
        "loss": "fused" if release >= FUSED else "in-place",
    }
    for models, devices, precision, since, *cells in _recipes():
        named = row["model"] in models.split() and row["gpu"] in devices.split() and release >= numbers_of(since)
        if named and (precision == "-" or row.get("precision") in precision.split()):
            options |= {name: WORDS.get(cell, cell) for name, cell in zip(RECIPE[4:], cells, strict=True) if cell}
    return options | ({"zero": 3} if row.get("fsdp") else {"offload": 0})


def _torchtitan(row: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a torchtitan run: from its note, else the defaults.

    A local batch is split into as many micro-batches as there are stages (pytorch/torchtitan@9dec370, parallelisms/pipelining_utils.py).
    """
    note = row.get("note", "")
    out: dict[str, Any] = {**TITANS, "overlap_tp": "async TP" in note}
    if options.get("pp", 1) > 1:
        out["zero"] = STAGED
    if "local batch" in note:
        out["micro_batch"] = max(options["batch"] // (int(row["dp"]) * options.get("pp", 1)), 1)
    if options.get("recompute") == "selective":
        out["recompute"] = CHECKPOINTS["selective"]
    limit = CAP.search(note)
    return out | ({"power_cap": float(limit[1])} if limit else {})


@cache
def _recipes() -> list[tuple[str, ...]]:
    columns = read_whole(Path(__file__).parent / "training_recipes.csv", RECIPE)
    return list(zip(*([str(cell) for cell in columns[name].cells] for name in RECIPE), strict=True))


def _verify_step(where: str, row: Mapping[str, str]) -> dict[str, Any]:
    """Options of one step of some tokens of each sequence, at a context of 1,000 tokens (not published)."""
    drafts, tp = int(_needed(where, row, "tokens_per_sequence")) - 1, int(_number(row.get("tp", "")) or 1)
    out = {"system": f"{row['gpu']}-x{row.get('count')}", "batch": int(_needed(where, row, "sequences")), "context": 1000,
           "framework": "vllm", "tp": tp}  # fmt: skip
    return out if not drafts else out | {"speculative": f"ngram:{drafts}", "acceptance": ",".join(["0.5"] * drafts)}


def _offline(path: Path, clients: int) -> dict[str, Any]:
    """Return options of a long offline run: lengths of a file in random order, and the measured middle."""
    import pandas as pd

    lengths, rng = pd.read_csv(path, comment="#"), np.random.default_rng(0)
    many = -(-round(ROUNDS * clients) // len(lengths))
    order = np.concatenate([rng.permutation(len(lengths)) for _ in range(many)])
    trace = lengths.iloc[order].reset_index(drop=True)
    return {
        "trace": trace,
        "requests": round(ROUNDS * clients),
        "warmup": round(WARM * clients),
        "stop": round(END * clients),
    }


def sampled(
    runs: Sequence[T], count: int | None, group: Callable[[T], object], load: Callable[[T], tuple[float, ...]]
) -> list[T]:
    """Return at most `count` rows of a group, spread over the load; all without a number."""
    if count is None:
        return list(runs)
    groups: dict[object, list[int]] = {}
    for i, run in enumerate(runs):
        groups.setdefault(group(run), []).append(i)
    chosen = []
    for rows in groups.values():
        rows.sort(key=lambda i: (load(runs[i]), i))
        places = np.linspace(0, len(rows) - 1, count) if count > 1 else np.array([(len(rows) - 1) / 2])
        chosen += [rows[at] for at in sorted(set(places.round().astype(int).tolist()))]
    return [runs[i] for i in sorted(chosen)]
