"""``opbyte inspect``."""

from __future__ import annotations

from .app import app
from .io import folder, show
from .options import Json, Model, Out


@app.command("inspect")
def inspect_command(
    model: Model,
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
