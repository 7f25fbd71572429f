"""Functions for the commands of `commands.yaml`, with signatures that the option parser reads."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Annotated, Any

import typer
import typer.core

from ...simulator.option import PlacedOption, flag_of, options_of, placed
from ...simulator.parts.drafts import SpeculationOptions
from ...simulator.scenario.options import DeployOptions, Workload
from ...simulator.scenario.scenario import Scenario
from ...workloads.errors import InputError, visible
from ...workloads.requests.options import check_rate
from ..names import LISTS
from .app import LISTED, OPTIONS, App, app
from .io import answer, resumed, told
from .usage import number, whole

Entry = Mapping[str, Any]
CLASSES: dict[str, type] = {
    "+scenario": Scenario, "+deployment": DeployOptions, "+speculation": SpeculationOptions, "+workload": Workload,
}  # fmt: skip
TYPES: dict[type, Any] = {int: int | None, float: float | None, bool: bool, tuple: list[str] | None}
"""Type annotation of each kind of option for the parser; all other kinds are text."""
PARSERS = {int: whole, float: number}
WRITTEN: dict[str, type] = {"N": int, "X": float, "flag": bool, "switch": bool}
"""Type of an option by its key `is` in `commands.yaml`; all others are text."""
COMPLETED = {
    "model": "models", "system": "systems", "prefill": "systems", "decode": "systems", "experts_on": "systems", "policy": "policies", "router": "routers",
    "host": "hosts", "routing": "routings", "placement": "placements",
    "expert_cache": "expert-caches", "expert_placement": "expert-placements", "all_to_all": "exchanges",
}  # fmt: skip
"""Catalog list whose names a shell completes, by option."""


def names_of(kind: str | None) -> Callable[[str], list[str]] | None:
    """Return a function that completes a word with the names of a catalog list."""
    if kind is None:
        return None

    def complete(incomplete: str) -> list[str]:
        from ..names import catalog

        return [n for row in catalog(kind) if (n := str(row["name"])).startswith(incomplete)]

    return complete


def of_scenario(p: PlacedOption, needed: bool = False) -> inspect.Parameter:
    """Return the function parameter of a scenario option."""
    option, listed = p.option, names_of(COMPLETED.get(p.name))
    kind, default = TYPES.get(option.kind, str | None), p.default
    if option.argument:
        info = typer.Argument(metavar=option.metavar, help=option.text, autocompletion=listed)
    elif option.kind is bool:
        info = typer.Option(p.flag, help=option.text, rich_help_panel=OPTIONS.get(p.group))
    else:
        info = typer.Option(
            parser=PARSERS.get(option.kind), metavar=option.metavar, help=option.text,
            rich_help_panel=OPTIONS.get(p.group), autocompletion=listed,
        )  # fmt: skip
    if needed:
        return _parameter(p.name, str, info)
    return _parameter(p.name, kind, info, (default or None) if option.kind is tuple else default)


def _parameter(name: str, kind: Any, info: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
    )  # fmt: skip


def of_entry(name: str, entry: Entry) -> inspect.Parameter:
    """Return the function parameter of an option in `commands.yaml`."""
    written = entry.get("is")
    kind: Any = WRITTEN.get(written or "", str)
    default = entry.get("default", False if written == "flag" else None)
    info: dict[str, Any] = {
        "help": entry.get("help", ", ".join(LISTS)), "metavar": None if kind is bool else written,
        "autocompletion": names_of(entry.get("lists")), "parser": PARSERS.get(kind),
        "rich_help_panel": OPTIONS.get(entry.get("group", ""), entry.get("group")),
    }  # fmt: skip
    flags = [entry.get("flag", flag_of(name))] if written == "flag" or "flag" in entry else []
    made = typer.Argument(**info) if entry.get("argument") else typer.Option(*flags, **info)
    kind = list[str] if entry.get("many") else kind
    if entry.get("needed"):
        return _parameter(name, kind, made)
    return _parameter(name, kind if default is not None else kind | None, made, default)


def _classed(key: str, entry: Entry) -> list[PlacedOption]:
    """Return the options of a class without those that the entry excludes."""
    left, groups, known = entry.get("without", ()), entry.get("groups without", ()), placed(Scenario)
    listed = (known[p.name] for p in options_of(CLASSES[key]))
    return [p for p in listed if p.name not in left and p.group not in groups]


def parameters(options: Mapping[str, Entry | None]) -> Iterator[inspect.Parameter]:
    """Return the parameters of a command's function, in the order of its options."""
    for name, entry in options.items():
        if name in CLASSES:
            yield from map(of_scenario, _classed(name, entry or {}))
        elif known := entry or LISTED["options"].get(name):
            yield of_entry(name, known)
        else:
            option = placed(Scenario)[name]
            yield of_scenario(option, needed=option.option.kind is object)


def command(name: str, entry: Entry) -> Callable[..., None]:
    """Return the function of a command, with the signature that its entry describes."""
    options: Mapping[str, Any] = entry.get("options", {})
    classed = [p.name for key in CLASSES if key in options for p in _classed(key, options[key] or {})]

    def run(**given: Any) -> None:
        placed_options = {n: x for n in classed if (x := given.pop(n)) is not None}
        _call(name, entry, given, _without_client(name, placed_options, classed))

    run.__signature__ = inspect.Signature(list(parameters(options)))  # type: ignore[attr-defined]  # typer reads it
    run.__annotations__ = {p.name: p.annotation for p in run.__signature__.parameters.values()}  # type: ignore[attr-defined]  # `__signature__` is of no function by its stubs
    run.__doc__ = entry["help"]
    return run


def _without_client(name: str, options: dict[str, Any], known: list[str]) -> dict[str, Any]:
    """Replace a client's command by the options that it gives, and print them on stderr."""
    if "client" not in options:
        return options
    from ...simulator.scenario.clients import read_client, spelled_out

    usual = placed(Scenario)
    texts, ignored = read_client(options["client"])
    given = {n: x for n, x in options.items() if n not in texts or x != usual[n].default}
    out = {n: x for n, x in spelled_out(given, Scenario).items() if n in known}
    said = " ".join(f"{usual[n].flag} {x}" for n, x in texts.items() if n in out and n not in given)
    parts = {"ignored": ignored, f"not used, as {name} sets them": [usual[n].flag for n in texts if n not in known]}
    notes = "".join(f"; {what}: {', '.join(flags)}" for what, flags in parts.items() if flags)
    print(f"opbyte: --client says {visible(said + notes)}", file=sys.stderr)
    return out


def _call(name: str, entry: Entry, given: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Call a command's function with the given options, print its result, and set the exit code."""
    module, _, function = entry["call"].partition(":")
    target = getattr(import_module(f"..{module}", __package__), function)
    if module.startswith("commands."):
        target(SimpleNamespace(**given, options=options))
        return
    as_json, out, fresh = (given.pop(n, None) for n in ("as_json", "out", "fresh"))
    sets = {n: given.pop(n) for n in entry.get("sets", ())}
    arguments = {_named(n, entry): _read(n, x, entry) for n, x in given.items()}
    kept = None if fresh is None else resumed(name.replace(" ", "-"), fresh)
    more = {} if kept is None else {"kept": kept}

    def make(**progress: Any) -> Any:
        result = target(**arguments, **options, **more, **progress)
        return replace(result, **sets) if sets else result

    told(answer(make, out, bool(as_json), counted=entry.get("counted", ""), kept=kept, waits=entry.get("waits", True)))


def _named(name: str, entry: Entry) -> str:
    return str((entry["options"][name] or {}).get("as", name))


def _read(name: str, value: Any, entry: Entry) -> Any:
    """Return an option's value in the form that the command's function takes."""
    how = (entry["options"][name] or {}).get("read")
    return value if how is None or value is None else READERS[how](value, f"--{name}")


def words(text: str, option: str) -> list[str]:
    """Read comma-separated names."""
    return [name.strip() for name in text.split(",") if name.strip()]


def counts(text: str, option: str) -> list[int]:
    """Read comma-separated whole numbers from 1."""
    numbers = []
    for part in map(str.strip, text.split(",") if text.strip() else ()):
        if not part.isdecimal() or int(part) < 1:
            raise InputError(option, f"must be a comma-separated list of numbers from 1 on, not {part!r}")
        numbers.append(int(part))
    return numbers


def reals(text: str, option: str) -> list[float]:
    """Read comma-separated numbers above 0."""
    try:
        return [check_rate(float(part), option) for part in words(text, option)]
    except ValueError:
        raise InputError(option, f"must be a comma-separated list of numbers above 0, not {text!r:.40}") from None


def goals(text: str, option: str) -> dict[str, str]:
    """Read objectives with their directions (NAME:max or NAME:min)."""
    pairs = [entry.strip().partition(":") for entry in text.split(",")]
    if not all(name and colon for name, colon, _ in pairs):
        raise InputError(option, f"must be a comma-separated list of NAME:max or NAME:min, not {text!r}")
    return {name: goal for name, _, goal in pairs}


READERS: Mapping[str, Callable[[str, str], Any]] = {"words": words, "counts": counts}


class _Group(typer.core.TyperGroup):
    """A group whose usual command needs no name: ``opbyte calibrate TABLES --device D``."""

    usual = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if self.usual and args and args[0] not in (*self.commands, "-h", "--help"):
            args = [self.usual, *args]
        return super().parse_args(ctx, args)


def _group(name: str, entry: Entry) -> App:
    """Return a group of commands, which refuses a call without a command."""

    def top(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            raise InputError(f"opbyte {name}", f"needs {entry['needs']}")

    top.__doc__ = entry["help"]
    kind = type("Group", (_Group,), {"usual": entry.get("usual", "")})
    group = App(help=entry["help"], rich_markup_mode=None, cls=kind)
    group.callback(invoke_without_command=True)(top)
    for inner, settings in entry["commands"].items():
        group.command(inner)(command(f"{name} {inner}", settings))
    return group


for _entries in LISTED["panels"].values():
    for _name, _entry in _entries.items():
        if "commands" in _entry:
            app.add_typer(_group(_name, _entry), name=_name)
        else:
            app.command(_name)(command(_name, _entry))
