"""Published measurements of servers as one table of points: system, model, load, metric, value.

A row is one value of one deployment under one load; rows that differ only in metric and value are one point. The
columns are the same as in ``$OPBYTE_DATA/real_runs`` (docs/accuracy.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ....devices.calibrated.libraries import BLACKWELL, generation
from ....devices.catalog import device_names, load_device
from ....workloads.csvfile import header_of, numbers, read_whole
from ....workloads.errors import InputError
from ...answers.benchmarks import BENCHMARKS, OFFLINE, SERVER

TEXTS = ("source", "device", "model", "framework", "precision", "parallelism", "isl", "osl",
         "load", "metric", "unit", "note")  # fmt: skip
COLUMNS = (*TEXTS, "count", "value")
MOST = 1e12

UNITS: Mapping[str, float] = {
    "s": 1.0, "ms": 1e-3, "us": 1e-6, "w": 1.0, "j": 1.0, "1/s": 1.0, "tokens/s": 1.0, "1": 1.0,
}  # fmt: skip
"""What a value of a unit, in lower case, is multiplied by to be in SI."""
FORMATS: Mapping[str, str | None] = {
    "bf16": None, "bfloat16": None, "fp16": None, "float16": None, "16bit": None, "": None,
    "fp8": "fp8", "fp8_block": "fp8_block", "fp4": "nvfp4", "nvfp4": "nvfp4", "mxfp4": None,
    "int4": "int4",
}  # fmt: skip
"""Option ``dtype`` of a precision; None as the checkpoint is."""
FRAMEWORKS: Mapping[str, str] = {"vllm": "vllm", "tensorrt-llm": "trtllm", "tensorrt": "trtllm", "sglang": "sglang"}
"""A framework by the first word of its name."""
VERSIONS: Mapping[tuple[str, str], str] = {("anl", "vllm"): "0.5", ("anl", "trtllm"): "0.11"}
"""Version that a set ran which does not print it, by how its name begins and framework (README of the data set)."""
MAKERS = {"nvidia", "amd", "instinct", "geforce", "gpu", "superchip", "sxm", "cts"}
"""Words of a device's name that tell no device from another."""
FORMS = {"pcie", "nvl", "d", "ti", "ada"}
"""Words of a format; a name with one differs from the name without it."""
NAMED = {"Nvidia A100 GPU": "a100-40gb"}
"""Names that mean another device than they say: of LLM-Inference-Bench, whose A100 have 40 GB."""
SAMPLED = {
    "mlenergy:gpqa": "temperature=0.8,top_p=0.95",
    "mlenergy": "temperature=0.8,top_p=0.95,repetition_penalty=1.1", "silybench": "checkpoint",
}  # fmt: skip
"""What the clients of a set ask for, or leave to the checkpoint, by how its name begins (README of the
data set); an engine's own default for others. Runs of GPQA are taken to ask for no penalties, although
their client is said to: 64 sequences of Qwen3-14B show 2 ms a step beyond a greedy one, chats 4.4."""
RANDOM, FAVOURITES = ("inferencex",), {"deepseek": 0.54, "": 0.91}
"""Sets whose prompts are random tokens, and so text of one kind, for which a router has favourites: exponents of their
popularity within 256 tokens of one text, by a model's name (DeepSeek-V2-Lite in routing/expert_segment_coverage.csv; for others
Qwen3-30B-A3B, the one of 128 experts). Experts are chosen evenly in other sets; where thousands of tokens a step choose, all are read."""
SENT = 10
"""Requests for each client in runs of these sets, all clients starting at once (README of $OPBYTE_DATA/serving_points)."""
LAYOUT = re.compile(r"(tp|pp|dp|ep)(\d+)")
UNTOLD = "ep not stated"
"""Note of a row whose command had no degree of experts: each is then cut over all devices (moe_tp_size of TensorRT-LLM's
``Mapping``, enable_expert_parallel of vLLM, ep_size of SGLang); the column's is a guess."""


@dataclass(frozen=True, slots=True)
class ArrivalPattern:
    """How requests arrive.

    Attributes
    ----------
    kind : str
        "closed" (fixed number in flight), "open" (Poisson), "batch" (all prompts, then all decodes), "saturated" (all
        at once), "offline" and "server" as a benchmark defines them.
    level : float
        Requests in flight, requests a second, sequences of the batch; 0 of a benchmark's.
    requests : int or None
        Of the run, where it is said.
    limit : int or None
        Most sequences that the engine runs at once, where the load is that limit.
    """

    kind: str
    level: float
    requests: int | None = None
    limit: int | None = None

    @property
    def size(self) -> str:
        """Return the class of the concurrency, or the kind of load if that is not a concurrency."""
        return load_class(self.level) if self.kind in ("closed", "batch") else self.kind


CLASSES = (1, 16, 128, 1024)
"""Upper ends of the concurrency classes for reported errors."""


def load_class(clients: float) -> str:
    """Return the class of a number of clients.

    Examples
    --------
    >>> load_class(1), load_class(64), load_class(4096)
    ('1', '17 to 128', '1025 and more')
    """
    low = 1
    for high in CLASSES:
        if clients <= high:
            return f"{low} to {high}" if low < high else f"{high}"
        low = high + 1
    return f"{low} and more"


SATURATED = 6000
"""Most requests of a run that had all of them queued at once: more only make its steady part longer."""
SUBMITTED = {"h100": (2, 896), "h200": (1, 806)}
"""Devices of a replica and sequences at once as NVIDIA's code for submissions of Llama-2-70B has them, by how a device's name
begins (README of the data set). Others have as many devices as score most."""
CAPS = {"MaxQ": 500.0}
"""Power limit of a board by a word of a note [W]: NVIDIA's run of eight H200 for efficiency."""
READERS: Mapping[str, Callable[[float, int | None], ArrivalPattern]] = {
    "concurrency": lambda level, requests: ArrivalPattern("closed", level, requests),
    "max_num_seqs": lambda level, requests: ArrivalPattern("closed", level, requests, int(level)),
    "rate": lambda level, requests: ArrivalPattern("open", level, requests),
    "static_batch": lambda level, _: ArrivalPattern("batch", level),
    "Offline": lambda *_: ArrivalPattern(OFFLINE, 0.0),
    "Server": lambda *_: ArrivalPattern(SERVER, 0.0),
    "saturated": lambda _, n: ArrivalPattern("saturated", min(SATURATED, n or SATURATED), n),
}
"""What a load means, by its first word."""


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """One deployment under one load, with everything published of it.

    Attributes
    ----------
    line : int
        Of its first row in the file; the header is line 1.
    source, device, model : str
        The set; name in the catalog; name on the hub.
    framework, version : str
        Whose kernels and engine; "" where the version is not told.
    dtype : str or None
        Format of weights; None as the checkpoint is.
    layout : mapping of str to int
        tp, pp, dp, ep as far as they are known.
    input_len, output_len : float
        Mean tokens of a prompt and an output; 0 if they are not published.
    kv_dtype : str or None
        Format of the KV cache, where it is not the checkpoint's.
    lengths : str
        How the lengths of requests spread, an option of ``opbyte simulate``.
    guess : mapping of str to int
        `layout` as the column has it, where that is not what the command said.
    benchmark, power_cap
        Whose rules the load is of, "" of none; most that a board drew [W], where that is not its limit.
    command, options, engine
        The command of `opbyte` that the row states, its options by name, and the text of the engine's file; without options
        the command is `simulate` and the options follow from the fields above.
    copies : int
        Equal replicas whose rates add up to the measured one.
    table : str
        Name of the file without its year: what is left out together.
    again : bool
        Whether an earlier run sent the same prompts to the same server, see `_after_fastest`.
    measured : dict of str to float
        By metric, SI units.
    """

    line: int
    source: str
    device: str
    devices: int
    model: str
    framework: str
    version: str
    dtype: str | None
    layout: Mapping[str, int]
    input_len: float
    output_len: float
    load: ArrivalPattern
    kv_dtype: str | None = None
    lengths: str = "fixed"
    guess: Mapping[str, int] = field(default_factory=dict)
    benchmark: str = ""
    power_cap: float | None = None
    measured: dict[str, float] = field(default_factory=dict)
    command: str = "simulate"
    options: Mapping[str, Any] = field(default_factory=dict)
    engine: str = ""
    copies: int = 1
    table: str = ""
    again: bool = False

    @property
    def system(self) -> str:
        """Return the system, whose points have correlated errors."""
        ways = "".join(f" {k}{v}" for k, v in self.layout.items() if v > 1)
        return f"{self.model} {self.device}-x{self.devices}{ways}"

    @property
    def name(self) -> str:
        """Return a name that is unique in the point's set: system, lengths and load."""
        level = f"{self.load.kind} {self.load.level:g}".removesuffix(" 0")
        return f"{self.system} {self.input_len:.0f}+{self.output_len:.0f} {level}"


def device_of(text: str, names: Mapping[str, str]) -> str | None:
    """Return the catalog name of a published device name, without its maker, capitals and memory size.

    Examples
    --------
    >>> known = {"h100": "h100", "h200-sxm": "h200", "rtx-pro-6000": "rtx-pro-6000"}
    >>> device_of("NVIDIA H200-SXM-141GB", known), device_of("RTX-PRO-6000", known)
    ('h200', 'rtx-pro-6000')
    >>> device_of("NVIDIA H100-NVL-94GB", known) is None
    True
    """
    if text in NAMED:
        return NAMED[text]
    words = _words(text)
    known = {_words(name): device for name, device in names.items()}
    for end in range(len(words), 0, -1):
        if words[:end] in known and not FORMS & set(words[end:]):
            return known[words[:end]]
    return None


def _words(text: str) -> tuple[str, ...]:
    return tuple(w for w in re.split(r"[\W_]+", text.lower()) if w and w not in MAKERS)


def is_published(path: Path) -> bool:
    """Whether a table is of this form, by its header."""
    return set(COLUMNS) <= set(header_of(path))


def read_published(path: Path) -> tuple[list[PublishedRun], list[str]]:
    """Return the points of a table, and the skipped rows with their reasons.

    Raises
    ------
    InputError
        No table, a missing column, or a cell that cannot be used.
    """
    columns = read_whole(path, COLUMNS)
    value, count = (numbers(columns["value"], 0.0, MOST), numbers(columns["count"], 1, 2**20, whole=True))
    names = device_names()
    runs: dict[tuple[object, ...], PublishedRun] = {}
    left: dict[tuple[object, ...], str] = {}
    for i, line in enumerate(columns["value"].lines):
        row = {name: str(columns[name].cells[i]) for name in TEXTS}
        key = (int(count[i]), *(x for n, x in row.items() if n not in ("metric", "unit")))
        if key not in runs and key not in left:
            made = _run(line, row, int(count[i]), names)
            if isinstance(made, str):
                left[key] = f"{path}:{line}: {made}"
            else:
                runs[key] = replace(made, table=table_name(path))
        if key in runs:
            runs[key].measured[row["metric"]] = _si(f"{path}:{line}", row["unit"], float(value[i]))
    return list(_after_fastest(runs.values())), list(left.values())


def _after_fastest(runs: Collection[PublishedRun]) -> Iterator[PublishedRun]:
    """Yield the points, marked where an earlier run of the same server had sent the same prompts.

    Runs at several rates with as many requests and the same mean prompt send the same prompts (one seed), so a prefix cache may
    hold them. The fastest run is the first: on eleven servers whose cache holds the prompts and outputs of a run (iog_sharegpt,
    vLLM 0.8.5) it is the only one whose first tokens take longer for longer prompts, and six servers with smaller caches have
    such first tokens in all runs. Three pairs of RTX 4090 without peer access compute all prompts, too; the cause is unknown.
    """
    servers = [(r.system, r.version, r.input_len, r.load.requests) for r in runs]
    rates = [run.load.level if run.load.kind == "open" and run.load.requests else 0.0 for run in runs]
    fastest = dict(sorted(zip(servers, rates, strict=True), key=lambda pair: pair[1]))
    for run, server, rate in zip(runs, servers, rates, strict=True):
        yield replace(run, again=0.0 < rate < fastest[server])


def table_name(path: Path) -> str:
    """Name of a table without a version and years.

    Examples
    --------
    >>> table_name(Path("gpustack_2025_2026.csv")), table_name(Path("mlenergy_v3.csv")), table_name(Path("rows.csv"))
    ('gpustack', 'mlenergy', 'rows')
    """
    return re.sub(r"(_v\d+|_\d{4})+$", "", path.stem)


def _si(where: str, unit: str, value: float) -> float:
    if unit.lower() not in UNITS:
        raise InputError(where, f"unit: must be one of {', '.join(UNITS)}, not {unit[:40]!r}")
    return value * UNITS[unit.lower()]


def _run(line: int, row: Mapping[str, str], count: int, names: Mapping[str, str]) -> PublishedRun | str:
    """Return a point without its values, or the reason why it is skipped."""
    device = device_of(row["device"], names)
    if device is None:
        return f"device {row['device'][:60]!r} is not in the catalog"
    words = row["framework"].lower().split() or [""]
    if words[0] not in FRAMEWORKS:
        return f"framework {row['framework'][:60]!r} is none of {', '.join(FRAMEWORKS)}"
    if row["precision"] not in FORMATS:
        return f"precision {row['precision'][:40]!r} is none of {', '.join(filter(None, FORMATS))}"
    load = _load(row)
    if isinstance(load, str):
        return load
    framework = FRAMEWORKS[words[0]]
    usual = VERSIONS.get((row["source"].partition(":")[0], framework), "")
    version = next((w.strip(",") for w in words[1:] if re.match(r"\d", w)), usual)
    if words[0] == "tensorrt":  # the compiler's: 9 is of TensorRT-LLM 0.9; later ones' executor of C++ hides its host
        version = "0.9" if version.startswith("9.") else ""
    guess = {name: int(n) for name, n in LAYOUT.findall(row["parallelism"])}
    layout = guess | {"ep": 1} if UNTOLD in row["note"] else guess
    model, isl, osl, dtype = (row["model"], _length(row["isl"]), _length(row["osl"]), FORMATS[row["precision"]])
    benchmark = ""
    if load.kind in (OFFLINE, SERVER):  # of 8 bits, on Blackwell of 4, whatever the column says of the reference's
        benchmark = next((known for known in BENCHMARKS if known.startswith("mlperf-") and known[7:] in model), "")
        if not benchmark:
            return f"model {model[:40]!r} is none of MLPerf's that are known: {', '.join(BENCHMARKS)}"
        rules, new = BENCHMARKS[benchmark], generation(load_device(device)[0]) >= BLACKWELL
        size, most = next((known for name, known in SUBMITTED.items() if device.startswith(name)), (0, None))
        if rules.model == "llama-2-70b":
            layout, load = {"tp": size}, replace(load, limit=most)
        model, isl, osl, dtype = rules.model, rules.input_len, rules.output_len, "nvfp4" if new else rules.dtype
    cap = next((watts for word, watts in CAPS.items() if word in row["note"]), None)
    return PublishedRun(
        line, row["source"], device, count, model, framework, version, dtype, layout, isl, osl,
        load, "fp8" if framework == "trtllm" and dtype in ("fp8", "nvfp4") else None,  # as its checkpoints
        _spread(row["note"], load), guess, benchmark, cap,
    )  # fmt: skip


def _spread(note: str, load: ArrivalPattern) -> str:
    """Lengths vary if a source says it, in chats, and if outputs end with a stop token."""
    if "uniform in 0.8 to 1.0" in note:
        return "uniform"
    return "lognormal" if load.kind == "open" or load.limit is not None else "fixed"


def _length(text: str) -> float:
    try:
        return max(float(text), 0.0)
    except ValueError:
        return 0.0


def _load(row: Mapping[str, str]) -> ArrivalPattern | str:
    """Read a load such as ``concurrency=8`` or ``rate=4 requests=200``; return the reason if it is not one."""
    match = re.fullmatch(r"(\w+)(?:=([\d.]+))?(?:\s+requests=(\d+))?", row["load"].strip())
    if match is None or match[1] not in READERS:
        return f"load {row['load'][:40]!r} is none of {', '.join(READERS)}"
    level, told = float(match[2] or 0), re.findall(r"num_(?:prompts|requests)=(\d+)", row["note"])
    result = match[3] or next(iter(told), None) or (SENT * level if row["source"].startswith(RANDOM) else 0)
    return READERS[match[1]](level, int(result) or None)
