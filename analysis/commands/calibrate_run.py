"""``opbyte calibrate run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .calibrate import calibrate_app
from .io import resumed, show, side_file
from .options import Fresh, Json, count, real


@calibrate_app.command("run")
def calibrate_run_command(
    run: Annotated[str, typer.Argument(metavar="DIR", help="Folder of one measured run.")],
    free: Annotated[str, typer.Option(metavar="NAMES", help="Up to three of link, latency and host.")] = "link,host",
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="What to start from (list hosts), or a file.")
    ] = None,
    part: Annotated[float, real("Share of the run, by time, to fit; the rest is the test set.")] = 1.0,
    seed: Annotated[int, count("Seed of the samples for the intervals.")] = 0,
    fresh: Fresh = False,
    as_json: Json = False,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="The host's file (YAML) to write.")] = None,
) -> None:
    """Fit how a host connects its GPUs to one measured run; --out writes the host's file."""
    from ..validate.hosts import calibrate_run

    parts = resumed("calibrate-run", fresh)
    with side_file(out, "--out") as write:
        result = calibrate_run(run, free, host=host, part=part, seed=seed, kept=parts)
        write("text", lambda: result.yaml(Path(str(out))))
    show(result, as_json)
    parts.forget()
