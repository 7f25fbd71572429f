"""SGLang's own scheduler."""

from __future__ import annotations

from ..part import Asked, Part


def _asked(a: Asked) -> str:
    return f"--policy {a.policy.name}" if a.policy and a.policy.rules and a.policy.rules.part == "sglang" else ""


PARTS = (
    Part(
        "sglang",
        "--policy sglang",
        "SGLang's own scheduler",
        page="schedulers",
        tests=("simulator/test_own_rules",),
        asked=_asked,
        also=("batching/exact", "batching/own_stages"),
        cannot={"tensorrt-llm": "an engine has one scheduler"},
    ),
)
