"""Readers of CSV formats: Azure 2023 and 2024, BurstGPT, our `requests.csv`, and lengths without arrivals.

Azure date-time timestamps in seconds, with the seventh digit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..csvfile import Column, header_of, numbers, read_columns
from .agents import chances, check_order, times, tokens
from .formats import request_format
from .labelling import COLUMNS, LabelReader
from .options import MAX_SIZE
from .rows import Rows
from .sessions import meant, session_columns, turns_reader

_STAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d{0,9})?(?:Z|\+00:00)?", re.ASCII)


def seconds(column: Column) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Parse ``YYYY-MM-DD hh:mm:ss[.fraction]`` with up to 9 fractional digits.

    Timestamps are UTC; ``Z`` or ``+00:00`` may say so, other zones are refused.

    Returns
    -------
    whole : int64 array
        Whole seconds since 1970.
    fraction : float64 array
        The rest [s], below 1. Separate, because a float64 of both has only 0.2 us.
    """
    parts = [_parts(cell) for cell in column.cells]
    try:
        dates = np.array([date for date, _ in parts], dtype="datetime64[s]").astype(np.int64)
    except ValueError:
        bad = next(i for i, (date, _) in enumerate(parts) if not _is_date(date))
        raise column.error(bad, "is not a date-time like 2023-11-16 18:15:46.6805900") from None
    return dates, np.array([float(fraction) for _, fraction in parts])


def _parts(cell: object) -> tuple[str, str]:
    """Return a timestamp's date and time, and its fraction; an invalid timestamp gives an invalid date."""
    match = _STAMP.fullmatch(str(cell))
    return (match[1], f"{match[2] or '.'}0") if match else ("no date", "0")


def _is_date(text: str) -> bool:
    try:
        np.datetime64(text, "s")
    except ValueError:
        return False
    return True


AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")
OWN = ("arrival_s", "input_tokens", "output_tokens")
NAMED = {"adapter": "adapters", "images": "images"}
"""Optional columns of whole numbers, and the field of `Rows` for each."""
ACCEPTANCE = "acceptance"
"""Optional column: probability that a draft token of the request is accepted, at every position; empty if unknown."""
LENGTHS = ("num_prefill_tokens", "num_decode_tokens")


@request_format("azure", AZURE)
def read_azure(path: Path) -> Iterator[Rows]:
    """Read an Azure LLM inference trace: UTC timestamp, tokens in, tokens out.

    Source: Azure/AzurePublicDataset, AzureLLMInferenceTrace_{code,conv}.csv (CC-BY 4.0).
    """
    origin: int | None = None
    last = -np.inf
    for stamp, context, generated in read_columns(path, AZURE):
        dates, fraction = seconds(stamp)
        if origin is None:
            origin = int(dates[0])
        arrival_s = (dates - origin) + fraction
        last = check_order(stamp, arrival_s, last)
        yield Rows(arrival_s, tokens(context), tokens(generated))


@request_format("burstgpt", BURSTGPT)
def read_burstgpt(path: Path) -> Iterator[Rows]:
    """Read a BurstGPT trace: timestamp [s], tokens in and out; requests without a response are skipped.

    Source: HPMLL/BurstGPT (CC-BY 4.0; arXiv 2401.17644), whose failed requests have 0 response tokens.
    """
    last = -np.inf
    for stamp, request, response in read_columns(path, BURSTGPT):
        arrival_s = times(stamp)
        last = check_order(stamp, arrival_s, last)
        answered = np.flatnonzero(numbers(response, 0, MAX_SIZE, whole=True)).tolist()
        if answered:
            inputs, outputs = tokens(_some(request, answered)), tokens(_some(response, answered))
            yield Rows(arrival_s[answered], inputs, outputs)


def _some(column: Column, rows: list[int]) -> Column:
    lines, cells = [column.lines[i] for i in rows], [column.cells[i] for i in rows]
    return replace(column, lines=lines, cells=cells)


@request_format("requests", OWN)
def read_own(path: Path) -> Iterator[Rows]:
    """Read a `requests.csv` as simulations write it and servers' logs are kept; arrivals in s.

    Optional columns: of `sessions`; of `NAMED`, integers from 0: ``adapter``, the one that a request uses, and
    ``images``, their number; `ACCEPTANCE`; and of `labelling`.
    """
    header = header_of(path)
    as_named = meant(header, str(path))
    names = session_columns(as_named, str(path))
    more = tuple(name for name in (*NAMED, ACCEPTANCE, *COLUMNS) if name in header)
    sessions, labels, last = turns_reader(names), LabelReader(), -np.inf
    for columns in read_columns(path, (*OWN, *(as_named[name] for name in names if name in as_named), *more)):
        arrival_s = times(columns[0])
        last = check_order(columns[0], arrival_s, last)
        rows = Rows(arrival_s, tokens(columns[1]), tokens(columns[2]))
        by_name = {column.name: column for column in columns}
        readers: dict[str, Any] = {
            field: numbers(by_name[name], 0, MAX_SIZE, whole=True).astype(np.int64)
            for name, field in NAMED.items() if name in more
        }  # fmt: skip
        if ACCEPTANCE in more:
            readers["acceptance"] = chances(by_name[ACCEPTANCE])
        rows = replace(rows, **readers, labels=labels.read(by_name, len(rows)))
        named = {name: by_name[as_named[name]] for name in names if name in as_named}
        empty = replace(columns[0], cells=[""] * len(rows))
        named |= {name: empty for name in names if name not in as_named}
        yield sessions.read(named.__getitem__, rows)


@request_format("lengths", LENGTHS, has_arrivals=False)
def read_lengths(path: Path) -> Iterator[Rows]:
    """Read prompt and output lengths without arrivals (Vidur's processed traces)."""
    for prefill, decode in read_columns(path, LENGTHS):
        inputs = tokens(prefill)
        yield Rows(np.zeros(len(inputs)), inputs, tokens(decode))
