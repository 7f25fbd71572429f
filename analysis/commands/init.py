"""``opbyte init``."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app
from .io import folder, print_json
from .options import Out

KINDS = "device, system, host, memory, sweep, engine or kernels"


@app.command("init")
def init_command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"{KINDS}.")],
    as_schema: Annotated[bool, typer.Option("--schema", help="Its JSON schema instead, for editors.")] = False,
    out: Out = None,
) -> None:
    """Print a commented file to start from: a device, a host, a memory, a sweep, an engine, ..."""
    from ..reference.kinds import TEMPLATES, schema, template

    with folder(out) as files:
        made = schema(kind) if as_schema else None
        text = template(kind)
        if files and made is not None:
            files.json(f"{kind}.schema.json", made)
        elif files:
            files.text(TEMPLATES[kind], text)
    if made is not None:
        print_json(made)
    else:
        print(text, end="")
