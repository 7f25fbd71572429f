"""Result folders of `opbyte tune`; separate from the others, which simulations load too."""

from __future__ import annotations

from ..answers.tune_many import TuneRows
from ..show.output import SIGNIFICANT, OutputFolder
from ..show.result import Result

FIGURES = ("terms.png", "shared_memory.png")


def write_tune(result: Result, folder: OutputFolder) -> None:
    """Write the plots, the table and tune.json."""
    names = ("tiles.png",) if isinstance(result, TuneRows) else FIGURES
    for name, drawing in zip(names, result.drawings(), strict=False):
        folder.figure(name, drawing.figure)
    folder.frame("tune.csv", result.frame(), SIGNIFICANT)
    folder.answer("tune.json", result)
