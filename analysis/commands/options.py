"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .usage import number, whole

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Out = Annotated[
    str | None, typer.Option("--out", metavar="DIR", help="Folder for tables and figures.")
]
Routing = Annotated[
    str, typer.Option(help="uniform, measured, power_law:S or trace:FILE.", metavar="ROUTING")
]
Dtype = Annotated[
    str | None, typer.Option(help="Format of linear weights, e.g. fp8.", metavar="FORMAT")
]
KvDtype = Annotated[
    str | None, typer.Option(help="Format of the KV cache, e.g. fp8.", metavar="FORMAT")
]
Tp = Annotated[
    int | None, typer.Option(parser=whole, metavar="N", help="Tensor-parallel devices per rank.")
]
Dp = Annotated[int | None, typer.Option(parser=whole, metavar="N", help="Data-parallel ranks.")]
Ep = Annotated[
    int | None, typer.Option(parser=whole, metavar="N", help="Groups that experts are dealt to.")
]
Pp = Annotated[
    int | None, typer.Option(parser=whole, metavar="N", help="Pipeline stages of the layers.")
]
Placement = Annotated[
    str | None,
    typer.Option(help="A name of `opbyte list placements`.", metavar="RULE"),
]
Router = Annotated[
    str | None,
    typer.Option(help="A name of `opbyte list routers`; round-robin without it.", metavar="NAME"),
]
Policy = Annotated[
    str | None,
    typer.Option(help="A name of `opbyte list policies`; chunked without it.", metavar="NAME"),
]
Costs = Annotated[
    str, typer.Option(help="auto (fitted kernel models) or roofline.", metavar="MODEL")
]
Attention = Annotated[str | None, typer.Option(help="flash or unfused.", metavar="ALGORITHM")]
SYSTEM = "Catalog name, YAML or DEVICE-xN."


def count(text: str) -> Any:
    """An option that takes a whole number."""
    return typer.Option(parser=whole, metavar="N", help=text)


def real(text: str) -> Any:
    """An option that takes a number."""
    return typer.Option(parser=number, metavar="X", help=text)
