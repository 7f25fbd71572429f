"""``opbyte inspect``."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app
from .io import folder, show
from .options import Json, Out


@app.command("inspect")
def inspect_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Catalog name, config.json or its folder.")
    ],
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Count a model's parameters, KV cache and state."""
    from ..answers.inspect import inspect

    with folder(out) as files:
        result = inspect(model)
        if files:
            files.answer("inspect.json", result)
    show(result, as_json)
