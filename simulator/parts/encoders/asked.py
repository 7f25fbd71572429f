"""Options of images: encoded on the model's own devices before prefill, or on the separate devices of an encoder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ....devices.spec import SystemSpec
from ....workloads.catalog import load_model
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec, with_tower
from ....workloads.tower import Size, Tower, read_size
from ...deploy.deployment import Deployment
from ...option import flag_of
from ...scenario.scenario import Scenario

if TYPE_CHECKING:
    from ....workloads.requests import RequestStream
    from ...fleet.pools import Fleet
    from .run import Encoder

PLAIN = (1024, 1024)
"""Default pixels of an image, for towers that scale every image to one size."""


def has_own_devices(scenario: Scenario) -> bool:
    """Return whether images are encoded on separate devices."""
    return scenario.parts["encoder"].encoder is not None or scenario.parts["encoder"].encoder_system is not None


def check_images(scenario: Scenario) -> None:
    """Refuse image options without images, and an image size that no model accepts.

    Raises
    ------
    InputError
    """
    work = scenario.workload
    if work.image_size is not None:
        read_size(work.image_size)
    if work.images is None and work.trace is None:
        for name in ("image_size", "encoder_cache_hits"):
            if getattr(work, name) is not None:
                raise InputError(flag_of(name), "needs --images N (images per request)")


def size_of(scenario: Scenario, tower: Tower, name: str) -> Size:
    """Return the pixels of the images.

    Raises
    ------
    InputError
        They are not given, and the tower's tokens depend on them.
    """
    text = scenario.workload.image_size
    if text is not None:
        return read_size(text)
    if not tower.fixed or tower.tiles:
        raise InputError(
            "--images", f"needs --image-size too, such as 1920x1080; it determines the tokens of an image for {name}"
        )
    return PLAIN


def tower_of(model: ModelSpec, option: str = "--images") -> Tower:
    """Return the model's image tower.

    Raises
    ------
    InputError
        It has none.
    """
    if model.tower is None:
        raise InputError(
            option, f"needs --encoder MODEL, for example clip-vit-l14-336: {model.name} has no image tower "
            "(no vision_config in its file)",
        )  # fmt: skip
    return model.tower


def towered(model: ModelSpec, scenario: Scenario) -> ModelSpec:
    """Return the model with its image tower, which computes if requests have images.

    The work is spread over the tokens of all prompts, by the share of image tokens among them.
    """
    if model.tower is None or has_own_devices(scenario):
        return model
    images, text = _asked(scenario)
    if not images:
        return with_tower(model, None)
    tower = model.tower
    size = size_of(scenario, tower, model.name)
    image_tokens = images * tower.tokens(size)
    return with_tower(
        model, size, image_tokens / (image_tokens + text), max(1, round(images / max(1, sum(map(len, _requests(scenario)))))),
        scenario.workload.encoder_cache_hits or 0.0,
    )  # fmt: skip


def _asked(scenario: Scenario) -> tuple[float, float]:
    """Return the number of images, and the prompt tokens without images, over all requests."""
    work = scenario.workload
    if work.images is None and work.trace is None:
        return 0.0, 0.0
    images = text = 0.0
    for block in _requests(scenario):
        images_found = block.images
        count = float(images_found.sum()) if images_found is not None else float((work.images or 0) * len(block))
        images, text = images + count, text + float(block.input_tokens.sum())
        if images_found is None and work.images is None:
            break  # a trace without such a column
    return images, text


ASKED = 1000
"""Requests of a workload whose number and rate a study sets later."""


def _requests(scenario: Scenario) -> RequestStream:
    """Return the requests; if a study still searches their rate, at any rate, as lengths do not depend on it."""
    work = scenario.workload
    if work.trace is None and work.rate is None and work.closed_loop is None:
        work = replace(work, rate=1.0, requests=work.requests or ASKED)
    return work.open(scenario.seed)


def separate_encoder(scenario: Scenario, model: ModelSpec, system: SystemSpec) -> Encoder:
    """Return the encoder on separate devices: the named one, else the model's own tower."""
    from .run import encoder_of  # its queue's packages are heavy; `roofline` has none

    name, where = scenario.parts["encoder"].encoder, scenario.parts["encoder"].encoder_system
    size = scenario.workload.image_size
    pixels = None if size is None else read_size(size)
    if name is None:
        pixels = size_of(scenario, tower_of(model, "--encoder-system"), model.name)
    made = encoder_of(model if name is None else str(name), where, system, pixels)
    return replace(made, hits=scenario.workload.encoder_cache_hits or 0.0)


def with_encoder(scenario: Scenario, system: SystemSpec, fleet: Fleet | None) -> Fleet | None:
    """Return a fleet with the encoder of a scenario."""
    if not has_own_devices(scenario):
        return fleet
    model = scenario.model
    assert model is not None  # it is deployed by now
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    from ...fleet.pools import Fleet  # compiled code behind it

    made, fleet = separate_encoder(scenario, spec, system), fleet or Fleet()
    return replace(fleet, parts={**fleet.parts, "encoder": made})


def pictured(stream: RequestStream, scenario: Scenario, deployment: Deployment, fleet: Fleet | None) -> RequestStream:
    """Return the requests with the tokens of their images."""
    from .run import with_images

    encoder = None if fleet is None else fleet.parts.get("encoder")
    if encoder is not None:
        return with_images(stream, scenario.workload.images, encoder.tokens)
    if scenario.workload.images is None and (deployment.model.tower is None or not _pictured(scenario)):
        return stream
    tower = tower_of(deployment.model)
    return with_images(stream, scenario.workload.images, tower.tokens(size_of(scenario, tower, deployment.model.name)))


def _pictured(scenario: Scenario) -> bool:
    """Return whether requests of the trace have images; stops at the first request that has."""
    for block in _requests(scenario):
        if block.images is None or block.images.any():
            return block.images is not None
    return False
