"""Axes, colours and bars in the house's style."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared

if TYPE_CHECKING:
    from opbyte.analysis.plots import Picture as Picture
    from opbyte.analysis.plots.bars import bars as bars
    from opbyte.analysis.plots.gantt import gantt as gantt
    from opbyte.analysis.plots.published import COLORS as COLORS
    from opbyte.analysis.plots.published import HATCHES as HATCHES
    from opbyte.analysis.plots.published import ratios as ratios
    from opbyte.analysis.plots.published import stacked as stacked
    from opbyte.analysis.plots.style import BLACK as BLACK
    from opbyte.analysis.plots.style import BLUE as BLUE
    from opbyte.analysis.plots.style import GREEN as GREEN
    from opbyte.analysis.plots.style import GREY as GREY
    from opbyte.analysis.plots.style import LIGHT as LIGHT
    from opbyte.analysis.plots.style import OP_PER_BYTE as OP_PER_BYTE
    from opbyte.analysis.plots.style import ORANGE as ORANGE
    from opbyte.analysis.plots.style import PURPLE as PURPLE
    from opbyte.analysis.plots.style import SKY as SKY
    from opbyte.analysis.plots.style import SMALL as SMALL
    from opbyte.analysis.plots.style import VERMILLION as VERMILLION
    from opbyte.analysis.plots.style import WIDTH as WIDTH
    from opbyte.analysis.plots.style import YELLOW as YELLOW
    from opbyte.analysis.plots.style import Style as Style
    from opbyte.analysis.plots.style import finish as finish
    from opbyte.analysis.plots.style import house_figure as house_figure
    from opbyte.analysis.plots.style import house_style as house_style
    from opbyte.analysis.plots.style import log_axis as log_axis
    from opbyte.analysis.plots.style import new_figure as new_figure
    from opbyte.analysis.plots.style import require as require

__all__, __getattr__ = declared(__name__, __file__)
