"""``opbyte kernels``: tables of a model's kernels to measure, and what measures them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from ...simulator.option import options_of
from ...simulator.scenario.options import DeployOptions
from ...workloads.errors import InputError
from .app import App, app
from .io import answer
from .options import Json, Model, Out, System, takes

kernels_app = App(help="Shapes of kernels to measure, and a script that does.", rich_markup_mode=None)
app.add_typer(kernels_app, name="kernels")
PRICED = ("kernels", "costs", "memory", "host", "all_to_all", "placement", "power_cap", "clock", "strict")
"""Options of what a kernel takes, which its shapes do not tell."""


@kernels_app.callback(invoke_without_command=True)
def kernels_top(context: typer.Context) -> None:
    """Shapes of kernels to measure, and a script that does."""
    if context.invoked_subcommand is None:
        raise InputError(
            "opbyte kernels",
            "needs what to write: opbyte kernels shapes MODEL --system S, or opbyte kernels measure-torch",
        )


@kernels_app.command("shapes")
@takes([*options_of(DeployOptions)], without=PRICED)
def kernel_shapes_command(
    model: Model,
    system: System,
    options: dict[str, Any],
    batches: Annotated[str, typer.Option(metavar="N,N", help="Decodes in the system.")] = "1,8,64",
    contexts: Annotated[str, typer.Option(metavar="N,N", help="Tokens each decode has cached.")] = "2048",
    prompts: Annotated[str, typer.Option(metavar="N,N", help="Prompts, a step each; empty for none.")] = "512,2048",
    as_json: Json = False,
    out: Out = None,
) -> None:
    """Shapes of the kernels that a model runs; --out writes tables without times, to measure."""
    from ..answers.kernel_shapes import KernelShapes, kernel_shapes

    make = partial(
        kernel_shapes, model, system, batches=_counts(batches, "--batches"),
        contexts=_counts(contexts, "--contexts"), prompts=_counts(prompts, "--prompts"), **options,
    )  # fmt: skip
    answer(make, out, as_json, write=KernelShapes.write)


@kernels_app.command("measure-torch")
def measure_torch_command() -> None:
    """Print a script that fills such tables on a GPU with torch: one file, without OpByte."""
    from ..reference.kinds import measuring_script

    print(measuring_script(), end="")


def _counts(text: str, option: str) -> list[int]:
    """Parse comma-separated numbers."""
    numbers = []
    for part in map(str.strip, text.split(",") if text.strip() else ()):
        if not part.isdecimal() or int(part) < 1:
            raise InputError(option, f"must be a comma-separated list of numbers from 1 on, not {part!r}")
        numbers.append(int(part))
    return numbers
