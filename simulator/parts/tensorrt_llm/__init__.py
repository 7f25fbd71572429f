"""TensorRT-LLM's own executor."""

from __future__ import annotations

from ..part import Asked, Part


def _asked(a: Asked) -> str:
    return f"--policy {a.policy.name}" if a.policy and a.policy.rules and a.policy.rules.part == "tensorrt-llm" else ""


PARTS = (
    Part(
        "tensorrt-llm",
        "--policy tensorrt-llm",
        "TensorRT-LLM's own executor",
        page="schedulers",
        tests=("simulator/test_own_rules",),
        asked=_asked,
        also=("batching/exact", "batching/own_stages"),
    ),
)
