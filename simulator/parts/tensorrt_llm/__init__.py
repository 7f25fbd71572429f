"""TensorRT-LLM's own executor."""

from __future__ import annotations

from ..part import Part

PARTS = (
    Part(
        "tensorrt-llm",
        "--policy tensorrt-llm",
        "TensorRT-LLM's own executor",
        page="schedulers",
        tests=("simulator/test_own_rules",),
        asked=lambda a: (
            f"--policy {a.policy.name}" if a.policy and a.policy.rules and a.policy.rules.part == "tensorrt-llm" else ""
        ),
        also=("batching/exact", "batching/own_stages"),
    ),
)
