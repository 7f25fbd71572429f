"""Are devices priced as is said: rented as listed or as given, owned by what they lose and draw?"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from opbyte.analysis.answers import price
from opbyte.devices.catalog import load_device, load_system
from opbyte.simulator.scenario import Scenario
from opbyte.workloads.errors import InputError

H100 = load_device("h100")[0]


def run(watts: float) -> Any:
    """What of a run its price asks."""
    deployment = SimpleNamespace(system=load_system("h100-x1"))
    return SimpleNamespace(deployment=deployment, watts_per_device=watts)


def test_rent() -> None:
    assert price.price_of(H100, Scenario()) == H100.price_USD_per_hour
    assert price.price_of(H100, Scenario(price="h100=1.25,h200=9")) == 1.25


def test_owned() -> None:
    """35,064 hours in four years; 500 W at 0.2 USD/kWh in a building of PUE 1.5: 0.15 USD an hour."""
    owned = Scenario(price="h100=9", capex="h100=35064", years=4.0, usd_per_kWh=0.2, pue=1.5)
    assert price.price_of(H100, owned) == pytest.approx(1.0)
    assert price.price_of(H100, Scenario(capex="h100=35064", years=2.0)) == pytest.approx(2.0)
    assert price._power_usd(run(500.0), owned) == pytest.approx(0.15)
    assert price.source_of(H100, owned) == "owned for 4 years, and 0.2 USD/kWh at PUE 1.5"
    assert not price.source_of(H100, Scenario(price="h100=9")).startswith("owned")
    free = Scenario(capex="h100=35064", usd_per_kWh=0.0)
    assert price._power_usd(run(500.0), free) == 0.0
    assert price._power_usd(run(500.0), Scenario(capex="h200=1")) == 0.0  # rent holds that of others


@pytest.mark.parametrize("name", ["years", "usd_per_kWh", "pue"])
def test_what_only_owned_devices_have_is_refused_of_others(name: str) -> None:
    with pytest.raises(InputError, match="add --capex"):
        price.check_prices(Scenario(**cast(dict[str, Any], {name: 1.5})))
