"""Does every study say the same on one worker and on two?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opbyte.analysis.studies.capacity import capacity
from opbyte.analysis.studies.design import design
from opbyte.analysis.studies.plan import plan

MODEL, SYSTEMS, LEVEL = "llama-3.2-1b", "h100-x1,a100-80gb-x1", "ttft_p99=0.2,tpot_p99=0.01"
SPACE = Path(__file__).parent / "spaces" / "designs_24.yaml"
WORK: dict[str, Any] = {"input_len": 256, "output_len": 8, "requests": 40}
STUDIES: dict[str, Callable[[int], Any]] = {
    "capacity": lambda n: capacity(
        MODEL, SYSTEMS.split(","), LEVEL, tolerance=0.3, workers=n, **WORK
    ),
    "plan": lambda n: plan(MODEL, SYSTEMS, LEVEL, load=200.0, workers=n, **WORK),
    "design": lambda n: design(
        SPACE,
        workload="closed_loop=8,requests=8,input_len=32,output_len=4",
        simulations=4,
        workers=n,
    ),
}


@pytest.mark.parametrize("study", STUDIES)
def test_two_workers_say_what_one_says(study: str) -> None:
    one, two = (STUDIES[study](n).to_dict() for n in (1, 2))
    assert one == two
