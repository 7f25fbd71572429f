"""Long tables of tests: each lies in a YAML file beside its test, of the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def tables(test: str) -> Any:
    """Those of a test file, by name; anchors stand for what rows share."""
    return yaml.safe_load(Path(test).with_suffix(".yaml").read_text(encoding="utf-8"))
