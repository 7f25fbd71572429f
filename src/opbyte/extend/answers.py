"""Results of commands, and parallel runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared

if TYPE_CHECKING:
    from opbyte.analysis.answers.compare import compare as compare
    from opbyte.analysis.answers.evidence import evidence as evidence
    from opbyte.analysis.answers.identity import whole as whole
    from opbyte.analysis.answers.memory_rows import dram_rows as dram_rows
    from opbyte.analysis.answers.roofline import roofline as roofline
    from opbyte.analysis.answers.simulate import simulate as simulate
    from opbyte.analysis.parallel import OnProgress as OnProgress
    from opbyte.analysis.parallel.local import Crew as Crew
    from opbyte.analysis.parallel.local import cores as cores
    from opbyte.analysis.show.kept import NOTHING as NOTHING
    from opbyte.analysis.show.kept import Kept as Kept

__all__, __getattr__ = declared(__name__, __file__)
