"""Do GPUs beside Logic-PIM devices hold, run and exchange what the Duplex paper says?

Duplex (arXiv 2409.01141), section III-B: two GPUs and two Logic-PIM devices, which hold the
experts and the KV cache. Expected values are closed forms over the paper's constants.
"""

from __future__ import annotations

import pytest

from opbyte.devices.catalog import load_device, load_system
from opbyte.devices.device import build_device
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.deploy.placement import processors_of
from opbyte.simulator.step.explicit import PlacedOp, explicit_stage
from opbyte.workloads.batch import Batch
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import SpecError

EXPERTS_BYTES = 32 * 8 * 3 * 4096 * 14336 * 2
KV_BYTES = 2 * 8 * 128 * 2 * 32
HOP = 3.0e-6


@pytest.fixture(scope="module")
def hetero() -> Deployment:
    return deploy(load_model("mixtral-8x7b"), load_system("duplex-hetero-x4"))


def placed(deployment: Deployment, batch: Batch) -> dict[str, PlacedOp]:
    return {p.op.name: p for p in explicit_stage(deployment, [batch], expected=True).ops}


def test_two_pairs_are_two_shards(hetero: Deployment) -> None:
    assert (hetero.layout.tp, hetero.layout.dp, hetero.layout.ep) == (2, 1, 2)


@pytest.mark.parametrize(("prompt", "batch"), [(2048, 101), (4096, 76), (8192, 50)])
def test_the_cache_fits_what_the_paper_prints(hetero: Deployment, prompt: int, batch: int) -> None:
    """Fig. 5c prints 101, 75 and 50: two memories less the experts, over whole requests."""
    memory = hetero.memory()
    assert memory.kv == pytest.approx(80 * 2**30 - EXPERTS_BYTES / 2)
    assert int(memory.kv // ((prompt + 4096) * KV_BYTES / 2)) == batch


def test_experts_and_decodes_run_near_memory_in_both_kinds_of_stage(hetero: Deployment) -> None:
    for batch in (Batch.of([500] * 8), Batch.of([500] * 8, [(300, 0)])):
        ops = placed(hetero, batch)
        near = {name for name, p in ops.items() if p.processor == "logic-pim"}
        assert near == {"experts", "attention_decode"}


def test_what_crosses_the_link(hetero: Deployment) -> None:
    """Eight decodes: q, k, v of 16 + 2 x 4 heads over, 16 heads back, all hidden rows both ways."""
    ops = placed(hetero, Batch.of([500] * 8))
    for name, values in (
        ("attention_decode_send_transfer", 8 * (16 + 2 * 4) * 128),
        ("attention_decode_return_transfer", 8 * 16 * 128),
        ("experts_send_transfer", 8 * 4096), ("experts_return_transfer", 8 * 4096),
    ):  # fmt: skip
        assert ops[name].cost.seconds == pytest.approx(HOP + 2 * values / 450e9), name


def test_prompts_send_their_keys_and_values_to_the_cache(hetero: Deployment) -> None:
    ops = placed(hetero, Batch.of([], [(300, 0)]))
    sent = ops["attention_decode_send_transfer"].op.act_bytes
    assert sent == pytest.approx(2 * 300 * 2 * 4 * 128)
    assert "attention_decode_return_transfer" not in ops


def test_odd_counts_are_refused() -> None:
    with pytest.raises(SpecError, match="multiple of 2"):
        load_system("duplex-hetero-x3")


def test_what_one_processor_excludes_another_must_run() -> None:
    spec = load_device("duplex-hetero")[0]
    pim = spec.processors["logic-pim"].model_copy(update={"runs": ("experts",)})
    spec = spec.model_copy(update={"processors": {**spec.processors, "logic-pim": pim}})
    with pytest.raises(SpecError, match="attention_decode"):
        processors_of(build_device(spec))
