"""Cost of a simulated system and of its tokens; carbon of its electricity, if the grid's intensity is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...devices.catalog import is_path, list_devices, load_device
from ...devices.spec import DeviceSpec, SystemSpec
from ...simulator.option import flag_of
from ...simulator.parts.two_pools.run import pools_of
from ...simulator.results.record import Run
from ...simulator.scenario import Scenario
from ...workloads.errors import InputError, check_known, typed_number
from ...workloads.yamlfile import read_yaml
from ..show.text import show

JOULES_PER_KWH = 3.6e6


def gco2(joules: float | None, grid_gCO2_per_kWh: float | None) -> float | None:
    """Return the carbon of an amount of energy [gCO2]; None without an intensity or an energy.

    Examples
    --------
    >>> gco2(3.6e6, 400.0), gco2(1.0, None)
    (400.0, None)
    """
    if joules is None or grid_gCO2_per_kWh is None:
        return None
    return joules / JOULES_PER_KWH * grid_gCO2_per_kWh


def carbon_of(run: Run, grid_gCO2_per_kWh: float | None) -> dict[str, float | None]:
    """Return the carbon of an output token and of a request with the run's mean output length [gCO2].

    Only the energy of the devices counts; hosts, cooling and manufacture are not included.
    """
    token = gco2(run.joules_per_token, grid_gCO2_per_kWh)
    mean = run.output_tokens / max(len(run.requests), 1)
    return {"gco2_per_token": token, "gco2_per_request": None if token is None else token * mean}


def carbon_text(run: Run, grid_gCO2_per_kWh: float | None) -> list[str]:
    """Return a sentence on the run's carbon; nothing without an intensity."""
    token, request = carbon_of(run, grid_gCO2_per_kWh).values()
    if token is None or request is None:
        return []
    rate, carbon = show(grid_gCO2_per_kWh), show(1e3 * token)
    text = f"Carbon of the devices' energy at {rate} g/kWh: {carbon} mg an output token, "
    return [f"{text}{show(request)} g a request."]


def costs_of(run: Run, scenario: Scenario, tokens_per_s: float | None) -> dict[str, float | int | None]:
    """Return the number of devices, the cost of a device [USD/h] and of a million tokens [USD]; None for unknown costs.

    ``processor_area_mm2`` is `added_area_mm2`. With two pools or separate experts the cost is the mean device's, the
    area is the decoding or attention device's. An autoscaled fleet counts its mean number of devices.
    """
    devices: float
    beside = run.parts.get("experts-apart")
    if pools_of(run) or beside is not None:
        kinds = [(p.deployment, p.mean_devices(run.window)) for p in pools_of(run)]
        devices = sum(count for _, count in kinds) or run.devices
        if beside is not None:  # the separate experts belong to the last pool, or to the only system
            here, there = kinds.pop() if kinds else (run.deployment, devices)
            kinds += [(here, there - beside.experts_devices)]
            kinds += [(beside.deployment, float(beside.experts_devices))]
        prices = [price_of(d.system.device, scenario) for d, _ in kinds]
        known = [x * count for x, (_, count) in zip(prices, kinds, strict=True) if x]
        price = sum(known) / devices if len(known) == len(prices) else None
    else:
        system = run.deployment.system
        devices_own = system.nodes * system.devices_per_node * (scenario.fleet.replicas or 1)
        devices = run.mean_devices if "autoscale" in run.parts else devices_own
        price = price_of(system.device, scenario)
    price = None if price is None else price + _power_usd(run, scenario)
    per_token = price * devices / 3600 / tokens_per_s if price and tokens_per_s else None
    return {
        "devices": devices,
        "device_usd_per_hour": price,
        "usd_per_million_tokens": None if per_token is None else 1e6 * per_token,
        "processor_area_mm2": added_area_mm2(run.deployment.system.device),
    }


HOURS_A_YEAR = 8766.0
YEARS, USD_PER_KWH, PUE = 4.0, 0.1, 1.3
OWNED = ("years", "usd_per_kWh", "pue")
"""Options for owned devices: years of depreciation, cost of industrial electricity, and PUE of an air-cooled data centre.
Their defaults are `YEARS`, `USD_PER_KWH` and `PUE`."""


GIVEN = "as given"


def amounts(given: str | None, option: str) -> dict[str, float]:
    """Return the USD for each device, from an option's list or its file.

    Raises
    ------
    InputError
        If it is not comma-separated NAME=USD, or a device is unknown.

    Examples
    --------
    >>> amounts("h200=2.5, mi325x=2", "--price")
    {'h200': 2.5, 'mi325x': 2.0}
    """
    return {name: usd for name, (usd, _) in _sourced(given, option).items()}


def _sourced(given: str | None, option: str) -> dict[str, tuple[float, str]]:
    """Return USD by name, each with its source."""
    out: dict[str, tuple[float, str]] = {}
    for name, text, source in _listed(given, option):
        value = typed_number(text)
        if not name or not 0.0 <= value < 1e12 or name in out:
            reason = f"needs comma-separated DEVICE=USD, each once, or a file of them, not {name}={text}"
            raise InputError(option, reason)
        check_known(option, name, list_devices(), f"{name!r} is not a device")
        out[name] = value, source
    return out


def _listed(given: str | None, option: str) -> list[tuple[str, str, str]]:
    """Return device, USD and source of every listed amount, as text."""
    if not given:
        return []
    if not is_path(given):
        entries = (entry.partition("=") for entry in given.split(","))
        return [(name.strip(), text.strip(), GIVEN) for name, _, text in entries]
    out = []
    for name, listed in read_yaml(Path(given)).items():
        entry_own = listed if isinstance(listed, dict) else {}
        if set(entry_own) != {"value", "source"} or not str(entry_own["source"]).strip():
            raise InputError(f"{given}: {name}", f"needs {{value: USD, source: TEXT}} for {option}")
        out.append((str(name), str(entry_own["value"]), f"{entry_own['source']}, {given}"))
    return out


def check_prices(scenario: Scenario) -> None:
    """Refuse unreadable prices before the simulation."""
    for text, option in ((scenario.price, "--price"), (scenario.capex, "--capex")):
        amounts(text, option)
    for name in OWNED:
        if scenario.capex is None and getattr(scenario, name) is not None:
            raise InputError(flag_of(name), "applies to owned devices only; add --capex")


def price_of(device: DeviceSpec, scenario: Scenario) -> float | None:
    """Return the rent of a device, or the depreciation of an owned device without electricity [USD/h]."""
    owned = amounts(scenario.capex, "--capex")
    if device.name in owned:
        return owned[device.name] / ((scenario.years or YEARS) * HOURS_A_YEAR)
    return amounts(scenario.price, "--price").get(device.name, device.price_USD_per_hour)


def _power_usd(run: Run, scenario: Scenario) -> float:
    """Return the electricity cost of an owned device [USD/h]; rent includes it."""
    if run.deployment.system.device.name not in amounts(scenario.capex, "--capex"):
        return 0.0
    kW = (run.watts_per_device or 0.0) / 1000 * (scenario.pue or PUE)
    return kW * _kwh(scenario)


def _kwh(scenario: Scenario) -> float:
    return USD_PER_KWH if scenario.usd_per_kWh is None else scenario.usd_per_kWh


def source_of(device: DeviceSpec, scenario: Scenario) -> str:
    """Return the source of a device's price."""
    if device.name in amounts(scenario.capex, "--capex"):
        return (
            f"owned for {scenario.years or YEARS:g} years, and {_kwh(scenario):g} USD/kWh at PUE "
            f"{scenario.pue or PUE:g}"
        )
    given = _sourced(scenario.price, "--price")
    if device.name in given:
        return given[device.name][1]
    if device.name not in list_devices():
        return "its description"
    return str(load_device(device.name)[1].get("price_USD_per_hour", "its description"))


def price_rows() -> list[dict[str, object]]:
    """Return every price of the catalog with its source."""
    devices = ((name, *load_device(name)) for name in list_devices())
    return [
        {"name": name, "USD/h": spec.price_USD_per_hour, "source": sources["price_USD_per_hour"]}
        for name, spec, sources in devices
        if spec.price_USD_per_hour is not None
    ]


@dataclass(frozen=True, slots=True)
class Worth:
    """Metrics by which deployments are compared, in the order of `WORTH`; None if unknown.

    Attributes
    ----------
    tokens_per_s_per_device : float or None
        Output tokens/s of all devices, divided by their number.
    tokens_per_s_per_user : float or None
        Output tokens/s of one user (interactivity): 1 / mean TPOT.
    joules_per_token, usd_per_million_tokens : float or None
        Energy of an output token [J], and cost of a million output tokens [USD].
    """

    tokens_per_s_per_device: float | None
    tokens_per_s_per_user: float | None
    joules_per_token: float | None
    usd_per_million_tokens: float | None

    def to_dict(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in WORTH}

    def of_more(self, factor: float) -> Worth:
        """Return the metrics if `factor` times as many devices produce the same output."""
        rate, usd = self.tokens_per_s_per_device, self.usd_per_million_tokens
        return replace(
            self,
            tokens_per_s_per_device=None if rate is None else rate / factor,
            usd_per_million_tokens=None if usd is None else usd * factor,
        )


WORTH = ("tokens_per_s_per_device", "tokens_per_s_per_user", "joules_per_token", "usd_per_million_tokens")


def worth_of(run: Run, scenario: Scenario) -> Worth:
    """Return throughput per device, output tokens/s per user, and the cost of tokens."""
    rate, pace = run.output_tokens_per_s, run.tpot_s.mean
    price = costs_of(run, scenario, rate)
    return Worth(
        rate / price["devices"] if rate and price["devices"] else None,
        1.0 / pace if pace else None,
        run.joules_per_token, price["usd_per_million_tokens"],
    )  # fmt: skip


def added_area_mm2(device: DeviceSpec) -> float | None:
    """Return the area of processors near memory on all stacks of a device [mm2]; None without such processors."""
    area = [sum(p.area_mm2.values()) for p in device.processors.values() if p.area_mm2]
    return sum(area) * device.memory.stacks if area else None


def prices_text(scenario: Scenario, systems: Sequence[SystemSpec]) -> list[str]:
    """Return the prices of devices with their sources as one sentence; empty if none has a price."""
    lines = []
    for device in {s.device.name: s.device for s in systems}.values():
        price = price_of(device, scenario)
        if price is not None:
            lines.append(f"{device.name} {show(price)} USD/h ({source_of(device, scenario)})")
    return [f"Prices: {'; '.join(lines)}."] if lines else []
