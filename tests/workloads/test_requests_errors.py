"""Is every bad input one clear line that names the place, and never a traceback?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import open_requests

OWN = "request_id,arrival_s,input_tokens,output_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
LENGTHS = "num_prefill_tokens,num_decode_tokens\n"
MOONCAKE = '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n'
STAMP = "2023-11-16 18:15:46.6805900"

BAD: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("bad_requests.yaml").read_text(encoding="utf-8"))
BAD_FILES: dict[str, tuple[str | bytes, int, str]] = BAD["files"] | {
    # those that a table of text cannot show
    "JSON huge": (MOONCAKE.replace("600", "9" * 400), 1, "is not a number"),
    "JSON digits": (MOONCAKE.replace("600", "9" * 5000), 1, "not valid JSON"),
    "JSON depth": ("[" * 100_000, 1, "not valid JSON"),
    "binary": (OWN.encode() + b"0,0,1,1\n\xff\xfe\x00", 3, "UTF-8"),
    "long line": ("a" * (3 << 20), 1, "longer than"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_line_is_named(write: Callable[..., Path], name: str) -> None:
    content, line, reason = BAD_FILES[name]
    path = write(content)
    rate = 1.0 if content == BAD_FILES["zero output"][0] else None
    with pytest.raises(InputError) as caught:
        open_requests(path, rate=rate).read()
    assert caught.value.subject == f"{path}:{line}"
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_bad_line_far_into_a_file_is_named(write: Callable[..., Path]) -> None:
    rows = "".join(f"{i},{i},10,10\n" for i in range(150_000))
    path = write(OWN + rows + "x,150000,0,1\n")
    with pytest.raises(InputError, match=r"trace:150002: input_tokens '0'"):
        open_requests(path).read()


@pytest.mark.parametrize(
    ("content", "reason"), [("", "is empty"), ("\n\n", "is empty"), (OWN, "no rows"), (OWN + "\n", "no rows")]
)
def test_a_file_without_requests(write: Callable[..., Path], content: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        open_requests(write(content)).read()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.csv: no such file"):
        open_requests(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="is a folder without ServeGen clients"):
        open_requests(tmp_path)
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(InputError):
            open_requests(name)


def test_lengths_without_arrivals_ask_for_them(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="give --rate or --closed-loop"):
        open_requests(write(LENGTHS + "1,1\n"))


@pytest.mark.parametrize(("options", "subject"), [*BAD["options"], ({"rate": 10**400}, "--rate")])
def test_a_bad_option_is_named(options: dict[str, Any], subject: str) -> None:
    with pytest.raises(InputError) as caught:
        open_requests(**options)
    assert caught.value.subject == subject


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match=r"--lengths 'lognormall'.*did you mean 'lognormal'"):
        open_requests(rate=1.0, input_len=1, output_len=1, lengths="lognormall")
    with pytest.raises(InputError, match=r"--arrivals 'zzz'.*known: gamma, poisson"):
        open_requests(rate=1.0, arrivals="zzz")


def test_lengths_of_a_trace_cannot_be_given(write: Callable[..., Path]) -> None:
    path = write(OWN + "0,0,1,1\n")
    for option in ("input_len", "output_len"):
        with pytest.raises(InputError, match="come from the trace"):
            open_requests(path, **{option: 5})


# `tests/test_spoilt_files.py` spoils these.

VALID = {
    "own": (OWN + "0,0.5,10,20\n1,0.75,3,4\n2,9,2147483647,1\n").encode(),
    "azure": f"{AZURE}{STAMP},10,20\r\n2023-11-16 18:15:47.1,3,4\r\n".encode(),
    "burstgpt": b"Timestamp,Model,Request tokens,Response tokens\n5,m,472,18\n45,m,10,0\n",
    "lengths": (LENGTHS + "5,6\n7,8\n").encode(),
    "mooncake": (MOONCAKE * 3).encode(),
}
