"""Are KV cache tiers read as they are written, refused in one line where they cannot be, and told in answers?

Expected values are units and the device's description by hand; figures of answers add up.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opbyte.analysis.answers.simulate import simulate
from opbyte.analysis.studies.sweep.point import OF_PARTS, metrics_of
from opbyte.devices.catalog import load_system
from opbyte.simulator.frameworks.engine_file import read_engine
from opbyte.simulator.parts.kv_tiers import TierOptions
from opbyte.simulator.parts.kv_tiers.asked import read_tiers, tiers_asked
from opbyte.workloads.errors import InputError

from ..tables import tables

HASHED: dict[str, Any] = {
    "policy": "vllm", "closed_loop": 2, "max_seqs": 2, "turns": 4.0, "requests": 60, "input_len": 900,
    "output_len": 20,
}  # fmt: skip


def test_sizes_and_links() -> None:
    """An H100 has 256 GiB of its host's memory at 50 GB/s; two of them share a replica's tier."""
    system = load_system("h100-x2")
    host, disk, pool = read_tiers("host,disk:2TiB:3.5:80,shared:10TB", system)
    assert host.capacity_bytes == 2 * 256 * 2**30
    assert (host.bandwidth_bytes_per_s, host.latency_s) == pytest.approx((50e9, 10e-6))
    assert (disk.capacity_bytes, disk.bandwidth_bytes_per_s) == (2 * 2**40, 3.5e9)
    assert disk.latency_s == pytest.approx(80e-6)
    network = system.device.node_link
    assert pool.capacity_bytes == 10e12
    assert pool.bandwidth_bytes_per_s == network.bandwidth_bytes_per_s
    assert not read_tiers("host:1GiB:free", system)[0].paced


@pytest.mark.parametrize(("options", "reason"), tables(__file__)["bad"])
def test_what_cannot_be_read(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        tiers_asked(TierOptions(**options), load_system("h100-x2"))


def test_a_device_without_host_memory() -> None:
    with pytest.raises(InputError, match=r"needs a rate and latency.*host_memory.*mi300x"):
        read_tiers("host:64GiB", load_system("mi300x-x1"))
    assert read_tiers("host:64GiB:100:5", load_system("mi300x-x1"))[0].bandwidth_bytes_per_s == 1e11


def engine(folder: Path, **keys: Any) -> Path:
    path = folder / "engine.json"
    path.write_text(json.dumps(keys))
    return path


OWN = {"kv_connector": "OffloadingConnector", "kv_connector_extra_config": {"cpu_bytes_to_use": 2**33}}


def test_keys_of_vllm(tmp_path: Path) -> None:
    """`kv_offloading_size` is in GiB; the connector that it stands for takes bytes."""
    for keys in ({"kv_offloading_size": 8}, {"kv_transfer_config": OWN}):
        tiers = read_engine(engine(tmp_path, **keys)).cache.tiers
        assert tiers is not None
        assert (tiers.write, tiers.load, tiers.tiers[0].capacity_bytes) == ("through", "always", 2**33)
    assert read_engine(engine(tmp_path, max_num_seqs=8)).cache.tiers is None


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"kv_offloading_size": 8, "kv_offloading_backend": "lmcache"}, "kv_offloading_backend: must be native"),
        ({"kv_transfer_config": {"kv_connector": "NixlConnector"}}, "must be OffloadingConnector"),
        ({"kv_transfer_config": OWN, "kv_offloading_size": 8}, "kv_offloading_size, which sets the same"),
        ({"kv_transfer_config": {"kv_connector": "OffloadingConnector"}}, "cpu_bytes_to_use: is missing"),
        ({"engine": "sglang", "enable_hierarchical_cache": True}, "enable_hierarchical_cache.*--kv-tiers"),
    ],
)
def test_keys_that_are_not_simulated(tmp_path: Path, keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_engine(engine(tmp_path, **keys))


def test_figures_add_up() -> None:
    """Sessions of two clients in memory for little more than two of them: hits are those of memory and tiers;
    tokens asked for are found or computed; rows of sweeps say the same."""
    result = simulate(
        "llama-3-8b", "h100-x1", **HASHED, engine=None, kv_tiers="host:8GiB,disk:8GiB", kv_write="back", kv_dtype=None
    )
    found = result.to_dict()["kv_tiers"]
    rates = [found["hbm"]["hit_rate"], *(tier["hit_rate"] for tier in found["tiers"])]
    assert sum(rates) == pytest.approx(found["hit_rate"], rel=1e-12)
    for tier in found["tiers"]:
        assert tier["peak_bytes"] <= tier["capacity_bytes"]
        assert tier["loaded_bytes"] == tier["hit_tokens"] * 131_072  # 2 x 8 x 128 x 2 bytes, 32 layers
    row = metrics_of(result)
    assert set(OF_PARTS["kv_tiers"]) <= set(row)
    assert row["kv_hit_rate"] == found["hit_rate"]
    assert "KV cache tiers" in " ".join(map(str, result.blocks()))


def test_prompts_of_two_pools_find_tiers() -> None:
    """Below the pool that takes prompts: what is found is not computed."""
    pair = {**HASHED, "prefill": "h100-x1", "decode": "h100-x1", "engine": None, "kv_dtype": None}
    plain = simulate("llama-3-8b", **pair).run
    found = simulate("llama-3-8b", **pair, kv_tiers="host:64GiB").run
    assert found.prompt_tokens + found.cached_tokens == plain.prompt_tokens + plain.cached_tokens
