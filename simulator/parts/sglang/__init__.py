"""The scheduler of SGLang."""

from __future__ import annotations

from ...part import Part

PARTS = (
    Part(
        "sglang",
        "--policy sglang",
        "SGLang's own scheduler",
        hooks={"policy": "state:SGLANG", "scheduler": "steps:BRINGS"},
        page="schedulers",
        tests=("simulator/test_own_rules",),
        asked=lambda a: a.rules == "sglang" and f"--policy {a.policy.name}",
        also=("engine/exact", "parts/pipeline/own_stages"),
        cannot={"tensorrt-llm": "an engine has one scheduler"},
    ),
)
