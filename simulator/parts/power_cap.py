"""A board's limit, for which its clock falls."""

from __future__ import annotations

from .part import Part

PARTS = (
    Part(
        "power-cap",
        "--power-cap",
        "a board's limit, for which its clock falls",
        page="power",
        tests=("analysis/test_validate_power",),
        also=("serving/course", "serving/drawn"),
    ),
)
