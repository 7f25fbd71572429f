"""Does the code's version depend on the code?"""

from __future__ import annotations

from opbyte.analysis.show.record import ROOT, sources


def test_the_version_is_of_every_folder() -> None:
    """A digest of no file would never change, and a sweep would keep rows of older code."""
    found = {path.relative_to(ROOT).as_posix() for path in sources()}
    for name in (
        "workloads/ops.py", "devices/specs/h100.yaml", "simulator/fleet/run.py",
        "analysis/answers/simulate.py",
    ):  # fmt: skip
        assert name in found
    assert not any(name.startswith("analysis/report") for name in found)
