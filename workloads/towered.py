"""Models with their image tower: on the same devices, or as a separate model."""

from __future__ import annotations

from dataclasses import replace

from .model import Layer, ModelSpec
from .numerics import Numerics
from .tower import Size, Tower


def with_tower(
    model: ModelSpec, size: Size | None, share: float = 0.0, images: int = 1, hits: float = 0.0
) -> ModelSpec:
    """The model with its tower on the same devices, whole on each.

    Parameters
    ----------
    size : (int, int), optional
        Of its images; without images only the weights are added.
    share : float
        Share of image tokens in prompts.
    images : int
        Of a request: this many devices of a rank may process them at once.
    hits : float
        Share of images whose tokens the encoder's cache has.
    """
    tower = model.tower
    if tower is None:
        return model
    if size is None or not share:
        return replace(model, extra_weights=model.extra_weights + tower.params)
    pictures, patches, tokens = tower.cut(size)
    part = replace(tower.part, share=share * (1.0 - hits), patches=patches, tokens=tokens, pictures=pictures * images)
    # At the end of the list, so that no other layer has another number (draws of expert loads go by it).
    return replace(model, layers=(*model.layers, Layer(part, None, 0, 0, replicated=True)))


def tower_alone(model: ModelSpec, tower: Tower, size: Size) -> ModelSpec:
    """Return the tower as a separate model, whose tokens become the images' tokens."""
    pictures, patches, tokens = tower.cut(size)
    part = replace(tower.part, share=1.0, patches=patches, tokens=tokens, pictures=pictures)
    return ModelSpec(
        name=f"{model.name} tower", architecture=tower.kind, hidden=part.hidden, vocab=0,
        layers=(Layer(part, None, 0, 0),), tied=True, numerics=Numerics(model.numerics.default),
        source=model.source,
    )  # fmt: skip
