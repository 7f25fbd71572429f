"""Do the readers give what is in the files?

Expected numbers of real files are the summary table of the data folder's traces/README.md.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import MAX_BLOCK, PREFIX_BLOCK_TOKENS, RequestBlock, open_requests

AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"

REAL = {
    "AzureLLMInferenceTrace_code.first6000.csv": (
        (6000, 1898, 3.16, 13.19),
        (2027, 1453, 5025, 7436, 7437),
        (27, 13, 53, 248, 1899),
    ),
    "AzureLLMInferenceTrace_conv.first14000.csv": (
        (14000, 2366, 5.92, 1.08),
        (1199, 1015, 4074, 4122, 14050),
        (201, 115, 421, 598, 1000),
    ),
    "mooncake_conversation_trace.first9000.jsonl": (
        (9000, 2718, 3.31, 2.99),
        (12207, 7110, 27535, 87278, 124847),
        (347, 355, 605, 1185, 2000),
    ),
}


def assert_lengths(tokens: np.ndarray, expected: tuple[int, ...]) -> None:
    # The table's quantiles are rounded data points; numpy's interpolate between two.
    assert tokens.mean() == pytest.approx(expected[0], abs=0.5)
    quantiles = np.quantile(tokens, [0.5, 0.9, 0.99], method="higher")
    assert quantiles == pytest.approx(expected[1:4], rel=0.002, abs=1)
    assert tokens.max() == expected[4]


def gap_cv(block: RequestBlock) -> float:
    gaps = np.diff(block.arrival_s)
    return float(gaps.std() / gaps.mean())


@pytest.mark.parametrize("name", REAL)
def test_real_traces_match_their_summary(data: Path, name: str) -> None:
    (count, span, rate, cv), inputs, outputs = REAL[name]
    block = open_requests(data / "traces" / name).read()
    assert len(block) == count
    assert block.request_id.tolist() == list(range(count))
    assert block.arrival_s[0] == 0
    assert block.arrival_s[-1] == pytest.approx(span, abs=0.5)
    assert count / block.arrival_s[-1] == pytest.approx(rate, abs=0.005)
    assert gap_cv(block) == pytest.approx(cv, abs=0.005)
    assert_lengths(block.input_tokens, inputs)
    assert_lengths(block.output_tokens, outputs)


BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def test_burstgpt_leaves_failed_requests_out(write: Callable[..., Path]) -> None:
    rows = "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n118.5,GPT-4,417,276,693,API log\n"
    block = open_requests(write(BURSTGPT + rows)).read()
    assert block.arrival_s.tolist() == [0.0, 113.5]
    assert block.input_tokens.tolist() == [472, 417]
    assert block.output_tokens.tolist() == [18, 276]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("7,m,0,5,5,log", r":3: Request tokens '0' must be a whole number of tokens"),
        ("7,m,3,-1,2,log", r":3: Response tokens '-1'"),
        ("4,m,3,1,2,log", r":3: Timestamp '4' is earlier"),
    ],
)
def test_burstgpt_names_the_line_of_a_bad_cell(write: Callable[..., Path], row: str, said: str) -> None:
    path = write(BURSTGPT + f"5,m,1,2,3,log\n{row}\n")
    with pytest.raises(InputError, match=said):
        open_requests(path).read()


def test_azure_keeps_the_seventh_digit(write: Callable[..., Path]) -> None:
    rows = "2023-12-31 23:59:59.9999999,1,2\r\n2024-01-01 00:00:00.0000001,3,4\r\n"
    block = open_requests(write(AZURE_HEADER + rows)).read()
    assert block.arrival_s[1] == pytest.approx(2e-7, rel=1e-6)


def test_azure_stamps_agree_with_the_standard_library(data: Path) -> None:
    path = data / "traces" / "AzureLLMInferenceTrace_conv.first14000.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    stamps = [datetime.fromisoformat(row[0]) for row in rows]
    expected = [(stamp - stamps[0]).total_seconds() for stamp in stamps]
    block = open_requests(path).read()
    assert block.arrival_s == pytest.approx(expected, abs=1e-6)
    assert block.input_tokens.tolist() == [int(row[1]) for row in rows]
    assert block.output_tokens.tolist() == [int(row[2]) for row in rows]


def test_azure_accepts_a_utc_zone(write: Callable[..., Path]) -> None:
    rows = "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01+00:00,2399,6\n"
    block = open_requests(write(AZURE_HEADER + rows)).read()
    assert block.arrival_s == pytest.approx([0, 0.99007])


def test_mooncake_hashes_cover_the_prompt(data: Path) -> None:
    block = open_requests(data / "traces" / "mooncake_conversation_trace.first9000.jsonl").read()
    assert block.hash_ids is not None
    blocks = -(-block.input_tokens // PREFIX_BLOCK_TOKENS)
    assert [len(ids) for ids in block.hash_ids] == blocks.tolist()
    assert len(np.unique(block.arrival_s)) == 907  # README: 907 distinct stamps
    assert np.abs(block.arrival_s - 3 * np.rint(block.arrival_s / 3)).max() < 0.005


def test_spread_keeps_bins_and_order(data: Path) -> None:
    path = data / "traces" / "mooncake_conversation_trace.first9000.jsonl"
    raw, spread = open_requests(path).read(), open_requests(path, spread=3.0).read()
    moved = spread.arrival_s - raw.arrival_s
    assert moved.min() == 0
    assert moved.max() < 3
    assert (np.diff(spread.arrival_s) > 0).all()
    assert spread.hash_ids == raw.hash_ids
    first = spread.arrival_s[raw.arrival_s == 0]
    assert np.diff(first) == pytest.approx(3 / len(first))


def test_spread_does_not_depend_on_chunks(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{i},{i // 7},5,5\n" for i in range(500))
    path = write("request_id,arrival_s,input_tokens,output_tokens\n" + rows)
    whole = open_requests(path, spread=1.0).read()
    monkeypatch.setattr("opbyte.workloads.textfile.CHUNK_BYTES", 64)
    assert np.array_equal(open_requests(path, spread=1.0).read().arrival_s, whole.arrival_s)


@pytest.mark.parametrize("run", ["rtx4090--llama-3.1-8b", "rtxpro6000--llama-3.1-8b"])
def test_measured_runs_are_readable(data: Path, run: str) -> None:
    path = data / "serving_runs" / run / "requests.csv"
    table = np.genfromtxt(path, delimiter=",", names=True)
    block = open_requests(path).read()
    assert len(block) == 300
    assert block.arrival_s.tolist() == table["arrival_s"].tolist()
    assert block.input_tokens.tolist() == table["input_tokens"].tolist()
    assert block.output_tokens.tolist() == table["output_tokens"].tolist()


def test_lengths_need_a_rate_or_a_closed_loop(data: Path) -> None:
    path = data / "traces" / "arxiv_summarization_lengths.first20000.csv"
    block = open_requests(path, rate=4.0).read()
    assert len(block) == 20_000
    assert_lengths(block.input_tokens, (2582, 2720, 3702, 3935, 4046))
    assert_lengths(block.output_tokens, (296, 167, 373, 3298, 4056))
    assert np.diff(block.arrival_s).mean() == pytest.approx(1 / 4, rel=0.03)
    stream = open_requests(path, closed_loop=32, limit=100)
    assert stream.closed_loop == 32
    assert not stream.has_arrivals
    assert stream.read().arrival_s.tolist() == [0.0] * 100


def test_limit_duration_and_scale(data: Path) -> None:
    path = data / "traces" / "AzureLLMInferenceTrace_conv.first14000.csv"
    whole = open_requests(path).read()
    assert np.array_equal(open_requests(path, limit=100).read().arrival_s, whole.arrival_s[:100])
    hour = open_requests(path, duration=600.0).read()
    assert len(hour) == (whole.arrival_s < 600).sum()
    fast = open_requests(path, rate_scale=2.0).read()
    assert np.array_equal(fast.arrival_s, whole.arrival_s / 2)
    poisson = open_requests(path, rate=1.0).read()
    assert np.array_equal(poisson.input_tokens, whole.input_tokens)
    assert np.diff(poisson.arrival_s).mean() == pytest.approx(1.0, rel=0.03)


def test_format_is_told_from_content(write: Callable[..., Path]) -> None:
    path = write(b"\xef\xbb\xbf\n" + b'"output_tokens", arrival_s,input_tokens\n7,5,3\n', "a.jsonl")
    block = open_requests(path).read()
    assert (block.input_tokens[0], block.output_tokens[0], block.arrival_s[0]) == (3, 7, 0)


def test_quoted_cells_and_blank_lines(write: Callable[..., Path]) -> None:
    text = 'request_id,arrival_s,input_tokens,output_tokens\n"a,b",0,"3",4\n\nc,1,5,6\n\n'
    block = open_requests(write(text)).read()
    assert block.input_tokens.tolist() == [3, 5]


def test_a_stream_can_be_read_twice(write: Callable[..., Path]) -> None:
    stream = open_requests(write("num_prefill_tokens,num_decode_tokens\n1,2\n3,4\n"), rate=1.0)
    assert stream.read().arrival_s.tobytes() == stream.read().arrival_s.tobytes()


def test_memory_stays_bounded_on_a_large_trace(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    start = datetime(2023, 11, 16)
    with path.open("w", newline="") as file:
        file.write(AZURE_HEADER)
        for i in range(800_000):
            if i % 1000 == 0:
                stamp = f"{start + timedelta(seconds=i // 1000):%Y-%m-%d %H:%M:%S}"
            file.write(f"{stamp}.{i % 1000:03d}0000,{i % 4000 + 1},{i % 300 + 1}\r\n")
    assert path.stat().st_size > 29e6
    tracemalloc.start()
    try:
        count = total = 0
        for block in open_requests(path):
            assert len(block) <= MAX_BLOCK
            count += len(block)
            total += int(block.input_tokens.sum())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 800_000
    assert total == 200 * sum(range(1, 4001))
    assert peak < 40e6  # about 40 bytes per byte of one 1 MiB chunk, whatever the file's size
