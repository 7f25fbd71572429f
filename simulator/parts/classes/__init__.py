"""Classes and tenants of requests: their queues, limits and results."""

from __future__ import annotations

from ...part import Part

PARTS = (
    Part(
        "classes",
        "POLICY+priority, POLICY+vtc, --classes with bounds",
        "queues by class or tenant",
        hooks={
            "check_requests": "admission:check_bounds",
            "queues": "admission:laned",
            "door": "admission:door",
            "engine": "admission:ClassQueues",
            "collect": "run:classes_left",
            "request_columns": lambda left: left.labels.columns(),
            "figures": "run:FIGURES",
        },
        left=lambda served: served.table.labels is not None,
        page="classes",
        tests=("simulator/test_classes", "analysis/test_classes_answers"),
        asked=lambda a: a.laned and f"--policy {a.policy.name}",
    ),
)
