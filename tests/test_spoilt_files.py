"""Does every reader of files read what was spoilt, or refuse it in one line that names it?

Files are spoilt as `tests/analysis/fuzzing.py` does, by edits of their text, and by bytes at random. The seed is fixed.
Commands on spoilt files are in `tests/analysis/test_fuzz.py`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opbyte.devices.catalog import load_device, load_system
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.layers import Run
from opbyte.workloads.model import layer_ops
from opbyte.workloads.ops import Loads
from opbyte.workloads.requests import open_requests

from .analysis.fuzzing import spoilt
from .devices.test_own_files import EXAMPLE, OWN
from .workloads.test_layer_list import KEYS, LAYER
from .workloads.test_requests_errors import VALID
from .workloads.test_requests_servegen import DATASET, TRACE

CASES = 300
"""Of each reader."""
SNIPPETS = [
    "*a", "&a ", "!!int ", "!!timestamp ", "!!binary ", "!!set {", "? ", "<<: ", "- ", "{", "}",
    "[", "]", ":", "\n", "\r", "\t", "  ", "null", "~", ".nan", "-.inf", "1e999", "0x_", "1:30", "=", "_", ",,",
    "2020-13-45", "2020-01-01", "'", '"', "|\n", ">\n", "#", "%YAML 9.9\n", "---\n", "...\n",
    "source: ", "value: ", "extends: duplex\n", "sources: ", "\x00", "\x85", "é", "\ud7ff", "-",
]  # fmt: skip


def requests(path: Path, **options: Any) -> None:
    for block in open_requests(path, **{"limit": 5000, **options}):
        assert len(block) > 0
        assert np.isfinite(block.arrival_s).all()
        assert (np.diff(block.arrival_s) >= 0).all()
        for tokens in (block.input_tokens, block.output_tokens):
            assert tokens.min() >= 1
            assert tokens.max() < 2**31


def model(path: Path) -> None:
    found = load_model(path)
    assert found.total_params > 0
    m = Batch.of([5], [(3, 0)]).moments(found.windows)
    for layer, _ in found.groups:
        layer_ops(layer, m, Run(found.numerics), Loads(np.ones(1), np.ones(1)))


EXPERTS = {"kind": "moe", "experts": 8, "top_k": 2, "width": 64}
SPANS = {"kind": "attention_spans", "base": LAYER["mixer"], "spans": [[8, 0, 0.5]], "length": 4096}
LAYERS = {**KEYS, "layers": [{**LAYER, "mixer": SPANS}, {**LAYER, "ffn": EXPERTS}]}
TRACES = [partial(requests, **options) for options in ({}, {"rate": 1.0}, {"spread": 1.0})]
DEVICE = [load_device, load_system]
READERS: dict[str, tuple[dict[str, str], list[Callable[[Path], object]]]] = {
    **{name: ({f"t.{'jsonl' if name == 'mooncake' else 'csv'}": text.decode()}, TRACES[name == "lengths":]) for name, text in VALID.items()},
    "servegen": ({"c-trace.csv": TRACE, "c-dataset.json": json.dumps(DATASET)}, [lambda path: requests(path.with_name("c"))]),
    "layer list": ({"config.json": json.dumps(LAYERS)}, [model]),
    "device": ({"mine.yaml": OWN}, DEVICE),
    "system": ({"mine.yaml": EXAMPLE.read_text(encoding="utf-8")}, DEVICE[::-1]),
}  # fmt: skip


def bad(rng: random.Random, name: str, whole: str) -> bytes:
    way = rng.randrange(8)
    if way == 0:
        return rng.randbytes(rng.randrange(300))
    if way <= 4:
        return spoilt(rng, name, whole).encode("utf-8", "surrogatepass")
    text = whole
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(SNIPPETS) + text[at + rng.randrange(6) :]
    return text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("reader", READERS)
def test_spoilt_files_are_read_or_refused_in_one_line(tmp_path: Path, reader: str) -> None:
    files, calls = READERS[reader]
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    first = tmp_path / next(iter(files))
    calls[0](first)  # as it stands
    for case in range(CASES):
        rng = random.Random(f"{reader} {case}")
        name = rng.choice(list(files))
        (tmp_path / name).write_bytes(bad(rng, name, files[name]))
        for call in calls:
            said = "x.y: refused"
            try:
                call(first)
            except InputError as error:
                said = str(error)
            assert "\n" not in said, f"case {case}"
        (tmp_path / name).write_text(files[name], encoding="utf-8")
