"""Are results those of the calls, is a worker's death one task's alone, does nothing stay behind?"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from opbyte.analysis.parallel.local import TRIES, Crew, Workers
from opbyte.analysis.parallel.study import Store, Study
from opbyte.workloads.errors import CapacityError, InputError


@pytest.fixture(autouse=True)
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tasks, on the path that spawned workers take over."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return import_module("parallel_tasks")


@pytest.mark.parametrize(("workers", "isolated"), [(1, False), (1, True), (3, False)])
def test_every_task_has_the_result_of_its_call(tasks: ModuleType, workers: int, isolated: bool) -> None:
    with Crew(workers, isolated) as crew:
        for size in (0, 1, 7):  # workers stay from call to call
            found = dict(crew.run(tasks.square, range(size)))
            assert found == {i: i * i for i in range(size)}


def test_a_death_is_told_in_a_line_and_costs_one_task(tasks: ModuleType) -> None:
    with Crew(2) as crew:
        found = dict(crew.run(tasks.die_over_three, range(6), len))
        assert {i: n for i, n in found.items() if i != 3} == {i: i for i in range(6) if i != 3}
        assert found[3] == len(f"its worker died {TRIES} times (signal SIGKILL); too little memory?")
        with pytest.raises(InputError, match=r"^a simulation: its worker died 2 times \(signal SIG"):
            list(crew.run(tasks.die_over_three, range(6)))
        assert dict(crew.run(tasks.square, [4])) == {0: 16}


def test_a_task_is_tried_again(tasks: ModuleType, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in "ab"]
    with Crew(2) as crew:
        assert dict(crew.run(tasks.die_once, files)) == dict(enumerate(files))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_call_raises_reaches_the_caller(tasks: ModuleType, workers: int) -> None:
    with Crew(workers) as crew:
        with pytest.raises(CapacityError, match="needs 2 GiB, has 1"):
            dict(crew.run(tasks.refuse, range(6)))
        assert dict(crew.run(tasks.square, range(3))) == {0: 0, 1: 1, 2: 4}  # nothing of before is left


def test_a_result_that_cannot_be_sent_is_an_error_of_its_task(tasks: ModuleType) -> None:
    with Crew(2) as crew, pytest.raises(Exception, match="pickle"):
        dict(crew.run(tasks.whole, range(3)))


class Evens(Store[int, int]):
    """Numbers are known by themselves, and results of even ones alone stand."""

    def key(self, point: int) -> str:
        return str(point)

    def holds(self, key: str, point: int) -> bool:
        return super().holds(key, point) and point % 2 == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_evaluates_what_its_store_lacks_in_the_order_of_its_points(tasks: ModuleType, workers: int) -> None:
    study = Study(tasks.square, workers=Workers(workers), store=Evens())
    told: list[tuple[int, int]] = []
    assert study.results([3, 2, 3, 5]) == [9, 4, 9, 25]
    assert study.ran == 3  # a point asked for twice runs once
    assert study.results([2, 3, 4], lambda *done: told.append(done)) == [4, 9, 16]
    assert study.ran == 5
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_study_says_what_cannot_be_and_what_is_best(tasks: ModuleType) -> None:
    study = Study(tasks.refuse, lambda each: (each % 3, -each), refusals=(CapacityError,))
    found, refused = study.fitting(range(6))
    assert len(found) + len(refused) == 6
    assert {type(error) for error in refused} == {CapacityError}
    costs = [(each % 3, -each) for each in found]
    assert [(each % 3, -each) for each in study.ranked(found)] == sorted(costs)
    best = {a for a in costs if not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in costs)}
    assert {(each % 3, -each) for each in study.front(found)} == best
    assert study.front([]) == []
    with pytest.raises(InputError, match="--workers: cannot be combined with --dask"):
        Workers(2, "tcp://localhost:1")
