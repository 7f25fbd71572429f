"""What every answer can do: turn into plain data, a pandas frame and a notebook table."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...workloads.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from ..plots.files import Picture
    from ..report import Drawing, Section


class Result:
    """Base of results: subclasses give `to_dict` and the rows shown as a table."""

    __slots__ = ()

    def __init_subclass__(cls, **settings: Any) -> None:
        """Give every result a short `repr`: a dataclass keeps the one it finds."""
        super().__init_subclass__(**settings)
        cls.__repr__ = Result.__repr__  # type: ignore[method-assign]  # of this class, on purpose

    def __repr__(self) -> str:
        """The first line of the answer; the rest is in `frame`, `rows` and `to_dict`."""
        return f"<{type(self).__name__}: {self.report_title()[:200]}; see .frame(), .to_dict()>"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as the command prints with ``--json``."""
        raise NotImplementedError

    def timing(self) -> dict[str, Any]:
        """What differs between equal calls, such as real time [s]; never part of `to_dict`."""
        return {}

    def rows(self) -> Sequence[Mapping[str, Any]]:
        """Rows of the table shown to people."""
        raise NotImplementedError

    def records(self) -> Sequence[Mapping[str, Any]]:
        """Rows as numbers in SI units, for `frame`."""
        return self.rows()

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        """What the command prints: lines of text, and rows of tables."""
        return [self.rows()]

    def report_title(self) -> str:
        """Heading of the report: the first line of `blocks` up to a colon, by default."""
        first = next((block for block in self.blocks() if isinstance(block, str)), "")
        return first.partition(": ")[0] or type(self).__name__

    def sections(self) -> Sequence[Section]:
        """Parts of ``report.html``: the printed blocks and the drawings, by default."""
        from ..report import Section

        return [Section("Result", [*self.blocks(), *self.drawings()])]

    def drawings(self) -> Sequence[Drawing]:
        """Figures of the report, each with its caption."""
        return ()

    def plot(self) -> Picture:
        """The answer's first figure, as a notebook shows it.

        Raises
        ------
        InputError
            An answer without figures.
        """
        from ..plots.files import Picture

        drawings = self.drawings()
        if not drawings:
            raise InputError(type(self).__name__, "has no figure; see .frame()")
        return Picture(drawings[0].figure)

    def frame(self) -> pd.DataFrame:
        """The answer as a pandas frame, in SI units."""
        import pandas as pd

        return pd.DataFrame(list(self.records()))

    def _repr_html_(self) -> str:
        """Show as a table in a notebook; everything is escaped."""
        rows = list(self.rows())
        if not rows:
            return "<p>no rows</p>"
        head = "".join(f"<th>{html.escape(str(key))}</th>" for key in rows[0])
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(show(v))}</td>" for v in row.values()) + "</tr>"
            for row in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def si(value: float, unit: str) -> str:
    """A quantity for people: three significant digits and a prefix.

    Examples
    --------
    >>> si(532.1e6, "B"), si(8.456e9, "FLOP"), si(0, "B"), si(999.9, "B")
    ('532 MB', '8.46 GFLOP', '0 B', '1000 B')
    """
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.{_decimals(value / factor)}f} {prefix}{unit}"
    return f"{value:.{_decimals(value) if value else 0}f} {unit}"


def _decimals(value: float) -> int:
    """Decimals that leave three significant digits, at least none."""
    return max(0, 2 - math.floor(math.log10(abs(value))))


def show(value: Any) -> str:
    """A value for people: four significant digits, thousands apart, nothing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value == 0 or not math.isfinite(value):
            return f"{value:g}"
        if 1e-3 <= abs(value) < 1e6:
            digits = max(0, 3 - math.floor(math.log10(abs(value))))
            return f"{value:,.{digits}f}"
        return f"{value:.3e}"
    return str(value)


def seconds(value: float | None) -> str:
    """A duration for people, in the unit that fits."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f} s"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if value >= 0.9995 * factor:  # rounds to at least 1.00
            return f"{value / factor:.{_decimals(value / factor)}f} {unit}"
    return "0 s" if value == 0 else f"{value:.3g} s"


def plain(value: Any) -> Any:
    """Numpy scalars and mappings as JSON types; not-a-number and infinity as None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value
