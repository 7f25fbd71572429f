"""Images before prompts: an encoder on separate devices with its own queue.

A request's images are encoded in one batch on the first free device, in order of arrival; their tokens (one per patch)
precede its text, and the request then continues to the language model.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ....devices.catalog import load_system
from ....devices.spec import SystemSpec
from ....workloads.batch import Batch
from ....workloads.catalog import load_model
from ....workloads.errors import InputError
from ....workloads.model import ModelSpec, tower_alone
from ....workloads.requests import RequestBlock, RequestStream
from ....workloads.tower import Size
from ...deploy.deployment import Deployment, deploy
from ...engine.state import I8
from ...fleet.assigner import Assigner
from ...fleet.clock import Clock
from ...fleet.pools import Pools
from ...fleet.run_state import RunState
from ...quantity import Figures, Quantity
from ...results.record import Run
from ...step.explicit import explicit_stage


@dataclass(slots=True)
class EncoderCounts:
    """Counts of the encoder in a run: images, busy time and waits."""

    devices: int
    images: int = 0
    # seconds that its devices were busy, and that requests with images waited for theirs, the
    # encoding itself among them; all together
    busy_s: float = 0.0
    waited_s: float = 0.0
    busy_share: float = 0.0  # of the run


@dataclass(frozen=True, slots=True)
class Encoder:
    """An image encoder on separate devices, each of which stores all of it.

    Attributes
    ----------
    tokens : int
        Of an image in a prompt: its patches without the class token, or what a tower merges them to.
    length : int
        Tokens of the encoder that an image is.
    hits : float
        Share of images that a cache of encoded ones has.
    """

    deployment: Deployment
    tokens: int
    length: int
    hits: float = 0.0
    _took: dict[int, float] = field(default_factory=dict, compare=False, repr=False)

    @property
    def devices(self) -> int:
        """Return the number of devices, each of which encodes one request at a time."""
        return self.deployment.replicas

    def seconds(self, images: int) -> float:
        """Return the time of a number of images in one batch on one device [s]."""
        if images not in self._took:
            batch = Batch.of(chunks=[(self.length, 0)] * images)
            stage = explicit_stage(self.deployment, [batch], expected=True)
            self._took[images] = stage.seconds * (1.0 - self.hits)
        return self._took[images]


def encoder_of(model: str | ModelSpec, system: str | None, served_on: SystemSpec, size: Size | None = None) -> Encoder:
    """Return an encoder by name on a system, or on one more device of the language model's kind.

    Of a multimodal model it is the tower, for images of `size` pixels.

    Raises
    ------
    InputError
        A model that takes no images, or an FPGA.
    """
    spec = model if isinstance(model, ModelSpec) else load_model(model)
    one_more = {"name": f"{served_on.device.name}-x1", "nodes": 1, "devices_per_node": served_on.group}
    where = served_on.model_copy(update=one_more) if system is None else load_system(system)
    if spec.front is not None:
        alone, length, tokens = spec, spec.front.patches, spec.front.tokens
    elif spec.tower is None:
        raise InputError(
            "--encoder", f"{spec.name} takes tokens, not images; use an image encoder such as clip-vit-l14-336"
        )
    elif size is None:
        raise InputError("--encoder", f"needs --image-size WxH too, for the tower of {spec.name}")
    else:
        alone = tower_alone(spec, spec.tower, size)
        length = tokens = spec.tower.tokens(size)
    return Encoder(deploy(alone, where, tp=1, dp=where.groups), length, tokens)


def with_images(stream: RequestStream, each: int | None, tokens: int) -> RequestStream:
    """Return the stream with prompts that are longer by their images' tokens.

    Each request of a session adds images; its prompt includes the images of earlier requests.

    Parameters
    ----------
    each : int, optional
        Images of every request, where a trace does not say how many.
    tokens : int
        Of an image.

    Raises
    ------
    InputError
        Neither says so.
    """

    def blocks() -> Iterator[RequestBlock]:
        before: dict[int, int] = {}
        for block in stream:
            images = block.images
            if images is None:
                if each is None:
                    raise InputError("--encoder", "needs --images N, or a trace with a column images")
                images = np.full(len(block), each)
            there = images if block.turns is None else so_far(block.turns.session, images, before)
            prompts = block.input_tokens + there * tokens
            yield replace(block, input_tokens=prompts, images=images)

    return replace(stream, blocks=blocks)


def so_far(session: I8, images: I8, before: dict[int, int]) -> I8:
    """Return the images in the prompt of each request, including earlier requests of its session; updates `before`."""
    out = np.empty_like(images)
    for i, (name, own) in enumerate(zip(session.tolist(), images.tolist(), strict=True)):
        out[i] = before[name] = before.get(name, 0) + own
    return out


@dataclass(slots=True)
class EncoderQueue:
    """Queue of requests that wait for their images to be encoded."""

    call_at: Callable[[float, Callable[[], None]], None]  # calls at a time
    encoder: Encoder
    # takes the row of a request whose images are encoded, and the time
    release: Callable[[int, float], None]
    counts: EncoderCounts = field(init=False)
    _images: list[int] = field(default_factory=list)
    _free: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = EncoderCounts(self.encoder.devices)
        self._free = [0.0] * self.encoder.devices

    def read(self, block: RequestBlock) -> None:
        """Read the number of images of each request."""
        assert block.images is not None
        self._images += block.images.tolist()

    def ask(self, row: int, now: float) -> None:
        """Process an arriving request: queue its images; without images it continues at once."""
        images = self._images[row]
        if not images:
            self.release(row, now)
            return
        took = self.encoder.seconds(images)
        at = max(self._free[0], now) + took
        heapq.heapreplace(self._free, at)
        self.counts.images += images
        self.counts.busy_s += took
        self.counts.waited_s += at - now
        self.call_at(at, lambda: self.release(row, at))


def encode(
    clock: Clock, assigner: Assigner, pools: Pools, _: int
) -> tuple[EncoderCounts, Callable[[RequestBlock], None]]:
    """Set up the encoder before the router; return its counts and the reader of requests."""
    queue = EncoderQueue(clock.call_at, pools.parts["encoder"], clock.admit)
    assigner.entrance = queue.ask
    return queue.counts, queue.read


FIGURES = Figures("encoder", "Image encoder", (
    Quantity("devices", "Devices of the encoder; their energy and cost are not included.", label="devices"),
    Quantity("images", "Images encoded.", label="images"),
    Quantity("busy_s", "Time that the encoder's devices were busy [s]."),
    Quantity("busy_share", "Share of the run in which the encoder's devices were busy.", unit="%", label="busy"),
    Quantity("waited_s", "Time that requests waited for their images [s].", unit="s", label="requests waited in all"),
))  # fmt: skip


def images_left(run: Run, served: RunState, *_: object) -> EncoderCounts:
    """Return the encoder's counts in a run."""
    counts: EncoderCounts = served.parts["encoder"]
    return replace(counts, busy_share=counts.busy_s / (counts.devices * run.makespan_s))
