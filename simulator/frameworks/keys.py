"""Checked reading of the JSON objects in an engine's file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ...workloads.errors import SpecError, nearest
from ...workloads.numerics import BITS
from ...workloads.sampling import GREEDY, asked_sampling
from ...workloads.yamlfile import read_yaml

if TYPE_CHECKING:  # compiled code beside it
    from ..engine.host import Host

DTYPES = {"auto": None, "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "half": "fp16",
          "fp16": "fp16", "float32": "fp32", "float": "fp32", "fp8": "fp8", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8"}  # fmt: skip
D = TypeVar("D", int, None)


class Listed(NamedTuple):
    """Keys of an engine's file and its sections: those read, those without effect on time, those refused and why."""

    keys: tuple[str, ...]
    harmless: frozenset[str]
    only: Mapping[str, Mapping[str, tuple[Any, str]]]  # by section
    sections: Mapping[str, tuple[str, ...]]  # keys of each


@cache
def listed(engine: str) -> Listed:
    """Return an engine's keys from keys.yaml."""
    harmless: set[str] = set()
    only: dict[str, dict[str, tuple[Any, str]]] = {}
    sections: dict[str, dict[str, None]] = {}
    keys: dict[str, None] = {}
    for group in read_yaml(Path(__file__).parent / "keys.yaml")[engine]:
        settings = {key: (value, why) for key, (value, why) in group.get("only", {}).items()}
        section, names = group.get("section", ""), dict.fromkeys([*group.get("keys", ()), *settings])
        keys |= names
        sections.setdefault(section, {}).update(names)
        only.setdefault(section, {}).update(settings)
        harmless.update(group.get("harmless", ()))
    return Listed(tuple(keys), frozenset(harmless), only, {name: tuple(known) for name, known in sections.items()})


@dataclass(frozen=True, slots=True)
class Keys:
    """One object of the file, whose values are checked when they are read."""

    path: Path
    values: dict[str, Any]
    prefix: str = ""

    def doubts(self, engine: str) -> list[str]:
        """Warnings about unknown keys whose spelling is close to a known key."""
        known, harmless = listed(engine)[:2]
        warnings = []
        for key in self.values:
            close = get_close_matches(key, known, n=1, cutoff=0.85)
            if key not in known and key not in harmless and close:
                warnings.append(f"{self.path}: {self.prefix}{key} is not read; did you mean {close[0]!r}?")
        return warnings

    def wrong(self, key: str, wanted: str) -> SpecError:
        """Return the error for a key with a wrong value."""
        have = self.values.get(key)
        remark = "; it is missing" if have is None else f", not {have!r}"
        return SpecError(self.path, f"{self.prefix}{key}: must be {wanted}{remark}")

    def needed(self, *keys: str) -> Keys:
        """Return these keys; refuse the object if one is missing."""
        for key in keys:
            if self.values.get(key) is None:
                raise self.wrong(key, "given")
        return self

    def part(self, key: str, *beside: str) -> Keys:
        """Return an object of the file; missing keys in `beside` are taken from the level above, as engines do."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "an object")
        above = {name: self.values[name] for name in beside if name in self.values}
        return Keys(self.path, above | (value or {}), f"{self.prefix}{key}.")

    def list(self, key: str) -> Sequence[Keys]:
        """A list of objects."""
        items = self.values.get(key)
        if not isinstance(items, list) or not items or not all(isinstance(x, dict) for x in items):
            raise self.wrong(key, "a list of objects")
        return [Keys(self.path, items[i], f"{self.prefix}{key}[{i}].") for i in range(len(items))]

    def refuse_unsimulated(self, engine: str, section: str = "") -> None:
        """Refuse settings that affect time and have a value that is not simulated."""
        for key, (only, why) in listed(engine).only[section].items():
            setting = self.values.get(key)
            if setting is not None and setting != only:
                said = "left out" if only is None else json.dumps(only)
                raise SpecError(self.path, f"{self.prefix}{key}: must be {said}: {why}")

    def count(self, key: str, default: D, most: int = 2**31 - 1, least: int = 1) -> int | D:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(key, f"a whole number in [{least}, {most}]")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def share(self, key: str, default: float) -> float:
        return self.real(key, default, 1e-9, 1.0, "a fraction in (0, 1]")

    def seconds(self, key: str, default: float, unit: float) -> float:
        """Return a time that the file gives in units of `unit` seconds."""
        return default if self.values.get(key) is None else self.real(key, 0.0, 0.0, 1e9) * unit

    def real(self, key: str, default: float, least: float, most: float, wanted: str = "") -> float:
        """Return a number within a range."""
        value = self.values.get(key)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and least <= value <= most):
            raise self.wrong(key, wanted or f"a number in [{least:g}, {most:g}]")
        return default if value is None else float(value)

    def text(self, key: str, default: str) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def one_of(self, key: str, default: str, known: Sequence[str]) -> str:
        """Return the value of a key that takes one of a few names."""
        name = self.text(key, default)
        if name not in known:
            raise SpecError(self.path, f"{self.prefix}{key}: unknown {name!r}{nearest(name, known)}")
        return name

    def format(self, key: str) -> str | None:
        name = self.text(key, "auto")
        if name in BITS:
            return name
        if name not in DTYPES:
            raise SpecError(self.path, f"{self.prefix}{key}: unknown format {name!r}{nearest(name, DTYPES)}")
        return DTYPES[name]


def host_of(keys: Keys, base: Host) -> Host:
    """Read the times of the host."""
    front = base.front._replace(
        request_s=keys.seconds("template_ms", base.front.request_s, 1e-3),
        token_s=keys.seconds("token_us", base.front.token_s, 1e-6),
        why=base.front.why if keys.values.get("template_ms") is None else "",
        http_s=keys.seconds("http_ms", base.front.http_s, 1e-3),
    )
    return replace(
        base,
        step_s=keys.seconds("step_ms", base.step_s, 1e-3),
        sequence_s=keys.seconds("sequence_us", base.sequence_s, 1e-6),
        launch_s=keys.seconds("launch_us", base.launch_s, 1e-6),
        request_s=keys.seconds("request_ms", base.request_s, 1e-3),
        front=front,
    )


def sampling_of(keys: Keys) -> str:
    """How requests are sampled: greedily unless the file says what its model's defaults become."""
    asked = keys.part("override_generation_config")
    if not asked.values:
        return GREEDY
    for key, low, high in (("temperature", 0.0, 1e3), ("top_p", 0.0, 1.0), ("top_k", -1.0, 1e9)):
        asked.real(key, 0.0, low, high)
    return asked_sampling(asked.values)


def told(keys: Keys, longest: str, cache: Keys, cache_format: str) -> dict[str, Any]:
    """Read the keys that files of all engines share, as fields of `EngineSettings`."""
    hardware = keys.part("hardware")
    return {
        "max_model_len": keys.count(longest, None), "dtype": keys.format("dtype"), "kv_dtype": cache.format(cache_format),
        "memory_bytes": hardware.count("device_total_memory_bytes", None, 1 << 50),
        "device_name": hardware.text("device_name", ""), "given": True, "sampling": sampling_of(keys),
        "library_sums": keys.flag("disable_custom_all_reduce", False)
        or (False if keys.flag("enable_flashinfer_allreduce_fusion", False) else None),
    }  # fmt: skip


def numbers_of(version: str) -> tuple[int, ...]:
    """Return up to three numbers of ``0.5.9``, ``v0.25.1rc2`` or ``1``, at least two; none for an invalid version."""
    match = re.match(r"v?(\d+)(?:\.(\d+)(?!\d))?(?:\.(\d+)(?!\d))?", version)
    return () if match is None else (int(match[1]), int(match[2] or 0), *([int(match[3])] if match[3] else []))


def number_of(version: str) -> tuple[int, int] | None:
    """Return the major and minor number of a version; None if the text is not a version."""
    return (found[0], found[1]) if (found := numbers_of(version)) else None


def version_of(keys: Keys, usual: str) -> tuple[int, int]:
    """Return the version in the file; refuse a text that is not a version."""
    key = "version" if "version" in keys.values else "engine_version"
    version = keys.text(key, usual)
    number = number_of(version)
    if number is None:
        raise SpecError(keys.path, f"{key}: no version: {version!r}; needs one such as {usual!r}")
    return number


READ: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "vllm": ((0, 4), (0, 33)), "sglang": ((0, 4), (0, 5, 23)), "trtllm": ((0, 9), (1, 3)),
}  # fmt: skip
"""First and last version whose rules, hosts or runs were read; versions in between use the previous one."""


def version_doubts(keys: Keys, framework: str, usual: str) -> list[str]:
    """Return the warning of `far_version` for the version in the file."""
    version_of(keys, usual)
    key = "version" if "version" in keys.values else "engine_version"
    text = keys.text(key, usual)
    return far_version(f"{framework}@{text}", f"{keys.path}: {key}: {text}")


def far_version(framework: str, where: str = "") -> list[str]:
    """Return a warning if a version such as ``vllm@0.9`` is outside the read range; `where` names its origin."""
    name, _, version = framework.partition("@")
    number = numbers_of(version)
    if name not in READ or not number:
        return []
    first, last = READ[name]
    if first <= number and number[: len(last)] <= last:
        return []
    nearest = ".".join(map(str, min(max(number, first), last)))
    return [f"{where or f'--framework {framework}'}: taken as {name} {nearest}, the nearest version that was read"]
