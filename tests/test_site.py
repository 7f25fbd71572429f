"""Does the documents' site open in a browser: at any width, in light and dark, without a network?

`make docs` builds it; `OPBYTE_SITE` names its folder. A few pages stand for all: the first one, prose
with figures, the longest tables, the Python interface, a notebook.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

SITE = Path(os.environ.get("OPBYTE_SITE") or "no site")
pytestmark = pytest.mark.skipif(not SITE.is_dir(), reason="OPBYTE_SITE names no built site")
PAGES = (
    "README", "docs/first-steps", "docs/gallery", "docs/reference", "docs/site/python",
    "notebooks/05_throughput_report",
)  # fmt: skip
JUDGED = PAGES[:3]
"""Pages that axe-core looks at; the others are as long as a book."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_are_quiet_and_can_be_read(browser: Any, width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    view = {"width": width, "height": 900}
    page = browser.new_page(viewport=view, color_scheme=scheme)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda m: said.append(f"{m.type}: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((SITE / "index.html").resolve().as_uri())
    page.wait_for_url("**/README.html")  # where it leads
    for name in PAGES:
        page.goto((SITE / f"{name}.html").resolve().as_uri())
        root = "document.documentElement"
        over = page.evaluate(f"{root}.scrollWidth - {root}.clientWidth")
        assert over <= 0, f"{name} is {over} pixels too wide"
        if name in JUDGED and (width == 390) == (scheme == "light"):  # colours are those of the scheme
            faults = axe.Axe().run(page, options={"preload": False}).response["violations"]
            serious = [(f["id"], f["nodes"][0]["html"][:200]) for f in faults if f["impact"] in ("serious", "critical")]
            assert not serious, name
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    page.close()
