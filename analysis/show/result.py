"""The interface of every result: plain data, a pandas frame, a notebook table, parts of a report."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ...workloads.errors import InputError
from .declared import record
from .text import Blocks, Rows, show

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ...devices.spec import SystemSpec
    from ...simulator.deploy.deployment import Deployment
    from ..plots.files import Picture
    from .output import OutputFolder


MOST_SHOWN = 200
"""Rows of a table that a notebook shows."""
MOST_SKIPPED = 20
"""Rows and files left out that a command names."""


def skipped_remarks(skipped: Sequence[object]) -> list[str]:
    """Remarks about input that was left out."""
    lines = [f"skipped {row}" for row in skipped[:MOST_SKIPPED]]
    if len(skipped) > MOST_SKIPPED:
        lines.append(f"skipped {len(skipped) - MOST_SKIPPED} more rows or files (all with --json)")
    return lines


@dataclass(frozen=True, slots=True)
class Drawing:
    """A plot with a caption that says what to look for."""

    figure: Figure
    caption: str


Block = str | Rows | Drawing
"""An element of a report: a paragraph, a table or a plot."""


@dataclass(frozen=True, slots=True)
class ReportSection:
    """A headed part of a report.

    Attributes
    ----------
    blocks : sequence of str, rows or Drawing
        Paragraphs, tables (rows of equal keys) and plots, in order.
    folded : int
        Number of constants in a table that opens on a click; 0 if the section is always open.
    """

    title: str
    blocks: Sequence[Block]
    folded: int = 0


@dataclass(frozen=True, slots=True)
class Rests:
    """A system in the evidence of a result.

    Attributes
    ----------
    sources : mapping of str to str
        Key path of its description -> source of that number; empty where it was given as an object.
    deployment : Deployment or None
        Deployment of the model's ops, with its cost models; None on an FPGA.
    """

    system: SystemSpec
    sources: Mapping[str, str]
    deployment: Deployment | None = None


class Result:
    """Base of results: subclasses give `to_dict` and the rows shown as a table."""

    __slots__ = ()
    FILE: ClassVar[str] = ""
    """Of ``--out``: the file of `to_dict`; empty: the class's name."""
    PICTURES: ClassVar[tuple[str, ...]] = ()
    """Files of the drawings, in order."""
    TABLES: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    """Files of tables: name, the method that has the rows, columns or frame, and the format of real numbers."""

    def __init_subclass__(cls, **settings: Any) -> None:
        """Give every result a short `repr`: a dataclass keeps the one it finds."""
        super().__init_subclass__(**settings)
        cls.__repr__ = Result.__repr__  # type: ignore[method-assign]  # of this class, on purpose

    def __repr__(self) -> str:
        """Return the result in a sentence; the rest is in `frame`, `rows` and `to_dict`."""
        said = f"{self.report_title()}: {self.headline()}"[:400].rstrip(".")
        return f"<{type(self).__name__}: {said}; see .frame(), .to_dict()>"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as ``--json`` prints it; by default as `results.yaml` of the class's folder declares it."""
        return record(self)

    def pictures(self) -> tuple[str, ...]:
        """Files of this result's drawings, in order."""
        return self.PICTURES

    def write(self, folder: OutputFolder) -> None:
        """Write the declared files; the one of `to_dict` comes last."""
        for name, method, floats in self.TABLES:
            folder.table(name, getattr(self, method)(), floats)
        if pictures := self.pictures():
            for name, drawing in zip(pictures, self.drawings(), strict=False):
                folder.figure(name, drawing.figure)
        folder.answer(self.FILE or f"{type(self).__name__.lower()}.json", self)

    def timing(self) -> dict[str, Any]:
        """Values that differ between equal calls, such as real time [s]; never part of `to_dict`."""
        return {}

    @property
    def passed(self) -> bool:
        """Whether all checks are within their bounds; the command exits with code 1 otherwise."""
        return True

    def remarks(self) -> Sequence[str]:
        """Warnings about the result; the command prints them to stderr."""
        return ()

    def rows(self) -> Rows:
        """Rows of the table shown to people."""
        raise NotImplementedError

    def records(self) -> Rows:
        """Rows as numbers in SI units, for `frame`."""
        return self.rows()

    def blocks(self) -> Blocks:
        """Blocks that the command prints: lines of text, and rows of tables."""
        return [self.rows()]

    def report_title(self) -> str:
        """Heading of the report: the first line of `blocks` up to a colon, by default."""
        first = next((block for block in self.blocks() if isinstance(block, str)), "")
        return first.partition(": ")[0] or type(self).__name__

    def headline(self) -> str:
        """Return the result in a sentence or two, for the top of the report: by default the next line of `blocks`.

        This is the rest of the line after `report_title`, else the next line.
        """
        texts = [block for block in self.blocks() if isinstance(block, str)]
        rest = texts[0].partition(": ")[2] if texts else ""
        return rest or "".join(texts[1:2])

    def rests(self) -> Sequence[Rests]:
        """Systems whose cost models and constants the report shows."""
        return ()

    def drawings(self) -> Sequence[Drawing]:
        """Return the plots of the report, each with its caption."""
        return ()

    def plot(self, which: int = 0) -> Picture:
        """Return one of the result's plots, by default the first, for a notebook.

        Raises
        ------
        InputError
            If the result has no plots, or fewer.
        """
        from ..plots.files import Picture

        drawings = self.drawings()
        if not drawings:
            raise InputError(type(self).__name__, "has no plot; see .frame()")
        if not 0 <= which < len(drawings):
            raise InputError("which", f"must be from 0 to {len(drawings) - 1}, not {which}")
        return Picture(drawings[which].figure)

    def frame(self) -> pd.DataFrame:
        """Return the result as a pandas frame, in SI units."""
        import pandas as pd

        return pd.DataFrame(list(self.records()))

    def _repr_html_(self) -> str:
        """Show as a table in a notebook, its first `MOST_SHOWN` rows; everything is escaped."""
        rows = list(self.rows())
        if not rows:
            return "<p>no rows</p>"
        more = f"<p>and {len(rows) - MOST_SHOWN:,} more rows: .frame()</p>" if len(rows) > MOST_SHOWN else ""
        head = "".join(f"<th>{html.escape(str(key))}</th>" for key in rows[0])
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(show(v))}</td>" for v in row.values()) + "</tr>"
            for row in rows[:MOST_SHOWN]
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
