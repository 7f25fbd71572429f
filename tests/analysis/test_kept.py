"""Does a long command that was ended go on where it stopped, and say the same as an undisturbed one?

Expected values are the answers of the same commands run in one go.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.analysis.papers import points
from opbyte.analysis.papers.points import Point
from opbyte.analysis.parallel.local import Crew
from opbyte.analysis.show import interrupt
from opbyte.analysis.show import kept as module
from opbyte.analysis.show.kept import Kept, kept_by, known_by
from opbyte.analysis.show.record import command_of, parsed
from opbyte.analysis.studies import capacity
from opbyte.analysis.validate.points import predict
from opbyte.workloads.errors import InputError

from ..processes import PATIENCE_S, Start, environment

if TYPE_CHECKING:
    from .conftest import Ask

COMMAND = [sys.executable, "-m", "opbyte"]
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "parts", "code")


def test_a_part_is_made_once(kept: Kept) -> None:
    made = []

    def make() -> str:
        made.append(1)
        return "value"

    assert [kept.once({"a": 1}, make) for _ in range(3)] == ["value"] * 3
    assert (len(made), kept.count()) == (1, 1)
    assert kept.once({"a": 2}, make) == "value"
    assert kept.find({"a": 3}) is None
    assert Kept(kept.folder, "other code").find({"a": 1}) is None
    kept.forget()
    assert (kept.count(), kept.find({"a": 1})) == (0, None)


def test_none_is_a_part_too(kept: Kept) -> None:
    kept.keep("a", None)
    assert kept.find("a") == (None,)


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b[:20], lambda b: b"", lambda b: b"x" + b[1:]])
def test_a_spoilt_part_is_made_anew(kept: Kept, spoil: Callable[[bytes], bytes]) -> None:
    kept.keep("a", [1.5])
    assert kept.folder is not None
    (file,) = kept.folder.iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    assert kept.find("a") is None
    assert kept.once("a", lambda: "anew") == "anew"
    assert kept.find("a") == ("anew",)


def test_nothing_is_kept_by_default_or_where_it_cannot_be(tmp_path: Path) -> None:
    def refuse() -> Any:
        raise AssertionError

    assert not Kept()
    assert Kept().once(refuse, lambda: 1) == 1  # what it is known by is not even looked at
    (tmp_path / "file").touch()
    assert Kept(tmp_path / "file" / "parts").once("a", lambda: 2) == 2


@dataclass
class Spec:
    name: str
    sizes: tuple[int, ...]


def test_what_differs_is_known_apart(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("1")
    before = known_by([file, tmp_path])
    file.write_text("2")
    assert known_by(file) != before[0]
    assert known_by(tmp_path) != before[1]
    assert known_by(Spec("a", (1, 2))) == known_by(Spec("a", (1, 2)))
    assert known_by(Spec("a", (1, 2))) != known_by(Spec("a", (2, 1)))
    assert known_by(np.array([1.0, 2.0])) != known_by(np.array([1.0, 3.0]))
    assert known_by(np.array([1.0])) != known_by(np.array([1], dtype=np.int64))
    with pytest.raises(TypeError, match="function"):
        known_by(lambda: 1)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_plain_data_are_known_by_themselves(value: Any) -> None:
    assert known_by(value) == value


def test_parts_are_of_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options count, where its answer goes does not; parts nobody came for go in time."""
    monkeypatch.setenv("OPBYTE_CACHE", str(tmp_path))

    def folder(**options: Any) -> Path:
        with parsed(options):
            found = kept_by("capacity").folder
        assert found is not None
        return found

    first = folder(model="a", out=None, as_json=False, fresh=False, workers=None)
    assert folder(model="a", out="x", as_json=True, fresh=True, workers=3) == first
    assert folder(model="b") != first
    Kept(first).keep("a", 1)
    assert folder(model="b") != first
    assert first.exists()
    old = time.time() - module.DAYS * 86_400 - 10
    os.utime(first, (old, old))
    folder(model="b")
    assert not first.exists()
    assert command_of(["capacity", "m", "--fresh", "--json"]) == "opbyte capacity m"


def test_a_plug_ins_code_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "rules.py"
    source.write_text("a = 1")
    monkeypatch.setattr(module, "plugin_files", lambda: [source])
    before = kept_by("capacity").code
    source.write_text("a = 2")
    assert kept_by("capacity").code != before


CAPACITY = ("capacity", "llama-3-8b", "--systems", "h100-x1,a100-80gb-x1", "--slo", "ttft_p99=1",
            "--requests", "60", "--input-len", "256", "--output-len", "16", "--workers", "1", "--tolerance", "1")  # fmt: skip
CALIBRATE = ("calibrate", str(ROOT / "kernels" / "measured"), "--device", "h100", "--date", "2026-01-31")


def few_points(data: Path, folder: Path) -> Path:
    """Three quick serving points of one deployment, with its model beside them."""
    head, *rows = (data / "serving_points" / "points.csv").read_text().splitlines()
    with_few = [row for row in rows if ",Meta-Llama-3.1-8B," in row and ",agg," in row]
    clients = head.split(",").index("batch_or_concurrency")
    with_few.sort(key=lambda row: int(row.split(",")[clients]))
    (folder / "few.csv").write_text("\n".join([head, *with_few[:3]]) + "\n")
    (folder / "model_configs").symlink_to(data / "serving_points" / "model_configs")
    return folder / "few.csv"


def test_an_ended_capacity_goes_on(tmp_path: Path, start: Start) -> None:
    goes_on(start, tmp_path, CAPACITY, signal.SIGKILL)


def test_an_ended_fit_goes_on(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on_here(ask, monkeypatch, tmp_path, CALIBRATE)


def test_an_ended_validation_of_points_goes_on(
    ask: Ask, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = str(few_points(data, tmp_path))
    monkeypatch.setattr(predict, "cores", lambda: 1)  # then points run in this process
    goes_on_here(ask, monkeypatch, tmp_path, ("validate", "runs", points))


def goes_on_here(ask: Ask, monkeypatch: pytest.MonkeyPatch, folder: Path, command: Sequence[str]) -> None:
    """As `goes_on`, in this process: the signal comes as the first part has been kept, and none ends the tests' process."""
    monkeypatch.setenv("OPBYTE_CACHE", str(folder / "cache"))
    monkeypatch.setattr(interrupt, "GRACE_S", 100 * PATIENCE_S)  # a busy machine may take longer to end in order
    keep = Kept.keep

    def ended(self: Kept, identity: Any, value: Any) -> None:
        keep(self, identity, value)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Kept, "keep", ended)
        assert ask(*command, "--out", folder / "again").code == 130
    assert not (folder / "again").exists()
    left = list((folder / "cache").rglob("*.part"))
    assert left
    again = ask(*command, "--out", folder / "again")
    assert f"continues from {len(left):,} finished parts" in again.err
    assert not [file for file in left if file.exists()]
    whole = ask(*command, "--out", folder / "whole")
    assert again.out == whole.out
    same_files(folder)


def own_cache(shared: Path, own: Path) -> Path:
    """Where parts are kept by nobody else, beside the compiled code that all share."""
    (own / "opbyte").mkdir(parents=True)
    for compiled in (shared / "opbyte").iterdir():
        if compiled.name != "parts":
            (own / "opbyte" / compiled.name).symlink_to(compiled)
    return own / "opbyte" / "parts"


def goes_on(start: Start, folder: Path, command: Sequence[str], number: signal.Signals) -> None:
    """End a command as soon as it has kept a part, then call it again."""
    line = [*COMMAND, *command]
    env = environment()

    def run(out: str) -> subprocess.CompletedProcess[str]:
        found = subprocess.run([*line, "--out", out], cwd=folder, env=env, check=False, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        return found

    whole = run("whole")
    cache = own_cache(Path(env["OPBYTE_CACHE"]).expanduser(), folder / "cache")
    env["OPBYTE_CACHE"] = str(folder / "cache")
    process = start([*line, "--out", "again"], cwd=folder, env=env,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    until = time.monotonic() + PATIENCE_S
    while not list(cache.glob("*/*.part")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == (-9 if number == signal.SIGKILL else 130)
    left = list(cache.glob("*/*.part"))
    assert left
    again = run("again")
    assert f"continues from {len(left):,} finished parts" in again.stderr
    assert again.stdout == whole.stdout
    assert not [file for file in left if file.exists()]
    same_files(folder)


def same_files(folder: Path) -> None:
    files = [path.name for path in (folder / "whole").iterdir() if path.name != "timing.json"]
    assert {n: (folder / "again" / n).read_bytes() for n in files} == {
        n: (folder / "whole" / n).read_bytes() for n in files
    }


def test_points_of_a_paper_are_taken_over(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each runs once over both calls; a changed device is another point."""
    ran: list[Point] = []
    monkeypatch.setattr(points, "run_point", lambda point: ran.append(point) or len(ran))
    wanted = [Point("mixtral-8x7b", "duplex", "x4", 32, 256, 256, s, stop=8) for s in (0, 1, 2)]
    with Crew(1) as crew:
        points.Runner(crew, kept=kept).run(wanted[:2])
        second = points.Runner(crew, kept=kept)
        second.run(wanted)
    assert sorted(p.seed for p in ran) == [0, 1, 2]
    assert second.results == {point: i for i, point in enumerate(ran, 1)}
    one, other = (points._identity(replace(wanted[0], efficiency=x)) for x in (0.8, 0.9))
    assert known_by(one) != known_by(other)


def test_fresh_forgets(ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without it the answers of systems are taken over as they lie there, right or wrong."""
    monkeypatch.setenv("OPBYTE_CACHE", str(tmp_path))
    monkeypatch.setattr(Kept, "forget", lambda self: None)
    right = ask(*CAPACITY, "--json").json()

    def wrong(*_: object) -> None:
        raise InputError("a system", "was searched again")

    monkeypatch.setattr(capacity, "_searched", wrong)
    assert ask(*CAPACITY, "--json").json() == right
    monkeypatch.undo()
    monkeypatch.setenv("OPBYTE_CACHE", str(tmp_path))
    monkeypatch.setattr(capacity, "_searched", wrong)
    assert "was searched again" in ask(*CAPACITY, "--json", "--fresh").refused()
