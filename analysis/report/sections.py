"""What a report says of an answer, chosen by the answer's type: answers know no reports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from ..show.result import Result, Section


@singledispatch
def sections(result: Result) -> Sequence[Section]:
    """Parts of ``report.html``: the printed blocks and the drawings, unless registered otherwise."""
    return [Section("Result", [*result.blocks(), *result.drawings()])]
