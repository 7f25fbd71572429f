"""Do the studies' decisions, at every function of theirs, come out as recorded?

`recorded.json` has, for some questions about a made-up device, what each function of `DECIDES` returned: how many
different outcomes, and a weighted sum of their numbers. After a change that is meant:
``python -m tests.analysis.test_recorded`` writes it anew, and its difference shows which functions decide otherwise.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType
from typing import Any

import numpy as np
import pytest

from opbyte.analysis.answers import price
from opbyte.analysis.studies import backlog, capacity, loads, stationary
from opbyte.analysis.studies.plan import best, bounds, candidates, search, spares, trial
from opbyte.devices import cost
from opbyte.devices.catalog import load_system
from opbyte.devices.collectives import exchanges, plans
from opbyte.devices.spec import LinkSpec
from opbyte.simulator.deploy.deployment import deploy
from opbyte.simulator.engine import kv
from opbyte.simulator.results import steady
from opbyte.workloads.catalog import load_model
from opbyte.workloads.training import collective_op

DECIDES = (
    price, backlog, capacity, loads, stationary, best, bounds, candidates, search, spares, trial, cost, exchanges,
    plans, steady, kv,
)  # fmt: skip
FILE = Path(__file__).with_name("recorded.json")
DEVICE = """
extends: _gpu
name: made-up
title: round numbers
sources: {none: "made up"}
processors:
  xpu:
    peak_TFLOPS: {fp16: 200, bf16: 200, int8: 400, fp32: 50, source: none}
    memory_pJ_per_bit: {value: 4, source: none}
memory:
  stacks: {value: 2, source: none}
  capacity_GiB: {value: 24, source: none}
  bandwidth_GBps: {value: 1000, source: none}
link:
  name: wire
  bandwidth_GBps: {value: 100, source: none}
  latency_us: {value: 4, source: none}
  energy_pJ_per_bit: {value: 6, source: none}
node_link:
  name: net
  bandwidth_GBps: {value: 20, source: none}
  latency_us: {value: 9, source: none}
  energy_pJ_per_bit: {value: 20, source: none}
node_size: {value: 4, source: none}
static_W: {value: 50, source: none}
price_USD_per_hour: {value: 2, source: none}
"""
WORK = {"input_len": 300, "output_len": 40, "lengths": "lognormal"}
SLO = "ttft_p99=0.6,tpot_p99=0.05"
QUESTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "capacity": ("capacity", {"slo": SLO}),
    "capacity of classes": (
        "capacity", {"slo": "attainment=0.9", "classes": "a:share=0.5,ttft_p99=0.3;b:share=0.5,tpot_p99=0.04"},
    ),
    "plan": ("plan", {"slo": SLO, "load": 60.0, "most_devices": 8}),
    "plan of cost with failures": (
        "plan",
        {"slo": SLO, "load": 60.0, "goal": "cost", "budget": 40.0, "mtbf": 1e5, "repair": 600.0, "quick": True},
    ),
    "plan as sure as asked": ("plan", {"slo": "ttft_p99=0.3,e2e_mean=1", "load": 90.0, "sure": 0.8, "most_devices": 6}),
    "plan of pools": ("plan", {"slo": SLO, "load": 30.0, "goal": "energy", "search": "pools", "quick": True}),
}  # fmt: skip


KV_SETTINGS: tuple[dict[str, Any], ...] = (
    {}, {"block_tokens": 48}, {"blocks": 300}, {"prompt_room": 2000}, {"window_share": 0.3}, {"state_slots": 9.0},
    {"found_again": True, "states_each": 3, "resume_tokens": 64},
)  # fmt: skip
SHORT = (
    (stationary, "FIRST", 250),
    (stationary, "MOST_REQUESTS", 1000),
    (backlog, "FEWEST", 200),
    (backlog, "MOST", 400),
)
"""Runs that take a tenth of a second."""


def plain(value: Any, depth: int = 0) -> Iterator[float | str]:
    """Numbers, names and texts of an outcome, in order; of paths and other objects only the class."""
    if isinstance(value, bool | int | float | np.number | np.bool_):
        yield float(f"{float(value):.6g}")
    elif isinstance(value, str):
        yield value.rpartition("/")[2]
    elif isinstance(value, np.ndarray):
        yield from plain(value.ravel()[:400].tolist(), depth)
    elif isinstance(value, dict):
        yield from plain([*value.items()], depth)
    elif isinstance(value, tuple | list) and depth < 6:
        for part in value:
            yield from plain(part, depth + 1)
    elif is_dataclass(value) and depth < 4 and type(value).__module__ in {m.__name__ for m in DECIDES}:
        yield from plain([getattr(value, f.name) for f in fields(value)], depth + 1)
    else:
        yield type(value).__name__


Outcomes = dict[str, set[tuple[float | str, ...]]]


def watch(patch: pytest.MonkeyPatch) -> Outcomes:
    """Different outcomes of every function and method of `DECIDES`, as they come."""
    seen: Outcomes = defaultdict(set)

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*given: Any, **options: Any) -> Any:
            value = function(*given, **options)
            if not inspect.isgenerator(value):
                seen[name].add(tuple(plain(value)))
            return value

        return call

    library = [m for n, m in sys.modules.items() if n.startswith("opbyte.")]
    for module in DECIDES:
        room = module.__name__.removeprefix("opbyte.")
        for name, item in list(vars(module).items()):
            if getattr(item, "__module__", "") != module.__name__:
                continue
            if isinstance(item, FunctionType):
                for other in library:
                    if vars(other).get(name) is item:
                        patch.setattr(other, name, noted(f"{room}.{name}", item))
            elif inspect.isclass(item):
                for method, function in list(vars(item).items()):
                    full = f"{room}.{name}.{method}"
                    if isinstance(function, FunctionType) and not method.startswith("__"):
                        patch.setattr(item, method, noted(full, function))
                    elif isinstance(function, property) and function.fget:
                        patch.setattr(item, method, property(noted(full, function.fget)))
    return seen


def summed(outcomes: set[tuple[float | str, ...]]) -> list[float]:
    """How many they are, and the weighted sum of their numbers; texts count by their characters, no numbers as 7."""
    total = 0.0
    for i, x in (pair for outcome in outcomes for pair in enumerate(outcome)):
        number = float(sum(map(ord, x))) if isinstance(x, str) else x
        total += (number if abs(number) < 1e12 else 7.0) * (1.0 + i % 7)
    return [len(outcomes), float(f"{total:.6g}")]


def ask_functions() -> None:
    """Windows of random runs, exchanges on random topologies, and prices by every way to give them."""
    draw = np.random.default_rng(7)
    for i in range(60):
        come = np.cumsum(draw.exponential(1.0, 40 * (1 + i % 7)))
        begins = np.maximum.accumulate(come + draw.exponential(0.2 + i % 3, len(come))) * (1 + i % 2 * i / 100)
        ends = begins + draw.exponential(2.0, len(come))
        done = draw.random(len(come)) < (0.9 if i % 5 else 2.0)
        steady.find_window(
            partial(np.searchsorted, np.sort(ends), side="right"),
            steady.Stamps(come, begins, ends, done, 1 + i % 2), begin=float(i % 4), end=float(ends.max()),
            clients=None if i % 3 else 1 + i % 8, asked=i % 9 == 0,
        )  # fmt: skip
    links = [LinkSpec(name=str(i), bandwidth_bytes_per_s=b, latency_s=t, energy_J_per_byte=j)
             for i, (b, t, j) in enumerate(((3e11, 1e-6, 1e-11), (2e10, 7e-6, 5e-11), (1e11, 2e-6, 3e-11)))]  # fmt: skip
    for kind in ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "sparse_gather", "sparse_scatter"):
        for ranks in ((4, 1), (1, 3), (4, 6), (2, 2, 4), (1, 1)):
            levels = tuple(plans.Level(link, n) for link, n in zip(links, ranks, strict=False))
            here = plans.Topology(levels, 2 if ranks[0] > 1 else 1, copies=2)
            if here.ranks == 1 and kind.startswith("sparse"):
                continue
            made = tuple(plans.plan(kind, name, here) for name in plans.usual(kind))
            link = plans.PlannedLink(made, links[here.outermost], 1.5, made[:1])
            link.roof("bf16")
            for size in (1.0, 3e4, 1e9):
                plans.cheapest(kind, here, size)
                op = collective_op(kind, size, max(here.ranks, 2))
                link.evidence([op])
                link.cost(op)
                link._prices(op, np.array([[1.0], [3e4], [2e5], [1e6], [1e9]]))
    for text in ("", "h200=2.5, mi325x=2"):
        price.amounts(text, "--price")
    for name, degrees in (
        ("llama-3-8b", {}),
        ("gemma-2-27b", {"pp": 2}),
        ("jamba-mini", {"pp": 2}),
        ("jamba-mini", {}),
    ):
        here = deploy(load_model(name), load_system("h100-x2"), costs="roofline", **degrees)
        for more in KV_SETTINGS:
            rules = kv.kv_rules(here, kv.CacheSettings(memory_bytes=150e9, **more), caching=True)
            kv.rank_rules(here, kv.CacheSettings(**more))
            kv.sequence_bytes(rules, np.array([1, 15, 16, 17, 4096, 5000]))
            for tokens in (1, 16, 17, 5000):
                kv.sequences_that_fit(rules, tokens)


def answered(question: str, folder: Path) -> dict[str, list[float]]:
    """What every function returned, and the modules' constants."""
    device = folder / "made-up.yaml"
    device.write_text(DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        seen: Outcomes = watch(patch)
        if question == "functions":
            ask_functions()
            for module in DECIDES:
                constants = (item for name, item in vars(module).items() if name.isupper())
                seen[module.__name__.removeprefix("opbyte.")] = {tuple(plain([*constants]))}
        else:
            name, options = QUESTIONS[question]
            for module, constant, count in SHORT:
                patch.setattr(module, constant, count)
            command = getattr(import_module(f"opbyte.analysis.studies.{name}"), name)
            command("llama-3.2-3b", str(device), **WORK, **options, workers=1)
    return {name: summed(seen[name]) for name in sorted(seen)}


ASKED = ("functions", *QUESTIONS)


@pytest.mark.parametrize("question", ASKED)
def test_as_recorded(question: str, tmp_path: Path) -> None:
    recorded = json.loads(FILE.read_text())[question]
    now = answered(question, tmp_path)
    assert now.keys() == recorded.keys()
    for name, value in now.items():
        assert value == pytest.approx(recorded[name], rel=1e-5), name


if __name__ == "__main__":
    with TemporaryDirectory() as made:
        text = json.dumps({question: answered(question, Path(made)) for question in ASKED}, indent=1)
    FILE.write_text(re.sub(r"\[\s+(\S+)\s+(\S+)\s+\]", r"[\1 \2]", text) + "\n")
