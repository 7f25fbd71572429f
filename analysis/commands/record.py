"""``opbyte record``."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

import typer

from ...simulator.option import options_of
from ...simulator.scenario import Scenario
from .app import app
from .io import answer
from .options import Json, Out, count, real, takes

LOAD = [p for p in options_of(Scenario) if p.group == "workload" or p.name == "seed"]
SESSIONS = ("turns", "think")
"""Options of sessions, which are not supported."""


@app.command("record")
@takes(LOAD, without=SESSIONS)
def record_command(
    url: Annotated[str, typer.Argument(metavar="URL", help="An OpenAI-compatible server.")],
    options: dict[str, Any],
    served_model_name: Annotated[
        str, typer.Option(metavar="NAME", help="Model to ask for; the first it lists without it.")
    ] = "",
    chat: Annotated[bool, typer.Option("--chat", help="Chat completions.")] = False,
    prompts: Annotated[
        str, typer.Option(metavar="FORM", help="ids, words, or auto: ids where they are taken.")
    ] = "auto",
    in_flight: Annotated[int, count("Open loop: most requests in flight.")] = 1024,
    timeout: Annotated[float, real("Longest that a request may take [s].")] = 600.0,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="For the folder: what it serves.")] = None,
    system: Annotated[str | None, typer.Option(metavar="SYSTEM", help="For the folder: what it runs on.")] = None,
    engine: Annotated[str | None, typer.Option(metavar="FILE", help="For the folder: its engine.json.")] = None,
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Send a trace to a server, record the time of every chunk, write a run's folder."""
    from ..live.record import record
    from ..live.recording import Recording
    from ..show.interrupt import Ended, heard

    play = partial(
        record, url, served_model_name=served_model_name, chat=chat, prompts=prompts,
        in_flight=in_flight, timeout=timeout, model=model, system=system, engine=engine, **options,
    )  # fmt: skip
    told_late: list[int] = []
    with ExitStack() as stack:

        def make(progress: Callable[[int, int], None] | None) -> Recording:
            result = play(progress=progress)
            stack.enter_context(heard(told_late.append))  # it is written, whatever comes now
            return result

        result = answer(make, out, as_json, counted="requests")
    if result.cut or told_late:
        raise Ended(signal.Signals[result.cut] if result.cut else told_late[0])
    if not result.answered:
        raise typer.Exit(1)
