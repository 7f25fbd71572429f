"""Does nothing run, and no table count, that another user of the machine wrote?

The second user is played twice: folders that belong to another number (where the tests run as root),
and folders that everybody may write to.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from opbyte.analysis.show import kept as module
from opbyte.analysis.show.kept import kept_by
from opbyte.devices.catalog import load_system
from opbyte.devices.dram.spec import load_memory
from opbyte.workloads import own_folder as folders
from opbyte.workloads.errors import SpecError
from opbyte.workloads.own_folder import cache_folder, own_folder, temporary_folder, write_whole
from opbyte.workloads.requests.frames import table_file

SECOND = 65534


def open_to_all(path: Path) -> None:
    path.chmod(0o777)


def anothers(path: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a folder to another user")
    os.chown(path, SECOND, SECOND)


WAYS = pytest.mark.parametrize("given", [open_to_all, anothers])


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files as ``/tmp``."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    folders._fresh.cache_clear()
    return folder


def test_levels_are_made_for_the_caller_alone(tmp_path: Path) -> None:
    path = own_folder(tmp_path / "cache", "opbyte", "parts")
    assert path == tmp_path / "cache/opbyte/parts"
    assert [p.stat().st_mode & 0o777 for p in (path, path.parent, path.parent.parent)] == [0o700] * 3
    assert own_folder(tmp_path / "cache", "opbyte", "parts") == path


@WAYS
@pytest.mark.parametrize("level", ["", "opbyte", "opbyte/parts"])
def test_a_level_that_others_can_write_to_is_not_taken(
    tmp_path: Path, given: Callable[[Path], None], level: str
) -> None:
    base = tmp_path / "cache"
    assert own_folder(base, "opbyte", "parts")
    given(base / level)
    assert own_folder(base, "opbyte", "parts") is None


def test_a_link_of_another_leads_nowhere(tmp_path: Path, temporary: Path) -> None:
    """Into a folder that everybody may write to, and into one that is not there."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    open_to_all(theirs)
    (temporary / "opbyte-1").symlink_to(theirs)
    (temporary / "opbyte-2").symlink_to(tmp_path / "absent")
    assert own_folder(temporary, "opbyte-1") is None
    assert own_folder(temporary, "opbyte-2") is None
    assert own_folder("/proc/self/none", "opbyte") is None


def test_a_user_s_own_group_is_the_user(tmp_path: Path) -> None:
    path = own_folder(tmp_path / "cache", "opbyte")
    assert path is not None
    path.chmod(0o770)
    same = path.stat().st_gid == os.getuid()
    assert (own_folder(tmp_path / "cache", "opbyte") is not None) == same


@WAYS
def test_no_compiled_code_of_another_is_loaded(tmp_path: Path, temporary: Path, given: Callable[[Path], None]) -> None:
    """Index files of Numba are pickles: what the second user put there must not be read."""
    (tmp_path / "coded.py").write_text(
        "from opbyte.workloads.jit import compiled\n@compiled\ndef twice(x):\n    return 2 * x\n"
    )
    paths = [str(tmp_path), *(p for p in sys.path if p)]
    env = {**os.environ, "HOME": "/proc/self", "OPBYTE_CACHE": "", "XDG_CACHE_HOME": "",
           "PYTHONPATH": os.pathsep.join(paths)}  # fmt: skip
    code = "import coded; from opbyte.workloads.jit import cache_dir; print(coded.twice(2), cache_dir())"

    def run() -> list[str]:
        found = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, check=True,
                               capture_output=True, text=True)  # fmt: skip
        return found.stdout.split()

    first = run()
    assert first[0] == "4"
    assert Path(first[1]).is_relative_to(temporary)
    spoilt = list(temporary.rglob("*.nbi"))
    assert spoilt
    for file in spoilt:
        file.write_bytes(pickle.dumps(Evil(str(tmp_path / "pwned"))))
    assert run() == first  # one's own folder: the harm of one's own file would be one's own
    assert (tmp_path / "pwned").exists()
    (tmp_path / "pwned").rmdir()
    for file in list(temporary.rglob("*.nbi")):
        file.write_bytes(pickle.dumps(Evil(str(tmp_path / "pwned"))))
    for folder in [p for p in temporary.rglob("*") if p.is_dir()]:
        given(folder)
    assert run() == ["4", "None"]
    assert not (tmp_path / "pwned").exists()
    env |= {"OPBYTE_CACHE": str(temporary)}
    assert run()[0] == "4"
    assert not (tmp_path / "pwned").exists()


class Evil:
    """Makes a file when it is read as a pickle."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.path,)


@WAYS
def test_no_part_of_another_is_unpickled(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, given: Callable[[Path], None]
) -> None:
    monkeypatch.setenv("OPBYTE_CACHE", str(tmp_path / "cache"))
    parts = kept_by("capacity")
    assert parts.folder is not None
    parts.keep("a", Evil(str(tmp_path / "pwned")))
    for level in ("opbyte/parts", "opbyte", ""):
        given(tmp_path / "cache" / level)
    monkeypatch.setattr(module, "asked", dict)
    assert kept_by("capacity").find("a") is None
    assert not (tmp_path / "pwned").exists()
    assert cache_folder("parts") == temporary / f"opbyte-{os.getuid()}" / "parts"


ROWS = [{"arrival_s": 0.0, "input_tokens": 50, "output_tokens": 5}]


@WAYS
def test_a_table_is_what_was_handed_over(temporary: Path, given: Callable[[Path], None]) -> None:
    """Another's file under the table's name is not read, nor one's own that was changed."""
    file = Path(table_file(ROWS, "trace"))
    whole = file.read_text()
    assert file.parent.stat().st_mode & 0o777 == 0o700
    file.write_text(whole.replace(",5", ",50"))
    assert Path(table_file(ROWS, "trace")) == file
    assert file.read_text() == whole
    given(file.parent)
    elsewhere = Path(table_file(ROWS, "trace"))
    assert elsewhere.parent == temporary_folder() != file.parent
    assert elsewhere.read_text() == whole


def test_nothing_is_left_of_a_file_that_was_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", b"a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["extends: {}\nname: a", "name: a\ndevice: {}\ndevices_per_node: 1"])
def test_a_description_shows_no_other_file(tmp_path: Path, key: str) -> None:
    (tmp_path / "shadow").write_text("root:secret: 1\n")
    file = tmp_path / "mine.yaml"
    file.write_text(key.format("./shadow") + "\n")
    for load in (load_system, load_memory):
        with pytest.raises(SpecError) as caught:
            load(str(file))
        assert "secret" not in str(caught.value)
