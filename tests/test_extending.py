"""Can OpByte be extended from outside: by scripts, and by packages through their entry points?

The extensions are the files of docs/extending.md, one of each thing, so what is read there is what
is tested here: as a package whose modules the group ``opbyte.plugins`` names, laid out as an installer
leaves it. Commands run in processes of their own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from opbyte.devices.cost import Cost, Roofline
from opbyte.devices.kinds import PROCESSOR_KINDS, Described, processor_kind
from opbyte.simulator.engine.orders import ORDERS
from opbyte.simulator.engine.policies import POLICIES, make_policy
from opbyte.simulator.fleet.routers import ROUTERS
from opbyte.workloads.errors import InputError
from opbyte.workloads.layers import LAYER_KINDS, Routed, layer_kind
from opbyte.workloads.ops import Op
from opbyte.workloads.registry import Registry
from opbyte.workloads.requests import FORMATS, request_format

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("extending*.md"))
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
FILES = dict(re.findall(r"^<!-- file: (\S+) -->\n+```\w*\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
SCRIPTS = sorted(name for name in FILES if name.endswith(".py"))
PACKAGE = "rules_from_outside"


def install(folder: Path, name: str, modules: dict[str, str]) -> None:
    """Lay a package with entry points into a folder as an installer would."""
    package = folder / name
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for module, text in modules.items():
        (package / f"{module}.py").write_text(text)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    entries = "".join(f"{name}-{module} = {name}.{module}\n" for module in modules)
    (info / "entry_points.txt").write_text(f"[opbyte.plugins]\n{entries}")


@dataclass(frozen=True)
class Outside:
    """A folder with the document's files, and how Python runs there."""

    folder: Path
    site: Path | None = None

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        paths = [str(ROOT / "src"), *([str(self.site)] if self.site else [])]
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def refused(self, *arguments: str) -> str:
        """The one line on stderr of a command that ends with code 2."""
        run = self.python("-m", "opbyte", *arguments)
        assert (run.returncode, run.stdout) == (2, "")
        (line,) = run.stderr.splitlines()
        return line


@pytest.fixture
def bare(tmp_path: Path) -> Outside:
    """The document's files; nothing is installed."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return Outside(tmp_path)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    """The document's scripts as the modules of a package with entry points."""
    folder = tmp_path_factory.mktemp("outside")
    work, site = folder / "work", folder / "site"
    work.mkdir()
    for name in set(FILES) - set(SCRIPTS):
        (work / name).write_text(FILES[name])
    install(site, PACKAGE, {name.removesuffix(".py"): FILES[name] for name in SCRIPTS})
    return Outside(work, site)


# As scripts


def test_scripts_add_and_run(bare: Outside) -> None:
    """One after another in one process."""
    runs = "".join(f"print('== {name}'); runpy.run_path({name!r}, run_name='__main__')\n" for name in SCRIPTS)
    run = bare.python("-c", f"import runpy\n{runs}")
    assert run.returncode == 0, run.stderr[-2000:]
    told = dict(part.split("\n", 1) for part in run.stdout.split("== ")[1:])
    assert list(told) == SCRIPTS
    assert all(map(str.strip, told.values()))


def test_there_is_one_of_each() -> None:
    assert sorted(
        f"{name}.py"
        for name in ("placement_rule", "cache_policy", "expert_placement", "router", "order", "engine_part", "layer_kind", "part_with_options",
                     "processor_kind", "trace_format", "experiment", "kernel")
    ) == SCRIPTS  # fmt: skip


# As a package


LISTED = {
    "placements": ("energy-delay", "Each op where energy times time is least"),
    "expert-caches": ("least-often", "The one with the fewest uses for its age leaves"),
    "expert-placements": ("strided", "Expert e on device e modulo their number"),
    "routers": ("two-choices", "The less loaded of two replicas that the request's number picks"),
    "orders": ("deadline", "First whose answer is due first: half a second, and 20 ms for each"),
    "parts": ("late-decodes", "Prompts over a length wait while decodes are late"),
    "layers": ("adapters", "A dense block, and low-rank adapters of which a router picks some"),
    "processors": ("systolic", "A systolic array, whose matrix products fill whole passes"),
    "traces": ("calls", "Calls of a gateway in characters, four of them a token"),
    "experiments": ("llama-size", "Parameters of Llama 3 8B as its model card has them"),
    "kernels": ("residual", "Residual added to the hidden states"),
}


EVERY = """
import contextlib, io, json, sys
from opbyte.analysis.cli import main
found = []
for line in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = main(line)
        except SystemExit as ended:
            code = ended.code
    found.append((code or 0, out.getvalue(), err.getvalue()))
print(json.dumps(found))
"""
Answer = tuple[int, str, str]


def said(where: Outside, *commands: Sequence[str]) -> list[Answer]:
    """Exit code, stdout and stderr of commands, in one process."""
    run = where.python("-c", EVERY, json.dumps(commands))
    assert run.returncode == 0, run.stderr[-2000:]
    return [tuple(answer) for answer in json.loads(run.stdout)]


def listed(answers: Sequence[Answer]) -> dict[str, dict[str, Any]]:
    """What `opbyte list` says of every kind."""
    return {kind: json.loads(out) for kind, (_, out, _) in zip(LISTED, answers, strict=True)}


LISTS = [("list", kind, "--json") for kind in LISTED]
SIMULATE = ("simulate", "llama-3-8b", "--system", "h100-x1", "--rate", "20", "--requests", "40",
            "--input-len", "300", "--output-len", "10", "--json")  # fmt: skip
COMMANDS = {
    "router and order": (*SIMULATE, "--replicas", "3", "--router", "two-choices", "--policy", "chunked+deadline"),
    "capacity": (
        "capacity", "llama-3-8b", "--systems", "h100-x1", "--slo", "ttft_p99=1", "--workers", "1",
        "--requests", "60", "--input-len", "300", "--output-len", "10", "--replicas", "2",
        "--router", "two-choices", "--policy", "vllm+deadline", "--tolerance", "1", "--json",
    ),
    "placement": ("roofline", "mixtral-8x7b", "--system", "duplex-plain-x4", "--placement", "energy-delay", "--json"),
    "layer kind": ("inspect", "adapters.json", "--json"),
    "trace": ("simulate", "llama-3-8b", "--system", "systolic.yaml", "--trace", "calls.csv", "--json"),
    "experiment": ("reproduce", "llama-size", "--json"),
}  # fmt: skip
SYSTOLIC = FILES["systolic.yaml"]
WRONG = {
    "none.yaml": (re.sub(r" +parameters.*\n", "", SYSTOLIC), "all parameters of kind systolic and no others: rows"),
    "typo.yaml": (SYSTOLIC.replace("{rows:", "{row:"), "all parameters of kind systolic and no others: rows"),
    "kind.yaml": (SYSTOLIC.replace("kind: systolic", "kind: systolc"), "did you mean 'systolic'?"),
}
"""Files of a processor kind's parameters, and what is said of them."""


@pytest.fixture(scope="module")
def answers(installed: Outside) -> list[Answer]:
    """Of every list, of `COMMANDS`, and of what is wrong, in one process with the package."""
    for name, (text, _) in WRONG.items():
        (installed.folder / name).write_text(text)
    refused = [("roofline", "llama-3-8b", "--system", name) for name in WRONG]
    return said(installed, *LISTS, *COMMANDS.values(), *refused)


@pytest.fixture(scope="module")
def done(answers: list[Answer]) -> dict[str, dict[str, Any]]:
    """What `COMMANDS` said."""
    found = {}
    for name, (code, out, err) in zip(COMMANDS, answers[len(LISTS) : -len(WRONG)], strict=True):
        assert code == 0, err
        found[name] = json.loads(out)
    return found


@pytest.fixture(scope="module")
def with_package(answers: list[Answer]) -> dict[str, dict[str, Any]]:
    return listed(answers[: len(LISTS)])


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return listed(said(Outside(tmp_path_factory.mktemp("bare")), *LISTS))


@pytest.mark.parametrize("kind", LISTED)
def test_lists_show_what_a_package_adds(
    kind: str, with_package: dict[str, dict[str, Any]], without: dict[str, dict[str, Any]]
) -> None:
    name, title = LISTED[kind]
    items = with_package[kind]["items"]
    (mine,) = (item for item in items if item["name"] == name)
    assert mine["title"].startswith(title)
    assert not mine["title"].endswith(".")
    assert all(item["title"] for item in items)
    assert name not in without[kind]["names"]


def test_simulate_takes_router_and_order(done: dict[str, dict[str, Any]]) -> None:
    found = done["router and order"]
    assert (found["requests"], found["policy"]) == (40, "chunked+deadline")


def test_capacity_takes_router_and_order(done: dict[str, dict[str, Any]]) -> None:
    assert [row["load_per_s"] > 0 for row in done["capacity"]["rows"]] == [True]


def test_roofline_takes_the_placement(done: dict[str, dict[str, Any]]) -> None:
    assert done["placement"]["placement"] == "energy-delay"


def test_a_layer_kind_with_experts_is_inspected_and_dealt(installed: Outside, done: dict[str, dict[str, Any]]) -> None:
    counts = done["layer kind"]
    assert (counts["moe_layers"], counts["experts"], counts["top_k"]) == (16, 8, 2)
    # Llama 3.2 1B has 1,235,814,400 parameters (its model card: 1.23 B); 16 layers of 8 adapters of
    # two matrices of 2048 x 64, and a router of 8 rows.
    dense = 1_235_814_400
    assert counts["total_params"] == dense + 16 * (8 * 2 * 2048 * 64 + 8 * 2048)
    assert counts["active_params"] == dense + 16 * (2 * 2 * 2048 * 64 + 8 * 2048)
    script = """
from opbyte import load_model, load_system
from opbyte.simulator.deploy.deployment import deploy
d = deploy(load_model("adapters.json"), load_system("h100-x4"), tp=1, dp=4)
print(d.lockstep, d.layout.ep, {part.ep for part in d.experts}, d.experts[0].spec.held)
"""
    assert installed.python("-c", script).stdout.split("\n")[0] == "True 4 {4} 2"


def test_simulate_reads_the_trace_and_evidence_names_the_cost_model(done: dict[str, dict[str, Any]]) -> None:
    found = done["trace"]
    # Characters of calls.csv over four.
    assert found["prompt_tokens"] == 1000 + 225 + 3000
    assert found["output_tokens"] == 200 + 300 + 75
    assert "systolic array" in {row["cost_model"] for row in found["evidence"]}


def test_reproduce_runs_the_experiment(done: dict[str, dict[str, Any]]) -> None:
    assert done["experiment"]["rows"][0]["id"]


def test_a_program_finds_plug_ins_at_the_first_unknown_name(installed: Outside) -> None:
    script = """
import sys
from opbyte.simulator.fleet.routers import ROUTERS
ROUTERS["vllm"]
assert "rules_from_outside" not in sys.modules, "loaded too early"
ROUTERS["two-choices"]
from opbyte.simulator.deploy.placement import PLACEMENTS
assert "energy-delay" in tuple(PLACEMENTS)
"""
    run = installed.python("-c", script)
    assert run.returncode == 0, run.stderr


# What is wrong is one line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import no_such_module_here", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        (FILES["router.py"].replace("return min", "return -1 - min"),
         "router 'two-choices' cannot be registered: its choice must be the number of a replica"),
        (FILES["router.py"].replace("two-choices", "vllm"), "router 'vllm' is registered twice"),
    ],
)  # fmt: skip
def test_a_broken_plug_in_is_one_line(text: str, says: str, tmp_path: Path) -> None:
    install(tmp_path / "site", "broken_rules", {"rules": text})
    command = ("simulate",) if "raise" in text else ("list", "models")
    line = Outside(tmp_path, tmp_path / "site").refused(*command)
    assert line.startswith("opbyte: error: plug-in 'broken_rules-rules' of broken_rules 1.0: cannot")
    assert "broken_rules.rules" in line
    assert says in line


def refusal(add: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        add()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def undescribed(*_: Any) -> Any:
    return 0


def test_everything_listed_needs_a_line() -> None:
    for registry in (ROUTERS, ORDERS):
        line = refusal(lambda r=registry: r.register("nameless")(undescribed))
        assert "needs a docstring" in line
        assert "nameless" not in registry
    assert "needs a docstring" in refusal(lambda: request_format("nameless", ("a",))(undescribed))


def one_for_all(requests: Any) -> Any:
    """One key for all."""
    return 1.0


def no_number(requests: Any) -> Any:
    """Not a number."""
    return requests.arrival_s * float("nan")


def last_replica(count: int, loads: Any, home: Any = None) -> Any:
    """One too many."""
    return len(loads)


@pytest.mark.parametrize("order", [one_for_all, no_number])
def test_an_order_gives_a_key_a_request(order: Any) -> None:
    line = refusal(lambda: ORDERS.register("wrong")(order))
    assert line.startswith("order 'wrong': cannot be registered: its keys must be one finite number")
    assert "wrong" not in ORDERS


def test_a_router_names_a_replica() -> None:
    line = refusal(lambda: ROUTERS.register("wrong")(last_replica))
    assert line.endswith("its choice must be the number of a replica, not 2")


def test_an_order_is_known_before_a_policy_has_it() -> None:
    known = make_policy("vllm+shortest-prompt")
    assert known == replace(POLICIES["vllm"], name="vllm+shortest-prompt", order="shortest-prompt")
    line = refusal(lambda: make_policy("vllm+shortest-promt"))
    assert line.startswith("--policy 'vllm+shortest-promt': unknown order; did you mean 'shortest")
    assert "unknown policy" in refusal(lambda: make_policy("vlm+shortest-prompt"))
    other = replace(POLICIES["vllm"], name="mine", order="nothing")
    assert "unknown order" in refusal(lambda: POLICIES.register("mine", "Mine")(other))


class TwicePriced(Roofline):
    """Forgets that simulations read rows."""

    __slots__ = ()

    def cost(self, op: Op) -> Cost:
        once = super().cost(op)
        return replace(once, seconds=2 * once.seconds)


def twice_priced(described: Described) -> Any:
    """Two prices of one op."""
    base = described.base
    return TwicePriced(*(getattr(base, field.name) for field in fields(base)))


def no_model(described: Described) -> Any:
    """No cost model at all."""
    return described.base.peak


def forgetful(described: Described) -> Any:
    """Asks for a number that it does not name."""
    return described.parameters["rows"]


@pytest.mark.parametrize(
    ("model_of", "says"),
    [
        (twice_priced, r"its cost model is inconsistent for qkv: \S+ s by `cost`, \S+ s by `row`"),
        (no_model, "its cost model lacks cost, row, evidence, roof"),
        (forgetful, "KeyError: 'rows'"),
    ],
)
def test_a_processor_kind_that_cannot_work_is_refused(model_of: Any, says: str) -> None:
    assert re.search(says, refusal(lambda: processor_kind("wrong")(model_of)))
    assert "wrong" not in PROCESSOR_KINDS


def test_parameters_of_a_kind_are_checked(answers: list[Answer]) -> None:
    for (_, says), (code, out, err) in zip(WRONG.values(), answers[-len(WRONG) :], strict=True):
        assert (code, out) == (2, "")
        (line,) = err.splitlines()
        assert says in line
        assert "processors.xpu" in line


@dataclass
class Thawed:
    """Not frozen."""


@dataclass(frozen=True)
class Unfinished:
    """Experts without what serves them."""

    hidden: int = 1
    routed = Routed(8, 2)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Thawed, "it must be a frozen dataclass"),
        (Unfinished, "lacks weights, state, shard, ops, shard_experts, expert_op"),
    ],
)
def test_a_layer_kind_that_lacks_something_is_refused(kind: Any, says: str) -> None:
    assert says in refusal(lambda: layer_kind("wrong")(kind))
    assert "wrong" not in LAYER_KINDS


def test_two_formats_need_columns_of_their_own() -> None:
    def again(path: Path) -> Any:
        """Azure's columns."""

    azure = FORMATS["azure"].columns
    assert "its columns already identify format 'azure'" in refusal(lambda: request_format("again", azure[::-1])(again))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("5,40,40\n1,40,40\n", "the reader of this format returned arrivals that are not sorted by time"),
        ("0,-8,40\n", "the reader of this format returned requests of less than one token"),
    ],
)
def test_what_a_reader_gives_is_checked(lines: str, says: str, installed: Outside) -> None:
    header = FILES["calls.csv"].partition("\n")[0]
    script = FILES["trace_format.py"].replace("np.maximum(chars // 4, 1)", "(chars // 4)")
    (installed.folder / "reader.py").write_text(script)
    (installed.folder / "calls.csv").write_text(f"{header}\n{lines}")
    try:
        bare = Outside(installed.folder)
        assert says in bare.python("reader.py").stderr.splitlines()[-1]
    finally:
        (installed.folder / "calls.csv").write_text(FILES["calls.csv"])


def test_a_registry_names_what_it_holds() -> None:
    """Titles are first lines without a stop; a title may be given; an unknown name says nearest."""
    things: Registry[Any] = Registry("thing")
    things.register("plain")(one_for_all)
    things.register("titled", "A title")(3)
    assert (things.title("plain"), things.title("titled")) == ("One key for all", "A title")
    assert things.names() == ("plain", "titled")
    assert "unknown thing; did you mean 'plain'?" in refusal(lambda: things["plane"])
    assert "is registered twice" in refusal(lambda: things.register("plain")(no_number))
