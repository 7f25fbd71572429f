"""The scripts of a report, and the content security policy that allows only them.

Plotly.js draws the plots (``vendor/plotly-basic.min.js.gz``, from npm's ``plotly.js-basic-dist-min``), in the page or
as a separate file; ``templates/report.js`` starts it and sorts the tables.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIBRARY = HERE / "vendor" / "plotly-basic.min.js.gz"
OWN = HERE / "templates" / "report.js"
SHARED = "plotly-basic-4.1.1.min.js"
"""The library's file in a folder of several reports."""


@lru_cache(maxsize=1)
def library() -> str:
    """Return the script of Plotly.js with only line and bar charts."""
    return _inside(gzip.decompress(LIBRARY.read_bytes()).decode("utf-8"))


@lru_cache(maxsize=1)
def own() -> str:
    """Return the script that starts the plots and sorts and filters the tables."""
    return _inside(OWN.read_text(encoding="ascii"))


def _inside(script: str) -> str:
    """Return a script for use inside a script element; refuse it if it could end the element."""
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("a script may not hold the end of its element")
    return script.replace("\r\n", "\n")


@lru_cache(maxsize=4)
def policy(scripts: tuple[str, ...], shared: bool) -> str:
    """Return the content security policy of a page: only these scripts run and, if `shared`, the files that they load.

    Digests cannot restrict these files, because browsers do not check them in a page opened from a disk.
    """
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) + shared * " 'strict-dynamic'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def data(value: Any) -> str:
    """Return plain data as packed JSON (gzip, base64): an eighth of its size, and without any markup characters.

    Examples
    --------
    >>> json.loads(gzip.decompress(base64.b64decode(data({"name": "</script>"}))))
    {'name': '</script>'}
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
