"""A report: sections of text, tables and figures, rendered with everything escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..show.provenance import code_version
from ..show.result import Drawing, Result, Section
from ..show.text import is_numeric, show
from .sections import sections
from .svg import inline_svg

if TYPE_CHECKING:
    from jinja2 import Template

MOST_ROWS = 200
"""Rows of a table shown; the files beside the report hold all."""
MOST_TEXT = 2000
MARKED = {"pass", "fail", "prediction", "assumed"}
"""Cells that are shown in a colour of their own, beside saying it."""


def report(result: Result) -> str:
    """Render an answer as one HTML file without scripts or links to other files.

    Everything that comes from outside is escaped, and a content security policy in the page
    forbids scripts altogether.

    Parameters
    ----------
    result : Result
        What `sections.sections` makes of it is the report; a last part says which code made it.

    Returns
    -------
    str
    """
    number = 0
    shown: list[dict[str, Any]] = []
    for section in [*sections(result), _made_by()]:
        blocks: list[dict[str, Any]] = []
        for block in section.blocks:
            if isinstance(block, Drawing):
                number += 1
                svg = inline_svg(block.figure, f"f{number}", block.caption)
                blocks.append({"kind": "figure", "svg": svg, "caption": block.caption})
            elif isinstance(block, str):
                blocks.append({"kind": "text", "text": block[:MOST_TEXT]})
            elif block:
                blocks.append({"kind": "table", **table_of(block)})
        shown.append({"title": section.title, "id": f"s{len(shown) + 1}", "blocks": blocks})
    return _template().render(title=result.report_title(), sections=shown, version=code_version())


def table_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Columns and cells of a table as the template takes them.

    Examples
    --------
    >>> table_of([{"op": "norm", "Op/B": 0.5}])["rows"]
    [[{'text': 'norm', 'mark': ''}, {'text': '0.5000', 'mark': ''}]]
    """
    names = list(rows[0])
    columns = [{"name": name.strip(), "numeric": is_numeric(rows, name)} for name in names]
    cells = [[_cell(row.get(name)) for name in names] for row in rows[:MOST_ROWS]]
    return {"columns": columns, "rows": cells, "more": max(len(rows) - MOST_ROWS, 0)}


def _cell(value: Any) -> dict[str, str]:
    text = show(value)
    return {"text": text[:MOST_TEXT], "mark": text if text in MARKED else ""}


def _made_by() -> Section:
    import platform

    import numba
    import numpy

    return Section(
        "Made by",
        [
            [
                {"what": "OpByte", "version": code_version()},
                {"what": "Python", "version": platform.python_version()},
                {"what": "NumPy", "version": numpy.__version__},
                {"what": "Numba", "version": numba.__version__},
            ],
        ],
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")
