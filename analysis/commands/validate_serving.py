"""``opbyte validate serving``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from .io import answer
from .options import Json, Out
from .validate import validate_app


@validate_app.command("serving")
def validate_serving_command(
    folders: Annotated[list[str], typer.Argument(metavar="DIR...", help="Folders of runs.")],
    no_kernels: Annotated[bool, typer.Option("--no-kernels", help="Use the device's models alone.")] = False,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="How the GPUs were connected (list hosts).")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Replay measured serving runs, request by request."""
    from ..validate.serving import validate_serving

    answer(partial(validate_serving, folders, kernels=not no_kernels, host=host), out, as_json)
