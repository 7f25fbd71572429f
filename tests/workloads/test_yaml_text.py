"""Is any text read back from YAML as it was written?"""

from __future__ import annotations

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from opbyte.workloads.yamlfile import quoted, scalar

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


@given(TEXT)
@example('Intel(R) Xeon(R) "Gold" \\ 6430')
@example("no")
@example("1e3")
@example("a: b # c")
@example("'x, y}")
@example("2026-01-31")
@example("\x00\x85\u2028")
def test_text_is_read_back(text: str) -> None:
    assert yaml.safe_load(f"key: {quoted(text)}") == {"key": text}
    assert yaml.safe_load(f"key: {scalar(text)}") == {"key": text}
    assert yaml.safe_load(f"{{key: [{scalar(text)}, {quoted(text)}]}}") == {"key": [text, text]}
