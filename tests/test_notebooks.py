"""Are the notebooks thin, whole and executed? `make notebooks` runs them anew.

A notebook is committed with the outputs of one run from top to bottom, and without errors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_IMPORTS, MOST_LINES = 2, 25
"""Of one cell: what is longer belongs into the library, with a test."""


def cells(path: Path) -> list[dict[str, Any]]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    found: list[dict[str, Any]] = notebook["cells"]
    return found


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_was_run_from_top_to_bottom(path: Path) -> None:
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [out for cell in code for out in cell["outputs"]]
    assert not [out for out in outputs if out["output_type"] == "error"]
    assert not [out for out in outputs if out.get("name") == "stderr"]
    assert [out for out in outputs if "image/png" in out.get("data", {})], "no figure"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_thin(path: Path) -> None:
    found = cells(path)
    assert found[0]["cell_type"] == "markdown"
    assert "".join(found[0]["source"]).startswith("# ")
    code = "\n".join("".join(c["source"]) for c in found if c["cell_type"] == "code")
    imports = [x for x in code.splitlines() if x.startswith(("import ", "from "))]
    assert len(imports) <= MOST_IMPORTS
    for cell in found:
        if cell["cell_type"] == "code":
            assert len("".join(cell["source"]).splitlines()) <= MOST_LINES
            assert set(cell["metadata"]) <= {"tags"}, "times of a run do not belong here"
