"""With kernel tables, do both paths agree, beyond the measured ranges too, and count the same?

The tables are those of a real server (`serving_runs`): attention up to 256 decodes of 16,384 tokens
beside a chunk of 2,048, matmuls up to 2,048 rows, head and sampler up to 256.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.analysis.answers.ranges import coverage
from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.fleet.run import run
from opbyte.simulator.step.lowering import lower
from opbyte.simulator.step.step_totals import T_OUTSIDE, T_RUNS, new_step_totals
from opbyte.simulator.step.timed import Lowered
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.requests import open_requests

from .two_paths import check_paths, compiled_step


@pytest.fixture(scope="module")
def tabled() -> Callable[[Path], Deployment]:
    def make(folder: Path) -> Deployment:
        model = load_model(folder / "config.json")
        return deploy(model, load_system("rtx-4090-x1"), kernels=(str(folder / "kernels"),))

    return make


@given(
    decodes=st.lists(st.integers(0, 40_000), max_size=6), times=st.sampled_from([1, 60, 300]),
    chunks=st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 30_000)), max_size=3),
)  # fmt: skip
@settings(max_examples=12)
def test_both_paths_agree(
    decodes: list[int], times: int, chunks: list[tuple[int, int]],
    tabled: Callable[[Path], Deployment], data_set: Callable[[str], Path],
) -> None:  # fmt: skip
    d = tabled(data_set("serving_runs") / "rtx4090--llama-3.1-8b")
    batch = Batch.of([*decodes * times, 5], chunks)
    plan, _ = lower(d, counts=3 * 5000 + 6 * 300 + 1)  # the tokens of a step, as a run has it
    check_paths(d, [[batch]], plan=plan)


@pytest.mark.parametrize(("batch", "outside"), [
    (Batch.of([100] * 256), set()),
    (Batch.of([100] * 257), {"attention_decode", "logits"}),  # two axes of 256
    (Batch.of([16_384] * 2), {"attention_decode"}),  # 16,385 keys with the new one
    (Batch.of([], [(2048, 0)]), set()),
    (Batch.of([], [(2048, 16_385)]), {"attention_prefill"}),
    (Batch.of([100], [(2048, 0)]), {"2049 rows"}),
])  # fmt: skip
def test_what_lies_outside_is_counted(
    batch: Batch, outside: set[str], tabled: Callable[[Path], Deployment],
    data_set: Callable[[str], Path],
) -> None:  # fmt: skip
    d = tabled(data_set("serving_runs") / "rtx4090--llama-3.1-8b")
    plan, slots = lower(d)
    step_totals = new_step_totals(plan)
    compiled_step(Lowered(plan, step_totals), [batch], [batch.moments(d.shard.windows)])
    out, runs = (step_totals.tally[:, 0, column] for column in (T_OUTSIDE, T_RUNS))
    found = {name for name, n in zip(slots.name, out, strict=True) if n > 0}
    assert ((out == 0) | (out == runs)).all()
    never = {name for name in slots.name if name in ("final_norm",)} & found
    if "2049 rows" in outside:  # every op over all tokens, but not attention, head and final norm
        assert not found & {"attention_decode", "attention_prefill", "logits"}
        assert {"norm", "embedding"} <= found
    else:
        assert found - never == outside


def test_a_run_counts_by_family(tabled: Callable[[Path], Deployment], data_set: Callable[[str], Path]) -> None:
    """Prompts of 4,000 tokens in steps of 8,192: beyond the tables; decodes are inside."""
    d = tabled(data_set("serving_runs") / "rtx4090--llama-3.1-8b")
    policy = make_policy("vllm")
    small = run(d, policy, open_requests(rate=1.0, limit=8, input_len=200, output_len=20))
    large = run(d, policy, open_requests(rate=1.0, limit=8, input_len=4000, output_len=20))
    rows = {row["family"]: row for row in coverage(small)}
    assert set(rows) == {"matmul", "vector", "attention"}
    assert sum(row["outside"] for row in rows.values()) == 0
    assert rows["attention"]["runs"] > 0
    rows = {row["family"]: row for row in coverage(large)}
    # Eight steps with a prompt of 32 layers: one prefill op a layer, which the tables lack.
    assert rows["attention"]["outside"] == 8 * 32
    assert 0 < rows["matmul"]["share"] < 0.2
    plain = deploy(load_model("llama-3-8b"), load_system("rtx-4090-x1"))
    assert coverage(run(plain, policy, open_requests(rate=1.0, limit=2))) == []
