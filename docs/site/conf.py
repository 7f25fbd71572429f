"""The documents as a site (`make docs`): the tree's own files are its pages, so that one link serves both."""

from __future__ import annotations

from typing import Any

import opbyte

project, author, release = "OpByte", "the OpByte authors", opbyte.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md", "notebooks/*.ipynb"]
root_doc = "README"
templates_path = ["templates"]
html_additional_pages = {"index": "index.html"}
html_theme = "furo"
html_title = "OpByte"
html_theme_options = {"navigation_with_keys": True}
html_show_sourcelink = html_show_copyright = False
myst_heading_anchors = 4
nb_execution_mode = "off"  # `make notebooks` executes them
autodoc_typehints = "signature"
napoleon_google_docstring = False
suppress_warnings = ["misc.highlighting_failure", "myst.header"]

CONTENTS = """

```{toctree}
:hidden:
:caption: %s

%s
```
"""
PAGES = {
    "Use": "docs/first-steps docs/guide docs/upgrading docs/commands docs/guide-sweeps docs/plan docs/design docs/gallery docs/data docs/data-kernels docs/live docs/training docs/fpga",
    "Reference": "docs/reference docs/glossary docs/site/python genindex",
    "Serving": "docs/serving docs/engine-files docs/measured-servers docs/schedulers docs/speculation docs/disaggregation docs/wide-ep docs/classes docs/kv-tiers docs/clusters docs/autoscaling docs/hosts",
    "Devices and kernels": "docs/kernels docs/kernel-codesign docs/attention-2026 docs/memory docs/power docs/frameworks",
    "Published systems": "docs/duplex docs/published-systems docs/moe-systems docs/overlap docs/expert-memory docs/layer-lists docs/adapters docs/survey",
    "How far to trust it": "docs/accuracy docs/evidence docs/calibration docs/security docs/invariants",
    "Notebooks": "notebooks/*",
    "Extend": "docs/extending docs/extending-parts docs/extending-models docs/extending-inputs CONTRIBUTING CHANGELOG",
}


def contents(app: Any, name: str, source: list[str]) -> None:
    """Give the README, which is the first page, the contents of the whole site."""
    if name == root_doc:
        for title, pages in PAGES.items():
            glob = ":glob:\n" if "*" in pages else ""
            source[0] += CONTENTS % (title + ("\n:glob:" if glob else ""), "\n".join(pages.split()))


def accessible(app: Any, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """What the theme leaves out: levels of the contents' headings, code that can be scrolled by key."""
    for key in ("body", "furo_navigation_tree"):
        text = context.get(key)
        if text:
            text = text.replace('role="heading">', 'role="heading" aria-level="2">')
            context[key] = text.replace("<pre>", '<pre tabindex="0">')


def setup(app: Any) -> None:
    """Connect what is above."""
    app.connect("source-read", contents)
    app.connect("html-page-context", accessible, priority=900)  # after the theme's own
