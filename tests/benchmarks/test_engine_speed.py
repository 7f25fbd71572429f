"""How fast is the compiled engine, and how much faster than the obvious one?

CPU time, not wall time: machines are shared. The obvious one is the slow scheduler of
`tests/simulator/reference.py` on the explicit path, with the first of the same requests.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from opbyte.devices.catalog import load_system
from opbyte.simulator.deployment import deploy
from opbyte.simulator.engine import Engine
from opbyte.simulator.kv import sequence_bytes
from opbyte.simulator.policies import make_policy
from opbyte.simulator.simulate import run
from opbyte.simulator.stage import explicit_stage
from opbyte.simulator.state import C_STEPS, F_LAST
from opbyte.workloads.catalog import load_model
from opbyte.workloads.requests import RequestBlock, open_requests

pytestmark = pytest.mark.benchmark


def load_reference() -> ModuleType:
    path = Path(__file__).parent.parent / "simulator" / "reference.py"
    spec = importlib.util.spec_from_file_location("slow_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("model", "system", "rate", "lengths", "requests", "few", "most_us"),
    [
        # At least twice what was measured on a 2-core cloud machine.
        ("llama-3-8b", "h100-x1", 50.0, (512, 128), 50_000, 60, 8.0),
        ("mixtral-8x7b", "duplex-x4", 5.0, (1000, 200), 3_000, 8, 25.0),
    ],
)
def test_speed(
    model: str, system: str, rate: float, lengths: tuple[int, int], requests: int, few: int,
    most_us: float, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    deployment, policy = deploy(load_model(model), load_system(system)), make_policy("chunked")
    stream = open_requests(
        rate=rate, input_len=lengths[0], output_len=lengths[1], lengths="lognormal", limit=requests
    )
    run(deployment, policy, open_requests(rate=5.0, input_len=9, output_len=9, limit=3))
    began = time.process_time()
    result = run(deployment, policy, stream)
    fast = time.process_time() - began
    per_step = fast / result.iterations * 1e6

    block = stream.read()
    first = RequestBlock(
        block.request_id[:few], block.arrival_s[:few], block.input_tokens[:few],
        block.output_tokens[:few],
    )  # fmt: skip
    engine = Engine(deployment, policy)
    engine.submit(first)
    engine.advance(math.inf)
    reference = load_reference()
    slow = reference.Reference(
        policy, 1, engine.kv.capacity,
        lambda tokens: float(sequence_bytes(engine.kv, np.array([tokens]))[0]),
        lambda batches, step: explicit_stage(deployment, batches, step=step).seconds,
    )  # fmt: skip
    rows = [
        reference.Request(i, float(a), int(n), int(m))
        for i, (a, n, m) in enumerate(
            zip(first.arrival_s, first.input_tokens, first.output_tokens, strict=True)
        )
    ]
    began = time.process_time()
    slow.serve(rows)
    slow_step = (time.process_time() - began) / slow.steps * 1e6
    assert slow.steps == engine.state.counters[C_STEPS]
    assert [r.last for r in rows] == pytest.approx(engine.state.floats[:few, F_LAST], rel=1e-9)
    with capsys.disabled():
        print(
            f"\n{model} on {system}: {per_step:.2f} us of CPU a step, "
            f"{requests / fast:,.0f} requests a CPU second; "
            f"slow scheduler {slow_step:,.0f} us a step, ratio {slow_step / per_step:,.0f}"
        )
    assert per_step < most_us
    assert slow_step > 20 * per_step
