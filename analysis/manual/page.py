"""Generator of the reference page: all commands, options, keys, columns, metrics and names in Markdown.

``python -m opbyte.analysis.manual`` writes it to docs/reference.md; a test holds that page to this
module. Everything stands where it is used, in options, specs and registries, and is only collected here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ...simulator.quantity import Quantity
from ..reference.keys import Block, attributes, blocks

HEAD = """\
# Reference

**Which commands, options, file keys, columns and names exist?**

Every command, option, file key, column and name. Written by `python -m opbyte.analysis.manual` from the
options, specs and registries themselves; see [guide.md](guide.md) for how they go together.
`opbyte init KIND` prints a commented file to start from, `opbyte init KIND --schema` a JSON schema for
editors, `opbyte list KIND` what registries hold here, plug-ins among them.
"""


def page() -> str:
    """Return the whole reference page."""
    parts = [HEAD, *_commands(), *_options(), *_files(), *_columns(), *_names()]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, with vertical bars in cells escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _commands() -> Iterator[str]:
    """Yield every command with its options; options that several commands share are listed once."""
    import typer

    from ...simulator.option import placed
    from ...simulator.scenario.scenario import Scenario
    from ..cli import main  # noqa: F401  # its import adds every command
    from ..commands.app import app

    yield "## Commands\n"
    top: Any = typer.main.get_command(app)
    leaves = [(name, command, _rows(command)) for name, command in sorted(_leaves(top))]
    users = Counter(row for *_, rows in leaves for row in rows)
    head = ("argument or option", "default", "what it is")
    of_scenarios = [p.flag for p in placed(Scenario).values()]
    names = Counter(_named(row) for row, n in users.items() if n > 1)
    shared = {row for row, n in users.items() if n > 2 or (n > 1 and names[_named(row)] == 1)}
    common = (row for row in shared if _named(row) not in of_scenarios)
    yield "### Options of several commands\n"
    yield "Those that describe a run are [options of a scenario](#options-of-a-scenario).\n"
    yield _table(head, sorted(common)) + "\n"
    for name, command, rows in leaves:
        yield f"### opbyte {name}\n"
        yield (command.help or "").strip() + "\n"
        special = [row for row in rows if row not in shared]
        if special:
            yield _table(head, special) + "\n"
        special_names = {_named(row) for row in special} | {"--model"}
        yield from _shared(
            [_named(row) for row in rows if row in shared], [n for n in of_scenarios if n not in special_names]
        )


def _shared(options: Sequence[str], of_scenarios: Sequence[str]) -> Iterator[str]:
    """Name the options that a command shares with others; if they are most of a scenario's, those that it lacks."""
    lacks, said = [f"`{name}`" for name in of_scenarios if name not in options], []
    if len(lacks) < len(of_scenarios) / 2:
        said.append(f"All [options of a scenario](#options-of-a-scenario){' but ' if lacks else ''}{', '.join(lacks)}.")
        options = [name for name in options if name not in of_scenarios]
    if options:
        said.append(f"Options of several commands: {', '.join(f'`{name}`' for name in options)}.")
    if said:
        yield " ".join(said) + "\n"


def _named(row: tuple[str, str, str]) -> str:
    """Return the name of the argument or option in a row."""
    return row[0].strip("`").split()[0]


def _rows(command: Any) -> list[tuple[str, str, str]]:
    """Return one row per argument or option of a command."""
    params = (one for one in command.params if one.name != "help")
    return [(f"`{_written(one)}`", _default(one), getattr(one, "help", None) or "") for one in params]


def _leaves(command: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from _leaves(inner, f"{before}{name} ")
        else:
            yield f"{before}{name}", inner


def _written(parameter: Any) -> str:
    """Return a parameter as the user types it."""
    metavar = parameter.metavar or "TEXT"
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or (parameter.name or "").upper())
    name = max(parameter.opts, key=len)
    return name if parameter.is_flag else f"{name} {metavar}"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    value = parameter.default
    if value is None or value is False or value in ("", ()) or not isinstance(value, (str, int, float)):
        return "-"
    return str(value)


def _options() -> Iterator[str]:
    from ...simulator.option import ALIASES, placed
    from ...simulator.scenario.scenario import Scenario

    yield "## Options of a scenario\n"
    yield (
        "The same in `opbyte.Scenario`, as parameters of a sweep, and on the command line with dashes for "
        "underscores.\n"
    )
    options = placed(Scenario)
    pooled = [n for n in options if n.startswith(("prefill_", "decode_")) and n.partition("_")[2] in options]
    kinds = {int: "whole number", float: "number", str: "text", tuple: "texts"}
    yield _table(
        ("option", "kind", "unit", "range", "default", "what it is"),
        (
            (f"`{name}`", kinds.get(p.option.kind, "name, file or description"), p.option.unit or "-",
             _range(p.option.low, p.option.high), "-" if p.default in (None, ()) else str(p.default),
             p.option.help)
            for name, p in options.items() if name not in pooled
        ),
    ) + "\n"  # fmt: skip
    yield f"The same of the devices that prefill or decode: {', '.join(f'`{name}`' for name in pooled)}.\n"
    yield "Names of other tools that mean an option here:\n"
    there: dict[str, list[str]] = {}
    for name, here in ALIASES.items():
        there.setdefault(here, []).append(f"`{name}`")
    yield _table(("here", "there"), ((f"`{here}`", ", ".join(names)) for here, names in there.items())) + "\n"


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return "-"
    return f"{low:g} to {high:g}" if high is not None and high < 2**31 - 1 else f"{low:g} or more"


def _files() -> Iterator[str]:
    from ...devices.dram.spec import DramSpec
    from ...devices.spec import SystemSpec
    from ...workloads.specfile import UNITS

    yield "## Keys of device and system files\n"
    yield (
        "Numbers carry their unit in the key (`bandwidth_GBps`) and a source: `{value: 80, source: ...}`, or the source "
        "of their block. `extends: NAME` starts from another description, `null` drops an inherited key.\n"
    )
    yield "Units of keys, in SI:\n"
    units: dict[str, list[str]] = {}
    for unit, (si, factor) in UNITS.items():
        units.setdefault(_si(si), []).append(f"`_{unit}` {_factor(factor)}")
    yield (
        _table(("unit", "endings of keys, and their factors"), ((si, ", ".join(all_)) for si, all_ in units.items()))
        + "\n"
    )
    for block in blocks(SystemSpec):
        yield from _block(block)
    yield "## Keys of a memory's file\n"
    yield "A DRAM standard (`opbyte init memory`), for `--memory` of `opbyte dram` and `layout`.\n"
    for block in blocks(DramSpec):
        yield from _block(block)
    yield from _policy()


def _factor(value: float) -> str:
    """Return a unit's factor as text, with powers of two as such.

    >>> _factor(2.0**30), _factor(1e12), _factor(1e-6)
    ('2^30', '1e+12', '1e-06')
    """
    power = int(value).bit_length() - 1
    return f"2^{power}" if value == 2.0**power and power > 0 else f"{value:g}"


def _si(suffix: str) -> str:
    """Return a unit in usual notation: J_per_byte becomes J/byte.

    >>> _si("bytes_per_s")
    'bytes/s'
    """
    return suffix.replace("_per_", "/")


def _policy() -> Iterator[str]:
    """Yield the section on the keys of a policy, as `opbyte show` prints them."""
    from dataclasses import fields

    from ...simulator.engine.policies import Policy

    yield "## Keys of a policy\n"
    yield "As `opbyte show ENTRY` prints one of `opbyte list policies`.\n"
    meanings = {"name": "Its name in results."} | attributes(Policy.__doc__ or "")
    rows = ((f"`{f.name}`", meanings[f.name]) for f in fields(Policy))
    yield _table(("key", "what it is"), rows) + "\n"


def _block(block: Block) -> Iterator[str]:
    yield f"### {block.name}\n"
    yield block.text + "\n"
    names: dict[tuple[str, str, str, str], list[str]] = {}  # keys that one text describes are one row
    for key in block.keys:
        names.setdefault((", ".join(key.units) or "-", key.kind, key.default, key.text), []).append(f"`{key.name}`")
    yield (
        _table(("key", "units", "kind", "default", "what it is"), ((", ".join(n), *row) for row, n in names.items()))
        + "\n"
    )


def _columns() -> Iterator[str]:
    """Yield the sections on keys of engine files, columns of kernel tables and metrics of sweeps."""
    from ...simulator.frameworks.engine_file import KEYS
    from ...workloads.kernel_schemas import DTYPES, SCHEMAS, TIMINGS
    from ..studies.sweep.point import BASES

    yield "## Keys of an engine file\n"
    for engine, (keys, only) in KEYS.items():
        yield f'With `"engine": "{engine}"`: {", ".join(f"`{key}`" for key in keys if key not in only)}.\n'
        yield "Read, and refused with any other value:\n"
        same: dict[tuple[str, str], list[str]] = {}  # keys that one reason refuses are one row
        for key, (value, why) in only.items():
            same.setdefault((str(value), why), []).append(f"`{key}`")
        yield _table(("keys", "only", "why"), ((", ".join(names), *row) for row, names in same.items())) + "\n"
    yield "## Columns of kernel tables\n"
    yield (
        "All have `source, device, kernel, dtype`, their shape, `timing` and `measured_s` [s]. Formats: "
        f"{', '.join(DTYPES)}. Timings: {', '.join(TIMINGS)}.\n"
    )
    yield (
        _table(
            ("family", "shape", "kernels"),
            ((f"`{name}.csv`", ", ".join(s.shape), ", ".join(s.kernels) or "any") for name, s in SCHEMAS.items()),
        )
        + "\n"
    )
    yield "## Metrics of a sweep\n"
    yield (
        "Columns of `points.csv`, for constraints and objectives, are the [metrics](#metrics); `_s` is seconds, `_mm2` square "
        f"millimetres. A part's metrics are present if the point uses the part. Any percentile of a latency may be named, "
        f"such as `ttft_s_p95`. Two more columns, {' and '.join(f'`{name}`' for name in BASES)}, are texts.\n"
    )
    yield from _of_parts()


def _of_parts() -> Iterator[str]:
    from ...simulator.registry import PARTS

    yield "## Values of parts\n"
    yield "Values of each part in the JSON of a result (`opbyte list parts`).\n"
    figures = ((name, part.hook("figures")) for name, part in PARTS.items())
    rows = ((f"`{name}`", "; ".join(_told(f.quantities, f.key)) + ".") for name, f in figures if f is not None)
    yield _table(("part", "values"), rows) + "\n"


def _told(quantities: Sequence[Quantity], above: str) -> Iterator[str]:
    """Yield the path and meaning of each quantity, including nested quantities."""
    for q in quantities:
        path = f"{above}.{q.name}" if above else q.name
        yield f"`{path}` {q.meaning.removesuffix('.')}"
        yield from _told(q.inside, path)


NAMED_ELSEWHERE = (
    "models",
    "devices",
    "systems",
    "prices",
    "memories",
    "hosts",
    "traces",
    "spaces",
    "benchmarks",
    "experiments",
)
"""Catalog lists that are too long for the page, because they grow with every file of the catalog."""


STATISTIC = re.compile(r", (mean|\d+th percentile)(?= \[)")


def _names() -> Iterator[str]:
    """Yield the section on names of the catalog that no other page lists."""
    from ...workloads.ops import OP_KINDS
    from ..names import LISTS, catalog

    yield "## Names\n"
    yield f"Of {', '.join(NAMED_ELSEWHERE)} see `opbyte list`, and `opbyte show ENTRY` for one of them.\n"
    yield "### kinds of op\n"
    yield "For `runs` and `excludes` of a processor.\n"
    yield (_table(("kind", "what it is"), ((f"`{k}`", kind.meaning) for k, kind in OP_KINDS.items())) + "\n")
    for kind in LISTS:
        if kind in NAMED_ELSEWHERE:
            continue
        yield f"### {kind}\n"
        rows: dict[str, list[str]] = {}  # statistics of one quantity are one row
        for row in catalog(kind):
            rows.setdefault(STATISTIC.sub("", str(row.get("title", ""))), []).append(f"`{row['name']}`")
        table = ((", ".join(dict.fromkeys(names)), title) for title, names in rows.items())
        yield _table(("name", "what it is"), table) + "\n"
