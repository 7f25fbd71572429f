"""A report: a verdict, then sections of text, tables and plots, rendered with everything escaped."""

from __future__ import annotations

import io
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...workloads.errors import visible
from ..show.record import code_version, made_by
from ..show.result import Drawing, ReportSection, Result
from ..show.text import Records, Rows, is_numeric, magnitude, show
from . import scripts
from .sections import sections

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup
    from matplotlib.figure import Figure


_SIZE = re.compile(r'^<svg [^>]*?viewBox="(?P<box>[^"]*)"[^>]*>', re.DOTALL)
_ID = re.compile(r' id="(?P<id>[^"]*)"')
_REFERENCE = re.compile(r'(?P<before>href="#|url\(#)(?P<id>[^")]*)')
_TAG = re.compile(r"<[^>]*>")
_FINE = re.compile(r"-?[1-9]\d*\.\d{2,}")  # of a point, which no eye and no printer tells apart
_FONT = re.compile(r"font-family: [^;\"]*;? ?|; font-family: [^;\"]*(?=\")| transform=\"rotate\(-?0 [^\"]*\"")
_DRAWN = re.compile(r'( d="| style=")([^"]*)')
_STEP = re.compile(r"([ML])([-.\d]+) ([-.\d]+)|[Zz]")
_LINES = re.compile(rf"({_STEP.pattern})+")
_CODE = re.compile(r"`([^`]+)`")
_COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)

FONTS = "DejaVu Sans, Verdana, sans-serif"
"""The plots' font, and one of equal width on other machines."""
RASTER_DPI = 220
"""Resolution of rasterised parts: clouds of thousands of points."""


def inline_svg(figure: Figure, prefix: str, label: str) -> Markup:
    """Turn a plot into an ``<svg>`` element of the page.

    Text remains text, in a font as wide as the one used for the layout; equal plots give equal bytes. The page sets the
    size, the view box keeps the proportions.

    Parameters
    ----------
    prefix : str
        Prefix of every id, so that several plots fit one page.
    label : str
        Description of the plot for screen readers.
    """
    from markupsafe import Markup, escape
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    from ..plots.style import house_style

    buffer = io.StringIO()
    with house_style(), rc_context({"svg.hashsalt": "opbyte", "svg.fonttype": "none"}):
        # Not by `savefig`, which draws twice: once to lay out what is laid out.
        canvas, dpi = figure.canvas, figure.dpi
        figure.dpi = RASTER_DPI
        svg_canvas: Any = FigureCanvasSVG(figure)  # its methods have no types
        svg_canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
        figure.dpi = dpi
        figure.set_canvas(canvas)
    text = buffer.getvalue()
    text = _COMMENT.sub("", text[text.index("<svg") :])
    text = _TAG.sub(lambda tag: _FONT.sub("", _FINE.sub(_rounded, tag[0])), text)
    text = re.sub(r">\s+<", "><", text).replace("xlink:href", "href")
    text = _DRAWN.sub(lambda m: m[1] + _stepwise(re.sub(r"\s*([A-Za-z:;])\s*", r"\1", m[2])), text)
    known = dict.fromkeys(match["id"] for match in _REFERENCE.finditer(text))
    used = {name: f"{prefix}-{i}" for i, name in enumerate(known)}
    text = _ID.sub(lambda m: f' id="{used[m["id"]]}"' if m["id"] in used else "", text)
    text = _REFERENCE.sub(lambda m: m["before"] + used[m["id"]], text)
    match = _SIZE.match(text)
    assert match is not None
    head = f'<svg viewBox="{match["box"]}" role="img" aria-label="{escape(label)}" font-family="{FONTS}">'
    return Markup(head + text[match.end() :])  # drawn here, by what escapes its texts


def _stepwise(path: str) -> str:
    """Return an SVG path of straight lines in relative steps of tenths of a point; other text is returned unchanged.

    Examples
    --------
    >>> _stepwise("M10 20.5L11 20.5L11 30Z"), _stepwise("fill:none")
    ('M10 20.5l1 0l0 9.5Z', 'fill:none')
    """
    if not _LINES.fullmatch(path.strip()):
        return path
    out, x, y = "", 0, 0
    for step in _STEP.finditer(path):
        if step[1] is None:
            out += step[0]
            continue
        a, b = round(10 * float(step[2])), round(10 * float(step[3]))
        out += f"M{a / 10:g} {b / 10:g}" if step[1] == "M" else f"l{(a - x) / 10:g} {(b - y) / 10:g}"
        x, y = a, b
    return out


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.1f}".removesuffix(".0")


MOST_ROWS = 200
"""Maximum rows of a table; the files in the folder have all."""
MOST_TEXT = 2000
LONG_TEXT = 40
"""Length of a text [characters] from which its column stays wide on a narrow page."""
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
    """Mark a text as safe markup that the template does not escape."""
    from markupsafe import Markup

    return Markup(text)


def code_spans(text: str) -> Markup:
    """Escape a text, and mark text between backticks as code.

    Examples
    --------
    >>> print(code_spans("`--costs roofline` for a < b"))
    <code>--costs roofline</code> for a &lt; b
    """
    from markupsafe import escape

    return _markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def table_of(rows: Rows) -> dict[str, Any]:
    """Return a table for the template: its columns that have any value, and their cells.

    Examples
    --------
    >>> table_of([{"op": "norm", "Op/B": 0.5, "why": None}])["rows"]
    [[{'text': 'norm', 'mark': '', 'value': ''}, {'text': '0.5000', 'mark': '', 'value': '0.5'}]]
    """
    names = [name for name in rows[0] if any(row.get(name) is not None for row in rows)]
    columns: Records = [{"name": name.strip(), "numeric": is_numeric(rows, name)} for name in names]
    shown = rows[:MOST_ROWS]
    for name, column in zip(names, columns, strict=True):
        column["long"] = any(len(show(row.get(name))) > LONG_TEXT for row in shown)
    sized = [all(row.get(name) is None or magnitude(row[name]) is not None for row in shown) for name in names]
    cells = [[_cell(row.get(n), quantity) for n, quantity in zip(names, sized, strict=True)] for row in shown]
    return {"columns": columns, "rows": cells, "more": max(len(rows) - MOST_ROWS, 0)}


def _cell(value: Any, sized: bool) -> dict[str, str]:
    """Return a cell's text and, in a column of quantities, the number by which the column is sorted."""
    text = visible(show(value))
    size = magnitude(value) if sized else None
    mark = text if text in MARKED else ""
    return {"text": text[:MOST_TEXT], "mark": mark, "value": "" if size is None else f"{size:.9g}"}


def _made_by() -> list[Rows]:
    """Return tables of the command's options, of the files that it read, and of the versions."""
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
    environment.filters["code"] = code_spans
    return environment.get_template("report.html.j2")
