"""``opbyte dram``."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from .app import app
from .io import answer
from .options import Json, Out


@app.command("dram")
def dram_command(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="seq_read, rand_read:S=1024, seq_rw:rw=15:1, pim_mac_ab, ...")
    ],
    memory: Annotated[str, typer.Option(metavar="NAME", help="DRAM standard, or its YAML file.")] = "hbm3-5200-8hi",
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Bandwidth, latency and row hits of an access pattern, and what limits it."""
    from ..answers.dram import dram

    answer(partial(dram, pattern, memory), out, as_json)
