"""Do manifests start the copies of a plan: its engines' options, on separate devices?

Expected values: counts of devices and copies; options that engines' own parsers take.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from opbyte import InputError
from opbyte.simulator.frameworks.launch import Room, Start, engine_values, launch_of
from opbyte.simulator.frameworks.manifests import WRITERS, Copies, manifest

FLAGS = Path(__file__).parent.parent / "analysis" / "engine_flags.txt"
ROOM = Room("bf16", 8192, 256, 0.9)


def copies_of(engine: str, start: Start, copies: int, model: str = "Qwen/Qwen3-32B") -> Copies:
    launch = launch_of(engine, model, engine_values(engine, start), ROOM)
    return Copies(engine, launch, copies, start.tp * start.dp * start.pp, 8)


def words(text: Any) -> list[str]:
    """Words of a container's program, those of a shell's last line where it is one."""
    listed = [str(x) for x in text]
    return shlex.split(listed[2].splitlines()[-1]) if listed[0] == "sh" else listed


def known(engine: str) -> set[str]:
    return set(next(x for x in FLAGS.read_text().splitlines() if x.startswith(engine)).split())


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
def test_compose_gives_every_copy_devices_of_its_own(engine: str) -> None:
    start = Start(2, dtype="fp8", kv_dtype="fp8", tokens=4096)
    services = yaml.safe_load(manifest("compose", copies_of(engine, start, 3)))["services"]
    router = services.pop("router")
    assert sorted(router["depends_on"]) == sorted(services)
    ids = []
    for service in services.values():
        reserved = service["deploy"]["resources"]["reservations"]["devices"][0]
        ids += reserved["device_ids"]
        line = words(service["entrypoint"])
        options = {w for w in line if w.startswith("--")} - {"--host", "--port"}
        assert options <= known(engine)
        assert {"4096", "8192", "256"} <= set(line)
    assert ids == [str(i) for i in range(6)]
    if engine == "tensorrt-llm":
        shell = services["engine-0"]["entrypoint"][2]
        told = yaml.safe_load(shell.partition("'END'\n")[2].partition("END\n")[0])
        assert told.pop("cuda_graph_config")["enable_padding"]  # else few batches have a graph
        assert told == {"kv_cache_config": {"dtype": "fp8"}, "quant_config": {"quant_algo": "FP8"}}
    alone = yaml.safe_load(manifest("compose", copies_of(engine, Start(8), 1)))["services"]
    assert list(alone) == ["engine-0"]
    assert alone["engine-0"]["ports"] == ["8000:8000"]


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
def test_dynamo(engine: str) -> None:
    body = yaml.safe_load(manifest("dynamo", copies_of(engine, Start(4, tokens=4096), 5)))
    worker = body["spec"]["services"]["Worker"]
    assert body["kind"] == "DynamoGraphDeployment"
    assert worker["replicas"] == 5
    assert worker["resources"]["limits"]["gpu"] == "4"
    main = worker["extraPodSpec"]["mainContainer"]
    line = words(main["command"] + main["args"])
    assert line[line.index("-m") + 1].startswith("dynamo.")
    assert "Qwen/Qwen3-32B" in line
    own = {"--model-path", "--model", "--extra-engine-args"}
    assert {w for w in line if w.startswith("--")} <= known(engine) | own
    if engine == "tensorrt-llm":
        assert "free_gpu_memory_fraction: 0.9" in str(main["args"])
    large = yaml.safe_load(manifest("dynamo", copies_of(engine, Start(8, pp=2), 1)))
    worker = large["spec"]["services"]["Worker"]
    assert worker["multinode"]["nodeCount"] * int(worker["resources"]["limits"]["gpu"]) == 16


def test_llm_d() -> None:
    body = yaml.safe_load(manifest("llm-d", copies_of("vllm", Start(2, dp=4, ep=8), 3, "org/m")))
    decode = body["decode"]
    assert decode["replicas"] == 3
    assert decode["parallelism"] == {"tensor": 2, "data": 4}
    container = decode["containers"][0]
    assert container["command"] == ["vllm", "serve"]
    assert "--enable-expert-parallel" in container["args"]
    assert body["modelArtifacts"]["uri"] == "hf://org/m"


@pytest.mark.parametrize(
    ("kind", "engine", "start", "copies", "reason"),
    [
        ("compose", "vllm", Start(4), 3, "one host of 8 devices, not 12"),
        ("dynamo", "vllm", Start(1, dp=8, ep=8), 1, "data-parallel ranks of vLLM"),
        ("llm-d", "sglang", Start(4), 1, "starts only vLLM, not sglang"),
        ("llm-d", "vllm", Start(8, pp=2), 1, "at most one node, 8 devices"),
    ],
)
def test_what_cannot_be_started_so(kind: str, engine: str, start: Start, copies: int, reason: str) -> None:
    assert kind in WRITERS
    with pytest.raises(InputError, match=reason):
        manifest(kind, copies_of(engine, start, copies))
