"""The executor of TensorRT-LLM."""

from __future__ import annotations

from ...part import Part

PARTS = (
    Part(
        "tensorrt-llm",
        "--policy tensorrt-llm",
        "TensorRT-LLM's own executor",
        hooks={"policy": "rules:TRTLLM", "scheduler": "steps:BRINGS"},
        page="schedulers",
        tests=("simulator/test_own_rules",),
        asked=lambda a: a.rules == "tensorrt-llm" and f"--policy {a.policy.name}",
        also=("engine/exact", "parts/pipeline/own_stages"),
    ),
)
