"""The complete input of one simulation: everything that its result depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, Unpack

from ..option import SCOPE, CheckedOptions, PartOptions, PlacedOption, described, placed, real, text, thing, whole
from .options import DeployOptions, EngineOptions, FleetOptions, Workload

if TYPE_CHECKING:
    from pathlib import Path

    from ...devices.spec import SystemSpec
    from ...workloads.model import ModelSpec
    from .keywords import ChangeKeywords, ScenarioKeywords


@described
@dataclass(frozen=True, slots=True)
class Scenario(CheckedOptions):
    """A model, a system, the requests and how they are served.

    Options have the same name everywhere: as a keyword of `simulate` and `capacity`, as a command option, as a
    parameter of a sweep. `of` and `changed` use this name for any part; a whole part can be given by its field's name.

    Examples
    --------
    >>> scenario = Scenario.of("llama-3-8b", "h100-x1", rate=4.0, replicas=2)
    >>> scenario.workload.rate, scenario.changed(rate=8.0).workload.rate
    (4.0, 8.0)
    """

    model: str | Path | ModelSpec | None = field(
        default=None, metadata=thing("Model: catalog name, config.json or the folder of one.", "MODEL", argument=True)
    )
    system: str | Path | SystemSpec | None = field(
        default=None,
        metadata=thing("System: catalog name, YAML file, or DEVICE-xN for N devices in one node.", "SYSTEM"),
    )
    workload: Workload = field(default_factory=Workload)
    serving: EngineOptions = field(default_factory=EngineOptions)
    deployment: DeployOptions = field(default_factory=DeployOptions)
    warmup: int | None = whole("Completed requests left out of the metrics, from the first on.", 0)
    stop: int | None = whole("Stop after this many completed requests; the others are left unfinished.", 1)
    seed: int = whole("Seed of the random requests and expert routing.", 0, 2**63 - 1, default=0)
    fleet: FleetOptions = field(default_factory=FleetOptions)
    grid_gCO2_per_kWh: float | None = real(
        "Carbon intensity of the electricity, for carbon per token and per request.", 0.0, 1e4, "g/kWh"
    )
    price: str | None = text(
        "Rent per device [USD/h], such as h200=2.5,mi325x=2, or a file with entries h200: {value: 2.5, "
        "source: TEXT}. Default: `opbyte list prices`.",
        "LIST|FILE",
    )
    capex: str | None = text(
        "Purchase cost of each owned device with its share of the server and network [USD], such as h200=40000.", "LIST"
    )
    years: float | None = real("Service life of owned devices in years; default: 4.", 0.1, 50.0)
    usd_per_kWh: float | None = real("Cost of electricity for owned devices; default: 0.1.", 0.0, 100.0, "USD/kWh")
    pue: float | None = real("Power usage effectiveness of the data centre of owned devices; default: 1.3.", 1.0, 10.0)
    parts: PartOptions = field(default=PartOptions(), metadata={SCOPE: "run"})

    @classmethod
    def of(
        cls,
        model: Scenario | str | Path | ModelSpec | None = None,
        system: str | Path | SystemSpec | None = None,
        **options: Unpack[ScenarioKeywords],
    ) -> Self:
        """Build a scenario from names and options, or from another scenario with changes.

        Raises
        ------
        InputError
            An unknown option, or a value of the wrong type or out of range.
        """
        start = model if isinstance(model, cls) else cls(model)  # type: ignore[arg-type]
        if system is not None:
            start = start.changed(system=system)
        return start.changed(**options)

    def changed(self, **options: Unpack[ChangeKeywords]) -> Self:  # type: ignore[override]  # names its options
        """Return the scenario with options replaced; `client` sets the options of its command.

        Raises
        ------
        InputError
            An unknown option, or a value of the wrong type or out of range.
        """
        given: Mapping[str, Any] = options
        if "client" in given:
            from .clients import spelled_out  # which finds out what options there are

            given = spelled_out(given, Scenario)
        return CheckedOptions.changed(self, **given)

    def given(self) -> Iterator[tuple[PlacedOption, Any]]:
        """Yield the options that differ from their defaults, with their values."""
        for name, known in placed(type(self)).items():
            value = self.option(name)
            if value != known.default:
                yield known, value
