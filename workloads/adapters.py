"""LoRA adapters of the tenants of a model: their number, their rank, and how requests choose among them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .errors import InputError
from .layers import LayerKind, LowRank
from .layers.linears import adaptable, linears_of
from .model import Layer, ModelSpec
from .routing import make_router

DEFAULT_RANK = 16
POPULARITIES = ("uniform", "power_law")


@dataclass(frozen=True, slots=True)
class Tenants:
    """Adapters that requests choose from.

    Attributes
    ----------
    adapters : int
        Number of adapters of all tenants.
    resident : int
        Slots in a device's memory, at most `adapters`.
    popularity : str
        A routing of `POPULARITIES`, by which requests choose that name none.
    """

    adapters: int
    rank: int
    resident: int
    popularity: str = "uniform"

    @property
    def swapped(self) -> bool:
        """Whether there are more adapters than slots on the device, so that some wait in host memory."""
        return self.resident < self.adapters


def tenants_of(adapters: int | None, rank: int | None, resident: int | None, popularity: str | None) -> Tenants | None:
    """Check the command line's adapter options and return them; None if no such option is given.

    Raises
    ------
    InputError
        Options that need ``--adapters``, more slots than adapters, or an unknown popularity.
    """
    given = {"--adapter-rank": rank, "--adapters-resident": resident, "--adapter-popularity": popularity}
    if adapters is None:
        for option, value in given.items():
            if value is not None:
                raise InputError(option, "needs --adapters N, the number of tenants' adapters")
        return None
    if resident is not None and resident > adapters:
        reason = f"must be at most --adapters ({adapters}), not {resident}"
        raise InputError("--adapters-resident", reason)
    popularity = popularity or "uniform"
    where = f"--adapter-popularity {popularity!r}"
    if popularity.partition(":")[0] not in POPULARITIES:
        raise InputError(where, "must be uniform or power_law:S, with an exponent S such as 1.2")
    try:
        make_router(popularity, layers=1, experts=1, top_k=1, seed=0, by_request=True)
    except InputError as error:
        raise InputError(where, error.reason) from None
    return Tenants(adapters, rank or DEFAULT_RANK, resident or adapters, popularity)


def with_adapters(model: ModelSpec, tenants: Tenants) -> ModelSpec:
    """Return the model with one low-rank adapter per tenant on every weight matrix.

    Expert blocks and parts without named matrices get no adapters.

    Raises
    ------
    InputError
        A model without any part that adapters could join, or a rank beyond its smallest matrix.
    """

    def adapted(part: LayerKind | None) -> Any:
        if getattr(part, "linears", None) is None or part is None:
            return part
        least = min(min(linear.inputs, linear.outputs) for linear in linears_of(part))
        if tenants.rank > least:
            reason = f"must be at most {least}, the smaller side of a matrix with adapters, not {tenants.rank}"
            raise InputError("--adapter-rank", reason)
        slots = tenants.resident if tenants.swapped else 0
        return LowRank(adaptable(part), tenants.rank, tenants.adapters, slots)

    def change(layer: Layer) -> Layer:
        return replace(layer, mixer=adapted(layer.mixer), ffn=adapted(layer.ffn))

    out = model.map_layers(change)
    if out == model:
        raise InputError("--adapters", f"{model.name} has no matrices that support adapters; remove the option")
    return out


def without_adapters(model: ModelSpec) -> ModelSpec:
    """Return the model without adapters.

    A model that drafts for itself uses this one, since only the target has adapters.
    """
    return model.map_parts(LowRank, lambda part: part.base if part.adapters else part)


def adapter_bytes(shard: ModelSpec) -> float:
    """Return the size of one adapter on one device [B]."""
    size = shard.numerics.weight_bytes("other")
    return sum(part.pair * size for layer in shard.layers for part in layer.parts if isinstance(part, LowRank))
