"""``opbyte list``."""

from __future__ import annotations

from typing import Annotated

import typer

from ..names import LISTS, catalog
from .app import app
from .io import folder, print_json
from .options import Json, Out


@app.command("list")
def list_command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=", ".join(LISTS))], as_json: Json = False, out: Out = None
) -> None:
    """List what the catalog holds."""
    with folder(out) as files:
        rows = catalog(kind)
        data = {"kind": kind, "names": [row["name"] for row in rows], "items": rows}
        if files:
            files.json(f"{kind}.json", data)
    if as_json:
        print_json(data)
        return
    from ..show.console import print_table, print_text

    print_table(rows) if rows else print(f"no {kind} yet")
    if kind == "systems":
        print_text("Any <device>-x<N> and <device>-<nodes>x<N> is a system too: h100-x4, h100-2x8.")
