"""``opbyte show``."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app
from .io import folder, print_json
from .options import Json, Out


@app.command("show")
def show_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Device, system, host (or its file), model, policy or engine.")
    ],
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Print the definition of a name as a file to copy: every number with its unit and source."""
    from ..answers.description import describe

    with folder(out) as files:
        description = describe(name)
        if files:
            files.text(f"{description.name}.yaml", description.text())
    if as_json:
        print_json(description.to_dict())
    else:
        print(description.text(), end="")
