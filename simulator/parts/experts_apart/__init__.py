"""Disaggregated experts (AFD): routed experts on separate devices, with alternating micro-batches."""

from __future__ import annotations

from dataclasses import dataclass

from ....workloads.errors import InputError
from ...limits import MAX_MICRO_BATCHES
from ...option import CheckedOptions, described, text, whole
from ...part import Part

OPTION = "--experts-on"


def check_experts_on(experts_on: object, micro_batches: int | None, experts_link: str | None) -> None:
    """Reject options of disaggregated experts without a system for the experts."""
    if experts_on is None and (micro_batches is not None or experts_link is not None):
        flag = "--micro-batches" if micro_batches is not None else "--experts-link"
        raise InputError(flag, f"needs {OPTION} SYSTEM, for example h200-x8")


@described
@dataclass(frozen=True, slots=True)
class ApartOptions(CheckedOptions):
    """Options of disaggregated experts; with two pools they apply to the decode pool. See `parts.experts_apart.one_step`."""

    experts_on: str | None = text("System that holds only the routed experts (disaggregated experts, AFD).", "SYSTEM")
    micro_batches: int | None = whole(
        "Micro-batches of a step, which alternate between attention devices and expert devices; default: 3.",
        1,
        MAX_MICRO_BATCHES,
    )
    experts_link: str | None = text(
        "Link to the expert system: its name, free, or bandwidth [GB/s] and latency [us] of a device. "
        "Default: the slower of both networks.",
        "NAME|RATE[,US]",
    )


PARTS = (
    Part(
        "experts-apart",
        "--experts-on",
        "experts on separate devices",
        options=ApartOptions,
        panel="Separate devices for experts",
        hooks={
            "deploy": "one_step:deployed_beside",
            "lower": "ping_pong:with_holders",
            "engine": "run:of_engine",
            "step_cost": "one_step:quickest_step",
            "collect": "run:apart_left",
            "figures": "run:FIGURES",
        },
        page="wide-ep",
        tests=("simulator/test_apart", "simulator/test_apart_serving"),
        asked=lambda a: a.of("apart"),
    ),
)
