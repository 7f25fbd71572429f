"""Do arrivals follow the rate that a profile or a trace says over time, at the mean that is asked for?

Expected values: the same process without a profile, integrals of the rate, ServeGen's own windows.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opbyte.workloads.errors import InputError
from opbyte.workloads.requests import RequestStream, open_requests
from opbyte.workloads.requests.arrivals import Profile, profile_of
from opbyte.workloads.requests.servegen import find_clients, window_rates

F8 = np.ndarray[tuple[int], np.dtype[np.float64]]


def arrivals(load: RequestStream) -> F8:
    return np.concatenate([block.arrival_s for block in load])


def generated(**options: object) -> RequestStream:
    return open_requests(input_len=10, output_len=2, seed=3, **options)  # type: ignore[arg-type]


def test_a_flat_profile_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "flat.csv"
    path.write_text("start_s,rate\n0,7\n60,7\n")
    plain = arrivals(generated(rate=5.0, limit=2000))
    np.testing.assert_allclose(arrivals(generated(rate=5.0, limit=2000, rate_profile=path)), plain, rtol=1e-12)
    even = arrivals(generated(rate=5.0, limit=2000, rate_profile="diurnal:0"))
    np.testing.assert_allclose(even, plain, rtol=1e-9)


@given(
    rates=st.lists(st.floats(0.0, 10.0), min_size=2, max_size=6).filter(lambda r: max(r) > 0.1),
    lengths=st.lists(st.floats(0.5, 50.0), min_size=6, max_size=6),
    work=st.lists(st.floats(0.0, 500.0), min_size=1, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_what_has_come_by_a_time_is_the_integral_of_the_rate(
    rates: list[float], lengths: list[float], work: list[float]
) -> None:
    """The time that a profile gives has seen as much of the rate, worked out by a fine sum."""
    edges = np.concatenate([[0.0], np.cumsum(lengths[: len(rates)])])
    profile = Profile.of(edges[:-1], np.array(rates), float(edges[-1]))
    mean = float(np.dot(rates, np.diff(edges))) / edges[-1]
    done = np.concatenate([[0.0], np.cumsum(np.array(rates) * np.diff(edges))]) / mean
    found = profile.at(np.sort(np.array(work)))
    assert (np.diff(found) >= 0).all()
    turns, rest = np.divmod(found, edges[-1])
    expected = turns * edges[-1] + np.interp(rest, edges, done)
    # A time on an edge of the period is its end or its start.
    np.testing.assert_allclose(expected, np.sort(work), rtol=1e-9, atol=1e-6)


def test_a_wave_has_its_depth_and_mean() -> None:
    """A quarter of the period around its middle has 1/4 + DEPTH sin(pi/4)/pi of all, by the integral."""
    times = arrivals(generated(rate=50.0, duration=4000.0, rate_profile="diurnal:0.8:1000"))
    assert len(times) == pytest.approx(200_000, rel=0.01)
    phase = np.mod(times, 1000.0) / 1000.0
    middle = np.mean(np.abs(phase - 0.5) < 0.125)
    assert middle == pytest.approx(0.25 + 0.8 * np.sin(np.pi / 4) / np.pi, abs=0.005)


def test_bursts_stay_bursts() -> None:
    """Gamma gaps of variation 3, back in the time of the mean rate, have that variation still."""
    profile = profile_of("diurnal:0.9:500")
    times = arrivals(generated(rate=20.0, cv=3.0, limit=20_000, rate_profile="diurnal:0.9:500"))
    plain = arrivals(generated(rate=20.0, cv=3.0, limit=20_000))
    np.testing.assert_allclose(profile.at(plain), times, rtol=1e-12)
    gaps = np.diff(plain)
    assert gaps.std() / gaps.mean() == pytest.approx(3.0, rel=0.05)


def client(folder: Path, name: str, rates: list[float]) -> None:
    rows = [f"{600 * i},{rate},1.0,Gamma,1.0,{1 / rate if rate else 0}" for i, rate in enumerate(rates)]
    (folder / f"{name}-trace.csv").write_text("\n".join(rows) + "\n")
    table = '{"0": {"input_tokens": "{100: 1.0}", "output_tokens": "{10: 1.0}"}}'
    (folder / f"{name}-dataset.json").write_text(table)


def test_servegen_gives_its_windows_and_takes_a_mean(tmp_path: Path) -> None:
    client(tmp_path, "a", [1.0, 0.0, 3.0, 0.5])
    client(tmp_path, "b", [0.0, 2.0, 1.0, 0.5])
    starts, rates, period = window_rates(find_clients(tmp_path))
    assert starts.tolist() == [0.0, 600.0, 1200.0, 1800.0]
    assert rates.tolist() == [1.0, 2.0, 4.0, 1.0]
    assert period == 2400.0
    own = arrivals(open_requests(tmp_path, seed=1))
    scaled = arrivals(open_requests(tmp_path, seed=1, mean_rate=4.0))
    assert len(own) == 4800
    assert len(scaled) == pytest.approx(2 * len(own), abs=8)  # windows round each by chance
    shaped = arrivals(generated(rate=4.0, duration=2400.0, rate_profile=tmp_path))
    for times in (scaled, shaped):
        counts = np.histogram(times, [0, 600, 1200, 1800, 2400])[0] / 1200.0
        np.testing.assert_allclose(counts, [1.0, 2.0, 4.0, 1.0], rtol=0.1)


def test_a_slice_counts_from_its_begin(tmp_path: Path) -> None:
    client(tmp_path, "a", [1.0, 2.0, 3.0])
    own = arrivals(open_requests(tmp_path, seed=1))
    part = arrivals(open_requests(tmp_path, seed=1, since=700.0, duration=400.0))
    expected = own[(own >= 700.0) & (own < 1100.0)] - 700.0
    np.testing.assert_allclose(part, expected, rtol=1e-12)
    late = generated(rate=2.0, since=100.0, limit=5)
    all_of_it = arrivals(generated(rate=2.0, limit=1000))
    np.testing.assert_allclose(arrivals(late), all_of_it[all_of_it >= 100.0][:5] - 100.0)


def test_a_file_takes_a_mean(tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n5,1,1\n6,1,1\n10,1,1\n15,1,1\n")
    found = arrivals(open_requests(path, mean_rate=0.8))
    assert found.tolist() == [0.0, 0.5, 2.5, 5.0]


@pytest.mark.parametrize(("options", "says"), [
    ({"rate_profile": "diurnal:0.5"}, "--rate-profile: needs --rate"),
    ({"rate": 1.0, "rate_profile": "diurnal:2"}, "a depth from 0 to 1"),
    ({"rate": 1.0, "rate_profile": "diurnal"}, "a depth from 0 to 1"),
    ({"rate": 1.0, "rate_profile": "diurnal:0.5:1e-320"}, "a period of 0.001 s or more"),
    ({"rate": 1.0, "rate_profile": "nowhere.csv"}, "must be diurnal:DEPTH, a CSV with start_s, rate"),
    ({"mean_rate": 1.0}, "--mean-rate: needs a trace"),
    ({"closed_loop": 2, "since": 3.0}, "--since: cannot be combined with --closed-loop"),
    ({"rate": 1.0, "since": 5.0, "turns": 3.0}, "--since: cannot be used for"),
])  # fmt: skip
def test_what_cannot_be_is_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        generated(limit=5, **options).read()


@pytest.mark.parametrize(("rows", "says"), [
    ("0,1\n", "two steps or more"), ("0,1\n0,2\n", "two steps or more"), ("0,0\n1,0\n", "no rate above"),
    ("0,1\n1e-320,2\n", "0.001 s or more"), ("0,1e-320\n1,0\n", "no rate above"),
    ("0,1\n5,-1\n", r":3: rate .*not negative"), ("5,1\n0,1\n", r":3: start_s .*earlier"),
])  # fmt: skip
def test_a_bad_profile_names_its_line(tmp_path: Path, rows: str, says: str) -> None:
    path = tmp_path / "profile.csv"
    path.write_text("start_s,rate\n" + rows)
    with pytest.raises(InputError, match=says):
        profile_of(str(path))


def test_a_long_day_streams(tmp_path: Path) -> None:
    """Ten times the requests take no more memory: blocks are drawn and let go."""
    client(tmp_path, "a", [20.0] * 60)
    peaks = []
    for duration in (3600.0, 36_000.0):
        tracemalloc.start()
        for _ in open_requests(tmp_path, seed=1, mean_rate=20.0, since=60.0, duration=duration):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
