"""What a simulated system costs, and so its tokens."""

from __future__ import annotations

from dataclasses import dataclass

from ...devices.spec import DeviceSpec
from ...simulator.scenario import Scenario
from ...simulator.serving.record import Run


def costs_of(
    run: Run, scenario: Scenario, tokens_per_s: float | None
) -> dict[str, float | int | None]:
    """Devices, their price and what tokens cost; None where the device has no price.

    ``processor_area_mm2`` is `added_area_mm2`. Of two pools, and with experts on devices of their own, the
    price is that of their mean device, and the area that of one that decodes, and attends. Of replicas that
    come and go the devices are their mean.
    """
    devices: float
    if run.pools or run.apart is not None:
        kinds = [(p.deployment, p.mean_devices(run.window)) for p in run.pools]
        devices = sum(each for _, each in kinds) or run.devices
        if (beside := run.apart) is not None:  # of the last pool, or of the one system
            here, there = kinds.pop() if kinds else (run.deployment, devices)
            kinds += [(here, there - beside.experts_devices)]
            kinds += [(beside.deployment, float(beside.experts_devices))]
        prices = [d.system.device.price_USD_per_hour for d, _ in kinds]
        known = [x * each for x, (_, each) in zip(prices, kinds, strict=True) if x]
        price = sum(known) / devices if len(known) == len(prices) else None
    else:
        system = run.deployment.system
        own = system.nodes * system.devices_per_node * (scenario.fleet.replicas or 1)
        devices = own if run.scaling is None else run.mean_devices
        price = system.device.price_USD_per_hour
    per_token = price * devices / 3600 / tokens_per_s if price and tokens_per_s else None
    return {
        "devices": devices,
        "device_usd_per_hour": price,
        "usd_per_million_tokens": None if per_token is None else 1e6 * per_token,
        "processor_area_mm2": added_area_mm2(run.deployment.system.device),
    }


@dataclass(frozen=True, slots=True)
class Worth:
    """What deployments are judged by, in the order of `WORTH`; None where it is unknown.

    Attributes
    ----------
    tokens_per_s_per_device : float or None
        Output of all, by the devices that make it.
    tokens_per_s_per_user : float or None
        One over the mean time per output token.
    joules_per_token, usd_per_million_tokens : float or None
        Of output tokens.
    """

    tokens_per_s_per_device: float | None
    tokens_per_s_per_user: float | None
    joules_per_token: float | None
    usd_per_million_tokens: float | None

    def to_dict(self) -> dict[str, float | None]:
        return {name: getattr(self, name) for name in WORTH}


WORTH = (
    "tokens_per_s_per_device", "tokens_per_s_per_user", "joules_per_token", "usd_per_million_tokens",
)  # fmt: skip


def worth_of(run: Run, scenario: Scenario) -> Worth:
    """Throughput of a device against the pace of a user, with what tokens take."""
    rate, pace = run.output_tokens_per_s, run.tpot_s.mean
    price = costs_of(run, scenario, rate)
    return Worth(
        rate / price["devices"] if rate and price["devices"] else None,
        1.0 / pace if pace else None,
        run.joules_per_token, price["usd_per_million_tokens"],
    )  # fmt: skip


def added_area_mm2(device: DeviceSpec) -> float | None:
    """What processors near memory add to all stacks of one device [mm2]; None without any."""
    area = [sum(p.area_mm2.values()) for p in device.processors.values() if p.area_mm2]
    return sum(area) * device.memory.stacks if area else None
