"""Do hosts say what their sources measured, and may no slower link make a collective faster?

Expected values: the rows of two RTX 6000 Ada over PCIe 4.0 (measured_more of the data folder), the
device's own prices, and orders that physics demands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opbyte.analysis.answers.description import describe
from opbyte.analysis.validate.kernels import validate_kernels
from opbyte.devices.calibrated.allreduce import ALLREDUCE
from opbyte.devices.catalog import list_devices, load_device, load_system
from opbyte.devices.device import build_device, can_calibrate
from opbyte.devices.hosts.catalog import host_of, joined, link_of, list_hosts, load_host, placed_in
from opbyte.devices.hosts.links import HostedLinks
from opbyte.devices.hosts.spec import FittedSpec, HostFitSpec, HostSpec
from opbyte.devices.link import LinkModel
from opbyte.devices.prices import ALONE
from opbyte.simulator.deploy.programs import _collective
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.layers import Run
from opbyte.workloads.ops import Op

CLASSES = ("pcie-peer", "pcie-host", "pcie-sockets")
"""From the quickest to the slowest."""
CALIBRATED = [name for name in list_devices() if any(map(can_calibrate, load_device(name)[0].processors.values()))]
ON_PCIE = [name for name in CALIBRATED if load_device(name)[0].link.name.startswith("pcie")]
KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
RUN = Run(load_model("llama-3-8b").numerics, "flash")


def collective(kind: str, message: float, ranks: int) -> Op:
    return _collective(kind, "x", message / RUN.numerics.act_bytes, ranks, RUN)


def links(device: str, host: HostSpec | str | None, ranks: int, costs: str = "auto") -> LinkModel:
    """The cost model of a device's collectives in a host."""
    system = load_system(f"{device}-x{ranks}")
    system = placed_in(system, host) if host is not None else system
    built = build_device(joined(system), calibrated=costs == "auto", host=host_of(system))
    return LinkModel(link_of(system), ranks, built.collectives)


def fitted(base: str, **numbers: float) -> HostSpec:
    """A class with numbers of a run."""
    told = {name: FittedSpec(value=x, low=x, high=x) for name, x in numbers.items()}
    return load_host(base)[0].model_copy(update={"fitted": HostFitSpec(run="made up", **told)})


def test_pcie_cards_name_a_class() -> None:
    """Peer access over PCIe is the host's to grant; NVLink's is in the devices' own rows."""
    assert list_hosts() == ["nvlink", *sorted(CLASSES)]
    named = {name: load_device(name)[0].host for name in CALIBRATED}
    assert {named[name] for name in ON_PCIE} == {"pcie-host", "pcie-sockets"}
    assert {name for name in ON_PCIE if named[name] == "pcie-sockets"} == {"rtx-4090"}
    assert {named[name] for name in set(CALIBRATED) - set(ON_PCIE)} == {None}


@pytest.mark.parametrize("name", ["a40", "rtx-a6000"])
def test_a_bridge_joins_two_cards_and_no_more(name: str) -> None:
    """In larger nodes a ring is as slow as PCIe, however many pairs of it are bridged."""
    two, four = (load_system(f"{name}-x{n}") for n in (2, 4))
    assert link_of(two).name == "nvlink3-bridge"
    assert host_of(two) is None
    assert link_of(four).name == "pcie4"
    assert host_of(four) == load_host("pcie-host")[0]
    message = collective("all_reduce", 2.0**24, 2)
    assert 3.0 * links(name, None, 2).cost(message).seconds < links("l40s", None, 2).cost(message).seconds
    assert link_of(placed_in(two, "pcie-host")).name == "pcie4"


def test_class_says_what_was_measured(data_set: Callable[[str], Path]) -> None:
    """Two RTX 6000 Ada without peer access: 2.0 % (median) off, small messages up to 45 %."""
    rows = data_set("measured_more") / "allreduce.csv"
    checks = validate_kernels([rows]).checks
    (ada,) = (check for check in checks if check.device == "rtx-6000-ada")
    assert (ada.basis, ada.errors.rows) == ("host pcie-host", 120)
    assert ada.errors.median_ape < 0.03
    assert ada.errors.p90_ape < 0.21
    assert abs(ada.errors.median_bias) < 0.02
    assert all(check.passed is None for check in checks)  # other machines than the fits' own


def test_peers_and_plain_links_are_the_devices_own() -> None:
    """A class that only says what the rows say changes no price."""
    for device, host in (("l40s", "pcie-peer"), ("rtx-pro-6000", "pcie-peer"), ("h100", "nvlink")):
        bare = build_device(load_device(device)[0], calibrated=True).collectives
        own = LinkModel(load_device(device)[0].link, 2, bare)
        for kind in KINDS:
            op = collective(kind, 3e5, 2)
            assert links(device, host, 2).cost(op) == own.cost(op)


SIZES = st.floats(2.0, 1e9)
RANKS = st.sampled_from([2, 3, 4, 8, 16])


@given(st.sampled_from(ON_PCIE), st.sampled_from(KINDS), SIZES, RANKS, st.sampled_from(["auto", "roofline"]))
def test_no_class_beats_the_one_above(device: str, kind: str, message: float, ranks: int, costs: str) -> None:
    """Through host memory is never faster than between peers on the same PCIe, nor across sockets."""
    op = collective(kind, message, ranks)
    took = [links(device, host, ranks, costs).cost(op).seconds for host in CLASSES]
    assert all(b >= a * (1.0 - 1e-9) for a, b in pairwise(took))
    assert took[0] >= message * (ranks - 1) / ranks / load_device(device)[0].link.bandwidth_bytes_per_s


@given(
    st.sampled_from(CALIBRATED), st.sampled_from(KINDS), SIZES, st.floats(1.0, 4.0), RANKS,
    st.floats(0.1, 8.0), st.floats(0.0, 5e-5),
)  # fmt: skip
def test_more_bytes_are_never_faster(
    device: str, kind: str, message: float, factor: float, ranks: int, multiple: float, hop: float
) -> None:
    base = "pcie-host" if device in ON_PCIE else "nvlink"
    for host in (base, fitted(base, link_multiple=multiple, link_latency_s=hop)):
        model = links(device, host, ranks)
        small, large = (model.cost(collective(kind, b, ranks)).seconds for b in (message, message * factor))
        assert large >= small * (1 - 1e-12)


@given(st.sampled_from(ON_PCIE), st.sampled_from(KINDS), SIZES, RANKS, st.floats(0.05, 1.0), st.floats(0.05, 1.0))
def test_a_slower_link_never_takes_less(
    device: str, kind: str, message: float, ranks: int, one: float, other: float
) -> None:
    """By the rate of the ring, the bandwidth of the link, the multiple and the latency of a run."""
    op, base = collective(kind, message, ranks), load_host("pcie-host")[0]
    low, high = sorted((one, other))

    def took(**over: object) -> float:
        link = base.link.model_copy(update={"spread": None, **over})
        return links(device, base.model_copy(update={"link": link}), ranks).cost(op).seconds

    less = 1 - 1e-12  # but for rounding
    assert took(rate=low) >= took(rate=high) * less
    wide, narrow = (took(bandwidth_bytes_per_s=x * 1e11) for x in (high, low))
    assert narrow >= wide * less
    for name, unit in (("link_multiple", 10.0), ("link_latency_s", 1e-4)):
        pair = [links(device, fitted("pcie-host", **{name: x * unit}), ranks).cost(op).seconds for x in (low, high)]
        assert pair == sorted(pair)


@given(st.sampled_from(CALIBRATED), st.sampled_from(KINDS), SIZES, RANKS, st.floats(0.5, 4.0), st.floats(0.0, 1e-5))
def test_readable_price_and_row_agree(
    device: str, kind: str, message: float, ranks: int, multiple: float, hop: float
) -> None:
    base = "pcie-sockets" if device in ON_PCIE else "nvlink"
    op = collective(kind, message, ranks)
    for host in (base, fitted(base, link_multiple=multiple, link_latency_s=hop)):
        model = links(device, host, ranks)
        cost, row = model.cost(op), model.row(op, replace(ALONE, raised=(op,)))
        assert row.curve is not None
        assert row.curve.seconds[1] == pytest.approx(cost.seconds, rel=1e-12)
        roofline = links(device, host, ranks, "roofline")
        plain = roofline.row(op, ALONE).params
        assert roofline.cost(op).seconds == pytest.approx(op.act_bytes / plain.bytes + plain.fixed, rel=1e-12)


def test_a_fitted_host_multiplies_and_adds() -> None:
    """Twice the time, and 3 us for each of a ring's 2 (n - 1) hops."""
    op = collective("all_reduce", 1e6, 2)
    plain = links("l40s", "pcie-host", 2).cost(op)
    more = links("l40s", fitted("pcie-host", link_multiple=2.0, link_latency_s=3e-6), 2).cost(op)
    assert more.seconds == pytest.approx(2 * plain.seconds + 2 * 3e-6)
    assert more.fixed_s == pytest.approx(2 * plain.fixed_s + 2 * 3e-6)
    assert more.joules == plain.joules


HEAD = "source,device,kernel,dtype,bytes,ranks,timing,measured_s\n"


def test_tables_of_the_host_come_first(tmp_path: Path) -> None:
    """Linear between measured sizes, the class's shape beyond; other ranks keep the class."""
    rows = [(1e4, 2e-5), (1e6, 1e-4), (1e8, 5e-3)]
    text = "".join(f"me,l40s,nccl:all_reduce,bf16,{b:.0f},2,nccl-tests,{s}\n" for b, s in rows)
    (tmp_path / "allreduce.csv").write_text(HEAD + text)
    (tmp_path / "mine.yaml").write_text("kind: host\nname: mine\nextends: pcie-host\nlink: {tables: [allreduce.csv]}\n")
    host = load_host(tmp_path / "mine.yaml")[0]
    model = links("l40s", host, 2)
    for moved, seconds in [*rows, ((1e4 + 1e6) / 2, (2e-5 + 1e-4) / 2)]:
        assert model.cost(collective("all_reduce", moved, 2)).seconds == pytest.approx(seconds)
    plain = links("l40s", "pcie-host", 2)
    beyond, edge = (plain.cost(collective("all_reduce", b, 2)).seconds for b in (4e8, 1e8))
    assert model.cost(collective("all_reduce", 4e8, 2)).seconds == pytest.approx(5e-3 * beyond / edge)
    assert model.evidence([collective("all_reduce", 1e6, 2)])[0].basis == "measured"  # type: ignore[union-attr]
    other = collective("all_reduce", 1e6, 4)
    assert links("l40s", host, 4).cost(other) == links("l40s", "pcie-host", 4).cost(other)


def test_evidence_says_what_the_link_rests_on() -> None:
    """The class with its spread, wider in large messages than in small; or the run."""

    def told(host: HostSpec, assumed: bool, message: float = 1e6) -> tuple[str, str, float, float]:
        built = build_device(load_device("rtx-pro-6000")[0], calibrated=True, host=host, assumed=assumed)
        assert isinstance(built.collectives, HostedLinks)
        (found,) = built.collectives.evidence([collective("all_reduce", message, 2)])
        assert found.ratios is not None
        return found.basis, found.why, found.ratios.low, found.ratios.high

    base = load_host("pcie-host")[0]
    basis, why, low, high = told(base, True)
    assert basis == "transferred"
    assert why.startswith("assumed: no host is named, class pcie-host: all-reduces of two RTX 6000 Ada")
    assert low < 0 < high < told(base, True, 1e8)[3] <= np.log(0.36 / 0.128) + 1e-9
    assert told(base, False)[1].startswith("class pcie-host")
    peers = told(load_host("pcie-peer")[0], False)
    assert peers[1] == "class pcie-peer"
    assert peers[2] > low  # its own rows: a few percent
    assert peers[3] < high
    fit = HostFitSpec(run="a run", link_multiple=FittedSpec(value=1.5, low=1.2, high=1.8))
    assert told(base.model_copy(update={"fitted": fit}), False) == (
        "fitted", "a run: a run", pytest.approx(np.log(1.2 / 1.5)), pytest.approx(np.log(1.8 / 1.5))
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_more_than_two_peers_get_is_the_servers(kind: str) -> None:
    """Each of the two measured servers lies in the interval that the other's card has; of pairs both rest on their rows."""
    cards = ("l40s", "rtx-pro-6000")
    built = {}
    for card in cards:
        model = build_device(load_device(card)[0], calibrated=True, host=load_host("pcie-peer")[0]).collectives
        assert isinstance(model, HostedLinks)
        built[card] = model
    for ranks in (2, 4, 8):
        ops = [collective(kind, size, ranks) for size in (1e4, 1e7, 1e9)]
        for card, other in (cards, cards[::-1]):
            (found,) = built[card].evidence(ops)
            own, reduce = (built[c].base.models["all_reduce"].known.fit.values for c in (card, other))
            first, last = ALLREDUCE.index("link_2"), ALLREDUCE.index(f"link_{ranks}") + 1
            share = np.prod(reduce[first:last]) / np.prod(own[first:last])
            assert found.ratios is not None
            assert (found.basis, found.rows) == ("transferred", 700) if ranks > 2 else found.basis == "fitted"
            if ranks > 2:
                assert found.ratios.low - 0.02 <= np.log(1.0 / share) <= found.ratios.high + 0.02
                assert found.ratios.low < found.ratios.high
            else:
                assert abs(np.log(share)) < 0.05


BAD = {
    "kind: host\nname: a\nlink: {medium: pcie}\n": ("link.peer_access", "missing"),
    "kind: host\nname: a\nextends: pcie-hots\n": ("extends", "pcie-host"),
    "kind: host\nname: pcie-host\nextends: pcie-host\n": ("name", "class of the catalog"),
    "kind: hots\nname: a\nextends: pcie-host\n": ("kind", "host"),
    "name: a\nextends: nvlink\nlink: {peer_acess: true}\n": ("peer_acess", "did you mean 'peer_access'"),
    "name: a\nextends: pcie-host\nlink: {rate: 0.5}\n": ("link.rate", "no source"),
    "name: a\nextends: pcie-host\nlink: {rate: {value: 1.5, source: a guess}}\n": ("link.rate", "1"),
    "name: a\nextends: pcie-host\nlink: {rate: {value: 0.9, source: a guess}}\n": ("spread", "fast_rate"),
    "name: a\nextends: pcie-host\nfitted: {run: x, step_gap_us: {value: 3, low: 4, high: 5, source: a b}}\n":
        ("step_gap_us", "low <= value <= high"),
}  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_bad_files_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_host(path)
    message = str(error.value)
    assert "\n" not in message
    assert "bad.yaml" in message
    assert all(part in message for part in BAD[text])


def test_hosts_fit_the_kind_of_link(tmp_path: Path) -> None:
    for device, host, other in (("h100", "pcie-host", "nvlink4"), ("l40s", "nvlink", "pcie4")):
        with pytest.raises(InputError, match=other):
            placed_in(load_system(f"{device}-x2"), host)
    with pytest.raises(InputError, match="did you mean 'pcie-host'"):
        load_host("pcie-hosts")
    path = tmp_path / "pcie.yaml"
    path.write_text(
        "name: h100-pcie\nextends: pcie-host\nlink: {bandwidth_GBps: {value: 64, source: a PCIe 5.0 carrier board}}\n"
    )
    moved = links("h100", str(path), 2)
    assert moved.spec.name == "h100-pcie"
    op = collective("all_reduce", 1e8, 2)
    assert moved.cost(op).seconds > 1e8 / (0.36 * 64e9) > links("h100", "nvlink", 2).cost(op).seconds


def test_a_system_names_its_host(tmp_path: Path) -> None:
    """By a class, a file beside it, or a description; `opbyte show` prints it back."""
    (tmp_path / "box.yaml").write_text("name: box\nextends: pcie-sockets\n")
    inside = "{kind: host, name: own, link: {medium: pcie, peer_access: true, rests_on: a test}}"
    for given_host, name in (("pcie-peer", "pcie-peer"), ("box.yaml", "box"), (inside, "own")):
        path = tmp_path / "system.yaml"
        path.write_text(
            f"name: mine\ndevice: l40s\nhost: {given_host}\ndevices_per_node: {{value: 2, source: a test}}\n"
        )
        system = load_system(path)
        assert host_of(system) is not None
        assert host_of(system).name == name  # type: ignore[union-attr]
        again = tmp_path / "again.yaml"
        again.write_text(describe(path).text())
        shown = load_system(again).host
        assert shown is not None
        assert shown.link == system.host.link  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["nvlink", *CLASSES])
def test_shown_hosts_describe_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "shown.yaml"
    path.write_text(describe(name).text())
    assert load_host(path)[0].link == load_host(name)[0].link
