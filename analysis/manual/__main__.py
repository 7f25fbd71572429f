"""Write the reference page and the types of options: ``python -m opbyte.analysis.manual [TREE]``."""

from __future__ import annotations

import sys
from pathlib import Path

from .keywords import module
from .page import page

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
(ROOT / "simulator/scenario/keywords.pyi").write_text(module(), encoding="utf-8")
(ROOT / "docs/reference.md").write_text(page(), encoding="utf-8")
