"""Options of commands: a scenario's, made from its fields, and some that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from ...simulator.option import PlacedOption, placed
from ...simulator.scenario.scenario import Scenario
from ...workloads.errors import InputError
from . import panels
from .usage import number, whole

JSON = "Print one JSON object and nothing else."
Json = Annotated[bool, typer.Option("--json", help=JSON, rich_help_panel=panels.OUTPUT)]
OUT = "Folder for tables and plots."
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help=OUT, rich_help_panel=panels.OUTPUT)]

Why = Annotated[bool, typer.Option("--why", help="Print the evidence for the result.")]

Emit = Annotated[str | None, typer.Option(metavar="NAME", help="How all copies are started: compose, dynamo or llm-d.")]


def check_emit(name: str | None) -> None:
    """Refuse a manifest of no known kind."""
    from ...simulator.frameworks.manifests import WRITERS

    if name is not None and name not in WRITERS:
        raise InputError("--emit", f"must be one of {', '.join(WRITERS)}, not {name!r}")


FAMILY = "Family of the tables, if the file names do not say it: gemm, moe, attention_decode, ..."
Family = Annotated[str | None, typer.Option(metavar="NAME", help=FAMILY)]
FRESH = "Forget the parts that an interrupted run left."
Fresh = Annotated[bool, typer.Option("--fresh", help=FRESH)]


def count(text: str) -> Any:
    """An option that takes a whole number."""
    return typer.Option(parser=whole, metavar="N", help=text)


def real(text: str) -> Any:
    """An option that takes a number."""
    return typer.Option(parser=number, metavar="X", help=text)


TYPES: dict[type, Any] = {int: int | None, float: float | None, bool: bool, tuple: list[str] | None}
"""How the option parser knows a kind; all others are text."""
PARSERS = {int: whole, float: number}


LISTED = {
    "model": "models", "system": "systems", "prefill": "systems", "decode": "systems", "experts_on": "systems", "policy": "policies", "router": "routers",
    "host": "hosts", "routing": "routings", "placement": "placements",
    "expert_cache": "expert-caches", "expert_placement": "expert-placements", "all_to_all": "exchanges",
}  # fmt: skip
"""Option -> list of the catalog whose names a shell completes."""


def names_of(kind: str) -> Callable[[str], list[str]]:
    """Return the completion of a word with the names of a list of the catalog."""

    def complete(incomplete: str) -> list[str]:
        from ..names import catalog

        return [n for row in catalog(kind) if (n := str(row["name"])).startswith(incomplete)]

    return complete


def info(name: str) -> Any:
    """Return the option parser's settings of a scenario option."""
    option_own = placed(Scenario)[name]
    option, kind = option_own.option, LISTED.get(name)
    listed = names_of(kind) if kind else None
    if option.argument:
        return typer.Argument(metavar=option.metavar, help=option.text, autocompletion=listed)
    panel = panels.OPTIONS.get(option_own.group)
    if option.kind is bool:
        return typer.Option(option_own.flag, help=option.text, rich_help_panel=panel)
    return typer.Option(
        parser=PARSERS.get(option.kind), metavar=option.metavar, help=option.text,
        rich_help_panel=panel, autocompletion=listed,
    )  # fmt: skip


Model = Annotated[str, info("model")]
System = Annotated[str, info("system")]
Routing = Annotated[str, info("routing")]


def takes(
    options: Sequence[PlacedOption], without: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command: its parameter `options` becomes one option for each of these.

    The command gets the ones that were given, by name.
    """
    shown = [p for p in options if p.name not in without]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        def command(**given: Any) -> None:
            options_own = {p.name: given.pop(p.name) for p in shown}
            function(**given, options={k: v for k, v in options_own.items() if v is not None})

        parameters: list[inspect.Parameter] = []
        for options_own in inspect.signature(function, eval_str=True).parameters.values():
            made = [_parameter(p) for p in shown] if options_own.name == "options" else [options_own]
            parameters += [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in made]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer reads it
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return command

    return decorate


def _parameter(placed_option: PlacedOption) -> inspect.Parameter:
    kind = TYPES.get(placed_option.option.kind, str | None)
    default = placed_option.default or None if placed_option.option.kind is tuple else placed_option.default
    return inspect.Parameter(
        placed_option.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, info(placed_option.name)],
    )
