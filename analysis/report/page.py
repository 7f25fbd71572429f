"""A report: a verdict, then sections of text, tables and plots, rendered with everything escaped."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...workloads.errors import visible
from ..show.record import code_version, made_by
from ..show.result import Drawing, ReportSection, Result
from ..show.text import Records, Rows, is_numeric, magnitude, show
from . import scripts
from .sections import sections
from .svg import inline_svg

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

MOST_ROWS = 200
"""Maximum rows of a table; the files in the folder have all."""
MOST_TEXT = 2000
LONG_TEXT = 40
"""Characters from which a column is kept wide where the page is narrow."""
MARKED = {"pass", "fail", "prediction", "assumed"}
"""Cells with a colour in addition to their text."""


def report(result: Result, library: str = "") -> str:
    """Render a result as one self-contained HTML file, with the plot library inside or as a separate file.

    All external text is escaped. A content security policy allows only two scripts, by their digests (`scripts`), which
    make plots and tables interactive. Without them every plot has its picture and every table its rows.

    Parameters
    ----------
    result : Result
        Its headline and what `sections.sections` makes of it are the report; a last part says
        which command and code made it.
    library : str
        Path of the plot library from the page; empty: inside the page. If it is missing, the page
        prints this and shows the pictures.
    """
    number, live = 0, False
    shown: Records = []
    for section in [*sections(result), ReportSection("Made by", _made_by())]:
        blocks: Records = []
        for block in section.blocks:
            if isinstance(block, Drawing):
                number += 1
                blocks.append(_figure(block, number))
                live = live or blocks[-1]["live"] is not None
            elif isinstance(block, str):
                blocks.append({"kind": "text", "text": visible(block)[:MOST_TEXT]})
            elif block:
                blocks.append({"kind": "table", **table_of(block)})
        title = visible(section.title)[:MOST_TEXT]
        shown.append({"title": title, "id": f"s{len(shown) + 1}", "blocks": blocks, "folded": section.folded})
    if record := made_by()["command"]:
        text = visible(record)[:MOST_TEXT]
        shown[-1]["blocks"].insert(0, {"kind": "command", "text": text})
    shared = library if live else ""
    used = (*((scripts.library(),) if live and not shared else ()), scripts.own())
    return _template().render(
        title=visible(result.report_title())[:MOST_TEXT],
        headline=visible(result.headline())[:MOST_TEXT], sections=shown,
        version=code_version(), policy=_markup(scripts.policy(used, bool(shared))), scripts=map(_markup, used),
        library=shared,
    )  # fmt: skip


def _figure(drawing: Drawing, number: int) -> dict[str, Any]:
    """Return a plot's picture, and the data of its interactive form if it has one."""
    from ..plots.interactive import interactive

    panels = interactive(drawing.figure)
    return {
        "kind": "figure", "caption": visible(drawing.caption)[:MOST_TEXT],
        "note": visible(" ".join(drawing.figure.get_supxlabel().split()))[:MOST_TEXT],
        "svg": inline_svg(drawing.figure, f"f{number}", drawing.caption),
        "live": None if panels is None else _markup(scripts.data(panels)),
    }  # fmt: skip


def _markup(text: str) -> Markup:
    """Text made here, in which nothing needs escaping."""
    from markupsafe import Markup

    return Markup(text)


def table_of(rows: Rows) -> dict[str, Any]:
    """Columns and cells of a table as the template takes them.

    Examples
    --------
    >>> table_of([{"op": "norm", "Op/B": 0.5}])["rows"]
    [[{'text': 'norm', 'mark': '', 'value': ''}, {'text': '0.5000', 'mark': '', 'value': '0.5'}]]
    """
    names = list(rows[0])
    columns: Records = [{"name": name.strip(), "numeric": is_numeric(rows, name)} for name in names]
    shown = rows[:MOST_ROWS]
    for name, column in zip(names, columns, strict=True):
        column["long"] = any(len(show(row.get(name))) > LONG_TEXT for row in shown)
    sized = [all(row.get(name) is None or magnitude(row[name]) is not None for row in shown) for name in names]
    cells = [[_cell(row.get(n), quantity) for n, quantity in zip(names, sized, strict=True)] for row in shown]
    return {"columns": columns, "rows": cells, "more": max(len(rows) - MOST_ROWS, 0)}


def _cell(value: Any, sized: bool) -> dict[str, str]:
    """A cell's text, and in a column of quantities the number by which it is sorted."""
    text = visible(show(value))
    size = magnitude(value) if sized else None
    mark = text if text in MARKED else ""
    return {"text": text[:MOST_TEXT], "mark": mark, "value": "" if size is None else f"{size:.9g}"}


def _made_by() -> list[Rows]:
    """The options of the command, the files it read, and the versions."""
    record = made_by()
    options = [{"option": name, "value": str(value)} for name, value in record["options"].items()]
    files = [{"file": name, "digest": digest} for name, digest in record["files"].items()]
    made = [{"what": name, "version": text} for name, text in record["versions"].items()]
    return [options, files, made]


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
