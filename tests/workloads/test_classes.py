"""Are classes read as they are written, drawn by their shares, and wrong ones refused in one line?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opbyte.simulator.scenario.options import Workload
from opbyte.workloads.errors import InputError
from opbyte.workloads.requests.classes import read_classes, without_bounds

TWO = "chat:share=0.75,ttft_p99=0.5,tpot=0.05;batch:share=0.25,priority=2,tenants=3,max_waiting=4,max_wait=9"


def test_a_line_and_a_file_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "chat: {share: 0.75, ttft_p99: 0.5, tpot: 0.05}\n"
        "batch: {share: 0.25, priority: 2, tenants: 3, max_waiting: 4, max_wait: 9}\n"
    )
    chat, batch = read_classes(TWO)
    assert (chat, batch) == read_classes(str(path))
    assert [(p.latency, p.most_s, p.share) for p in chat.promises] == [("ttft", 0.5, 0.99), ("tpot", 0.05, None)]
    assert (batch.priority, batch.tenants, batch.max_waiting, batch.max_wait) == (2, 3, 4, 9.0)
    free = read_classes(without_bounds(TWO))
    assert free[0] == chat
    assert not free[1].bounded
    assert free[1].tenants == 3


def test_drawn_by_their_shares() -> None:
    """Within four standard deviations of a binomial; the same whatever the number of requests."""
    load = Workload(rate=1.0, requests=4000, input_len=5, output_len=5, classes=TWO)
    block = load.open(3).read()
    assert block.labels is not None
    batch = block.labels.kind == 1
    assert abs(batch.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    assert (block.labels.priority == 2 * batch).all()
    names = np.array(block.labels.tenants)[block.labels.tenant]
    assert set(names[batch]) == {"batch-0", "batch-1", "batch-2"}
    assert set(names[~batch]) == {"chat"}
    plain = Workload(rate=1.0, requests=4000, input_len=5, output_len=5).open(3).read()
    assert np.array_equal(plain.arrival_s, block.arrival_s)  # a class shifts no other draw
    fewer = Workload(rate=1.0, requests=100, input_len=5, output_len=5, classes=TWO).open(3).read()
    assert fewer.labels is not None
    assert np.array_equal(fewer.labels.kind, block.labels.kind[:100])


def test_lengths_of_a_class() -> None:
    load = Workload(
        rate=1.0, requests=50, input_len=5, output_len=6, classes="a:share=0.5;b:share=0.5,input_len=70,output_len=80"
    )
    block = load.open(0).read()
    assert block.labels is not None
    kind = block.labels.kind
    assert block.input_tokens.tolist() == [(5, 70)[k] for k in kind]
    assert block.output_tokens.tolist() == [(6, 80)[k] for k in kind]


COLUMNS = "arrival_s,input_tokens,output_tokens,class,priority,tenant\n"


def traced(tmp_path: Path, rows: str, classes: str | None = None) -> Workload:
    path = tmp_path / "requests.csv"
    path.write_text(COLUMNS + rows)
    return Workload(trace=str(path), classes=classes)


def test_a_trace_says_who_asks(tmp_path: Path) -> None:
    rows = "0,5,5,batch,,x\n1,5,5,,-3,\n2,5,5,chat,7,y\n"
    labels = traced(tmp_path, rows, "chat:share=1;batch:share=0,priority=2".replace("0,", "1e-9,"))
    found = labels.open(0).read().labels
    assert found is not None
    assert [found.kinds[k] for k in found.kind] == ["batch", "chat", "chat"]
    assert found.priority.tolist() == [2, -3, 7]
    assert [found.tenants[t] for t in found.tenant] == ["x", "chat", "y"]
    alone = traced(tmp_path, rows).open(0).read().labels
    assert alone is not None
    assert [alone.kinds[k] for k in alone.kind] == ["batch", "all", "chat"]
    assert alone.priority.tolist() == [0, -3, 7]


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ("0,5,5,chta,1,\n", "row 1: class 'chta' is none of --classes; did you mean 'chat'"),
        ("0,5,5,chat,high,\n", "priority 'high' is not a number"),
        ("0,5,5,chat,1.5,\n", "priority '1.5' must be a whole number"),
    ],
)
def test_bad_columns_are_refused(tmp_path: Path, rows: str, part: str) -> None:
    with pytest.raises(InputError) as found:
        traced(tmp_path, rows, "chat:ttft=1").open(0).read()
    assert part in str(found.value)
