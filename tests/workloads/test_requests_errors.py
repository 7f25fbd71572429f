"""Is every bad input one clear line that names the place, and never a traceback?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import open_requests

OWN = "request_id,arrival_s,input_tokens,output_tokens\n"
SESSIONS = "request_id,arrival_s,input_tokens,output_tokens,predecessor,think_s\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
LENGTHS = "num_prefill_tokens,num_decode_tokens\n"
MOONCAKE = '{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}\n'
STAMP = "2023-11-16 18:15:46.6805900"

BAD_FILES: dict[str, tuple[str | bytes, int, str]] = {
    # name: (content, line, part of the reason)
    "missing column": (OWN.replace("input_tokens", "input_token") + "0,0,1,1\n", 1, "input_token'?"),
    "near azure": ("TIMESTAMP,ContextTokens\n", 1, "missing column 'GeneratedTokens'"),
    "other header": ("a,b,c\n1,2,3\n", 1, "known formats: azure (TIMESTAMP"),
    "column twice": (OWN.strip() + ",arrival_s\n0,0,1,1,0\n", 1, "appears twice"),
    "text": (OWN + "0,0,1,1\n1,1,x,1\n", 3, "input_tokens 'x' is not a number"),
    "empty cell": (OWN + "0,0,1,\n", 2, "output_tokens '' is not a number"),
    "underscore": (OWN + "0,0,1_0,1\n", 2, "is not a number"),
    "nan": (OWN + "0,0,nan,1\n", 2, "whole number"),
    "inf": (OWN + "0,0,1,inf\n", 2, "whole number"),
    "nan time": (OWN + "0,nan,1,1\n", 2, "finite"),
    "infinite time": (OWN + "0,1e999,1,1\n", 2, "finite"),
    "negative time": (OWN + "0,-1,1,1\n", 2, "not negative"),
    "negative": (OWN + "0,0,-5,1\n", 2, "whole number"),
    "fraction": (OWN + "0,0,1.5,1\n", 2, "whole number"),
    "huge": (OWN + f"0,0,{2**31},1\n", 2, "2147483647"),
    "zero input": (OWN + "0,0,0,1\n", 2, "from 1"),
    "zero output": (LENGTHS + "4,0\n", 2, "from 1"),
    "out of order": (OWN + "0,2,1,1\n1,1,1,1\n", 3, "earlier"),
    "azure order": (f"{AZURE}{STAMP},1,1\r\n2023-11-16 18:15:45,1,1\r\n", 3, "earlier"),
    "truncated row": (f"{AZURE}{STAMP},1,1\r\n{STAMP},1", 3, "row has 2 cells"),
    "long row": (OWN + "0,0,1,1,9\n", 2, "row has 5 cells"),
    "open quote": (OWN + '0,0,"1,1\n1,1,1,1\n', 2, "not a CSV row"),
    "stray return": (OWN + "0,0,1\r1,1\n", 2, "not a CSV row"),
    "bad stamp": (AZURE + "2023-13-16 18:15:46.68,1,1\r\n", 2, "date-time"),
    "no such day": (AZURE + "2023-02-29 18:15:46.68,1,1\r\n", 2, "date-time"),
    "other zone": (AZURE + "2023-11-16 18:15:46.68+01:00,1,1\r\n", 2, "date-time"),
    "long fraction": (AZURE + f"{STAMP}123456789,1,1\r\n", 2, "date-time"),
    "unknown predecessor": (SESSIONS + "a,0,9,9,,0\nb,0,99,9,c,0\n", 3, "'c' is the request_id of no"),
    "cycle": (SESSIONS + "a,0,99,9,b,0\nb,0,99,9,a,0\n", 2, "unknown, or a cycle"),
    "own predecessor": (SESSIONS + "a,0,99,9,a,0\n", 2, "a cycle"),
    "two followers": (SESSIONS + "a,0,9,9,,0\nb,0,99,9,a,0\nc,0,99,9,a,0\n", 4, "a chain"),
    "id twice": (SESSIONS + "a,0,9,9,,0\na,0,99,9,a,0\n", 3, "request_id 'a' appears twice"),
    "no id": (SESSIONS + ",0,9,9,,0\n", 2, "request_id '' must be there"),
    "short prompt": (SESSIONS + "a,0,9,9,,0\nb,0,17,9,a,0\n", 3, "fewer than the 18"),
    "thinks back": (SESSIONS + "a,0,9,9,,-1\n", 2, "think_s '-1' must be seconds"),
    "thinks words": (SESSIONS + "a,0,9,9,,soon\n", 2, "think_s 'soon' is not a number"),
    "JSON session": ('{"timestamp": 0, "input_length": 6, "output_length": 5, "session": "s"}\n' * 2, 2, "fewer than"),
    "invalid JSON": (MOONCAKE + '{"timestamp": 1,\n', 2, "not valid JSON"),
    "JSON list": (MOONCAKE + "[1, 2]\n", 2, "must be a JSON object"),
    "JSON key": ('{"timestamp": 0, "input_lenght": 1, "output_length": 1}', 1, "'input_lenght'?"),
    "JSON text": (MOONCAKE.replace("600", '"600"'), 1, "is not a number"),
    "JSON boolean": (MOONCAKE.replace("600", "true"), 1, "is not a number"),
    "JSON NaN": (MOONCAKE.replace("600", "NaN"), 1, "whole number"),
    "JSON huge": (MOONCAKE.replace("600", "9" * 400), 1, "is not a number"),
    "JSON digits": (MOONCAKE.replace("600", "9" * 5000), 1, "not valid JSON"),
    "JSON depth": ("[" * 100_000, 1, "not valid JSON"),
    "JSON order": (MOONCAKE.replace(": 0", ": 9") + MOONCAKE, 2, "earlier"),
    "hash text": (MOONCAKE.replace("[1, 2]", '["a"]'), 1, "hash_ids"),
    "hash missing": (MOONCAKE + MOONCAKE.replace("hash_ids", "hashes"), 2, "hash_ids"),
    "hash too many": (MOONCAKE.replace("[1, 2]", "[1, 2, 3]"), 1, "3 hash_ids"),
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


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"rate": 0}, "--rate"),
    ({"rate": -1.0}, "--rate"),
    ({"rate": float("nan")}, "--rate"),
    ({"rate": float("inf")}, "--rate"),
    ({"rate": 10**400}, "--rate"),
    ({"rate": True}, "--rate"),
    ({"rate": "5"}, "--rate"),
    ({"rate": 1.0, "closed_loop": 4}, "--rate"),
    ({"closed_loop": 0}, "--closed-loop"),
    ({"closed_loop": 4, "duration": 5.0}, "--duration"),
    ({"limit": 0}, "--requests"),
    ({"limit": 2**31}, "--requests"),
    ({"limit": 1.5}, "--requests"),
    ({"rate": 1.0, "input_len": 0, "output_len": 1}, "--input-len"),
    ({"rate": 1.0, "input_len": 1, "output_len": 2**31}, "--output-len"),
    ({"rate": 1.0, "input_len": 1}, "--output-len"),
    ({"rate": 1.0, "output_len": 1}, "--input-len"),
    ({"rate": 1.0, "lengths": "fixed"}, "--lengths"),
    ({"input_len": 1, "output_len": 1}, "1+1 tokens"),
    ({"cv": 2.0}, "--cv"),
    ({"rate": 1.0, "arrivals": "gamma"}, "--cv"),
    ({"rate": 1.0, "arrivals": "poisson", "cv": 1.0}, "--cv"),
    ({"rate": 1.0, "cv": 0.0}, "--cv"),
    ({"seed": -1}, "--seed"),
    ({"seed": 1.5}, "--seed"),
    ({"duration": 0.0}, "--duration"),
    ({"rate_scale": 2.0}, "--rate-scale"),
    ({"spread": 3.0}, "--spread"),
    ({"block_size": 65_537}, "block_size"),
]


@pytest.mark.parametrize(("options", "subject"), BAD_OPTIONS)
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
