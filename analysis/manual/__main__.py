"""Write the reference page: ``python -m opbyte.analysis.manual [FILE]``."""

from __future__ import annotations

import sys
from pathlib import Path

from .page import page

Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference.md").write_text(page(), encoding="utf-8")
