"""A report: sections of text, tables and figures, rendered with everything escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...workloads.errors import visible
from ..show.provenance import code_version
from ..show.record import made_by
from ..show.result import Block, Drawing, Result, Section
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
    for section in [*sections(result), Section("Made by", _made_by())]:
        blocks: list[dict[str, Any]] = []
        for block in section.blocks:
            if isinstance(block, Drawing):
                number += 1
                svg = inline_svg(block.figure, f"f{number}", block.caption)
                blocks.append({"kind": "figure", "svg": svg, "caption": block.caption})
            elif isinstance(block, str):
                blocks.append({"kind": "text", "text": visible(block)[:MOST_TEXT]})
            elif block:
                blocks.append({"kind": "table", **table_of(block)})
        shown.append({"title": section.title, "id": f"s{len(shown) + 1}", "blocks": blocks})
    title = visible(result.report_title())
    return _template().render(title=title, sections=shown, version=code_version())


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
    text = visible(show(value))
    return {"text": text[:MOST_TEXT], "mark": text if text in MARKED else ""}


def _made_by() -> list[Block]:
    """The command with its options, the files it read, and the versions."""
    record = made_by()
    options = [{"option": name, "value": str(value)} for name, value in record["options"].items()]
    files = [{"file": name, "digest": digest} for name, digest in record["files"].items()]
    made = [{"what": name, "version": text} for name, text in record["versions"].items()]
    command = [f"Command: {record['command']}"] if record["command"] else []
    return [*command, options, files, made]


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
