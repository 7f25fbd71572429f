"""Shared fixtures and the settings every test process starts with."""

from __future__ import annotations

import faulthandler
import gc
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from .processes import Start, end, usual_signals

ROOT = Path(__file__).resolve().parent.parent


# Set before anything compiles or plots; child processes inherit it. Compiled code lies under a
# hash of its sources (workloads/jit.py), here instead of in the home of whoever runs the tests.
os.environ.setdefault("OPBYTE_CACHE", str(ROOT / ".cache"))
os.environ["MPLBACKEND"] = "Agg"
usual_signals()

# Examples are drawn from a fixed seed: a failure here is a failure everywhere.
# It is reported as found: making a broken scheduler's example smaller takes minutes, in which it
# looks like a test that hangs. HYPOTHESIS_PROFILE=shrink looks for the smallest one.
COMMON = {"deadline": None, "derandomize": True, "max_examples": 20, "database": None}
settings.register_profile("opbyte", phases=[Phase.explicit, Phase.generate], **COMMON)
settings.register_profile("shrink", **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "opbyte"))


MORE = int(os.environ.get("OPBYTE_EXAMPLES", "1"))
"""Times as many examples of every property as its test says: ``make nightly``."""


def multiply_examples(items: list[pytest.Item]) -> None:
    """Raise the number of examples of each property, once for all its parameters."""
    attribute = "_hypothesis_internal_use_settings"
    functions = {id(f): f for item in items if hasattr(f := getattr(item, "obj", None), attribute)}
    for function in functions.values():
        given = getattr(function, attribute)
        setattr(function, attribute, settings(given, max_examples=MORE * given.max_examples))


LONG = [
    "plan",
    "calibrate_run",
    "measure",
    "published",
    "speculation",
    "capacity",
    "extending",
    "kept",
    "touch_points",
    "scheduler",
    "own_rules",
    "expert_map",
    "plots",
    "price_list",
    "sweep",
    "kv_tiers",
    "overlap",
    "fuzz",
    "kernel_sets_fit",
    "cuda_emulated",
    "usual",
    "published_runs",
    "serve",
    "cuda_compiles",
    "interval",
    "plan_whatifs",
    "options_used",
    "cli_terminal",
    "wide_ep",
    "apart_paths",
    "search",
    "paths_agree",
    "validate_runs",
    "reference",
    "report",
    "expert_cache_answers",
    "classes",
    "cpu_kernels",
    "reproduce_fpga",
    "fetch",
    "gpu",
    "stationary",
    "hecate",
    "pools",
    "apart_serving",
    "kind_paths",
    "composed",
    "parts_together",
    "dominance",
    "interrupts",
    "report_browser",
    "run_steps",
    "agents",
    "speculation_answers",
]
"""Files of 15 s and more, the longest first, by their names without ``test_``, for who has no durations of an earlier
run; doctests come later, for they find what others have compiled."""
DURATIONS = "opbyte/durations"
"""Seconds of every test file by its path, in pytest's cache: each run writes those that it ran."""
took: Counter[str] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put long files first, so that no worker begins one when the others are done; files that are named keep their order.

    What depends on measured data is marked, so that it can be run without them too.
    """
    if MORE > 1:
        multiply_examples(items)
    cache = getattr(config, "cache", None)  # none with -p no:cacheprovider
    known = cache.get(DURATIONS, {}) if cache else {}
    place = {f"test_{name}": len(LONG) - i for i, name in enumerate(LONG)}
    if not any(".py" in name for name in config.args):
        items.sort(key=lambda item: -known.get(_file(item.nodeid), place.get(item.path.stem, 0)))
    for item in items:
        if {"data", "data_set"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("data")


def _file(test: str) -> str:
    return test.partition("::")[0]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add a test's phase to its file's seconds."""
    took[_file(report.nodeid)] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep what files took for the next run's order; of all workers' tests one process hears."""
    cache, asked = getattr(session.config, "cache", None), session.config
    whole = not asked.option.keyword and not any("::" in name for name in asked.args)
    if cache and whole and not hasattr(asked, "workerinput"):
        known = cache.get(DURATIONS, {})
        cache.set(DURATIONS, known | {name: round(seconds, 1) for name, seconds in took.items() if seconds})


def pytest_collection_finish() -> None:
    """Take what was imported out of what the garbage collector looks through again and again: a tenth of the time."""
    gc.set_threshold(10_000)
    gc.collect()
    gc.freeze()


LIMIT_S = 900.0
"""No test takes a tenth of this; one that does is ended with the stacks of its threads."""


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    """End the process where a test hangs."""
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes as `subprocess.Popen` does; none, nor what they started, outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(*arguments, **options))
        return started[-1]

    yield run
    for process in started:
        end(process)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout's folder."""
    return ROOT


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of measured data (see docs/data.md), or skip."""
    name = os.environ.get("OPBYTE_DATA", "")
    if not name:
        pytest.skip("OPBYTE_DATA is not set: no measured data to compare with")
    folder = Path(name).resolve()
    assert folder.is_dir(), f"OPBYTE_DATA={name} is not a folder"
    return folder


@pytest.fixture(scope="session")
def data_set(data: Path) -> Callable[[str], Path]:
    """Return one data set's folder or file below OPBYTE_DATA, or skip where it is absent."""

    def find(name: str) -> Path:
        if not (data / name).exists():
            pytest.skip(f"OPBYTE_DATA has no {name}")
        return data / name

    return find


@pytest.fixture
def tmp_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and working folder, for code that writes files."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(home)
    return home


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright; tests of it are skipped where either is absent."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright to drive a browser")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium to open pages with")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
