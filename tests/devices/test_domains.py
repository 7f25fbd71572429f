"""What does a collective take among the devices of one NVLink domain, or of a mesh?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.devices.calibrated.allreduce import ALLREDUCE, LIBRARY
from opbyte.devices.calibrated.collectives import COLLECTIVES, KINDS
from opbyte.devices.calibrated.family import F8
from opbyte.devices.calibrated.hardware import hardware
from opbyte.devices.calibrated.kernel_sets import shared_parameters
from opbyte.devices.catalog import load_device

DOMAINS = ("gb200", "gb300")
RANKS = (2, 4, 8, 16, 32, 64)
BYTES = st.floats(1e3, 1e10)


def all_reduce(device: str, message: float, ranks: int) -> float:
    spec = load_device(device)[0]
    x = np.array([[message, ranks, LIBRARY]])
    return float(ALLREDUCE.seconds(shared_parameters(spec, ALLREDUCE).fit.values, hardware(spec), x)[0])


def others(device: str, kind: float, message: F8, ranks: int) -> F8:
    spec = load_device(device)[0]
    x = np.column_stack([message, np.full(len(message), ranks), np.full(len(message), kind)])
    return COLLECTIVES.seconds(shared_parameters(spec, COLLECTIVES).fit.values, hardware(spec), x)


@given(st.sampled_from(DOMAINS), BYTES)
def test_among_more_ranks_a_message_takes_no_less_and_large_ones_no_more(device: str, message: float) -> None:
    """Beyond eight the switches add up: of 1 GiB 64 ranks take what eight take, but for the tree's hops."""
    took = [all_reduce(device, message, n) for n in RANKS[2:]]
    assert all(b >= a * (1 - 1e-12) for a, b in pairwise(took))
    assert all_reduce(device, 2.0**33, 64) < 1.05 * all_reduce(device, 2.0**33, 8)
    assert all_reduce(device, 2.0**15, 64) < 1.5 * all_reduce(device, 2.0**15, 16)


@pytest.mark.parametrize("device", [*DOMAINS, "h100", "b200", "l40s", "mi300x"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_more_bytes_take_no_less(device: str, kind: str) -> None:
    for ranks in RANKS if device in DOMAINS else RANKS[:3]:
        took = others(device, KINDS[kind], np.geomspace(1e3, 1e10, 200), ranks)
        assert (np.diff(took) >= 0.0).all()


def test_a_pair_of_a_mesh_has_one_of_its_seven_links() -> None:
    """64 of the 448 GB/s of an MI300X reach one peer (AMD data sheet); over a switch a pair has all."""
    assert all_reduce("mi300x", 2.0**30, 2) > 2.0**30 / 64e9
    assert all_reduce("mi300x", 2.0**30, 2) > 2.0 * all_reduce("mi300x", 2.0**30, 8)
    assert all_reduce("h100", 2.0**30, 2) < 2.0 * all_reduce("h100", 2.0**30, 8)
