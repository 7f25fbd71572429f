"""``opbyte inspect``."""

from __future__ import annotations

from functools import partial

from .app import app
from .io import answer
from .options import Json, Model, Out


@app.command("inspect")
def inspect_command(model: Model, as_json: Json = False, out: Out = None) -> None:
    """Count a model's parameters, KV cache and state."""
    from ..answers.inspect import inspect

    answer(partial(inspect, model), out, as_json)
