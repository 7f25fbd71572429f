"""Is any text read back from YAML as it was written?"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from opbyte.workloads import yamlfile
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


@pytest.mark.parametrize(
    ("content", "copies"), [("b: [1, 2.5, null, yes]\na: 1e-3\n", 1), ("2: three\n", 0), ("a: 2020-01-02\n", 0)]
)
def test_shipped_descriptions_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, copies: int
) -> None:
    """Stored data equal the file's: a damaged copy is read again, and data that JSON would change are not stored."""
    monkeypatch.setenv("OPBYTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(yamlfile, "SHIPPED", tmp_path)
    (tmp_path / "a.yaml").write_text(content)
    for damaged in (False, False, True):
        yamlfile._parse.cache_clear()
        for copy in tmp_path.glob("cache/opbyte/yaml/*") if damaged else ():
            copy.write_text("{")
        assert repr(yamlfile.read_yaml(tmp_path / "a.yaml")) == repr(yaml.safe_load(content))
        assert len(list(tmp_path.glob("cache/opbyte/yaml/*"))) == copies
