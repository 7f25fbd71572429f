"""Images before prompts: an encoder on devices of its own, with a queue of its own.

A request's images are encoded in one batch on the device that is free first, in order of arrival; their
tokens (one a patch) stand before its text, and it goes on to the language model when they are there.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import simpy

from ...devices.catalog import load_system
from ...devices.spec import SystemSpec
from ...workloads.batch import Batch
from ...workloads.catalog import load_model
from ...workloads.errors import InputError
from ...workloads.requests import RequestBlock, RequestStream
from ..deploy.deployment import Deployment, deploy
from ..step.explicit import explicit_stage
from .calls import call_at


@dataclass(slots=True)
class EncoderCounts:
    """What requests asked of the encoder.

    Attributes
    ----------
    devices : int
    images : int
    busy_s, waited_s : float
        Seconds that its devices were busy, and that requests with images waited for theirs, the
        encoding itself among them; all together.
    """

    devices: int
    images: int = 0
    busy_s: float = 0.0
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Encoder:
    """An image encoder on devices of its own, each of which holds all of it.

    Attributes
    ----------
    deployment : Deployment
    """

    deployment: Deployment
    _took: dict[int, float] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tokens(self) -> int:
        """Tokens of an image in a prompt: its patches, without the class token."""
        front = self.deployment.model.front
        assert front is not None
        return front.patches

    @property
    def devices(self) -> int:
        """Devices, one request each."""
        return self.deployment.replicas

    def seconds(self, images: int) -> float:
        """So many images in one batch on one device [s]."""
        if images not in self._took:
            front = self.deployment.model.front
            assert front is not None
            batch = Batch.of(chunks=[(front.tokens, 0)] * images)
            self._took[images] = explicit_stage(self.deployment, [batch], expected=True).seconds
        return self._took[images]


def encoder_of(model: str, system: str | None, beside: SystemSpec) -> Encoder:
    """An encoder by name on a system, or on one more device of the language model's kind.

    Raises
    ------
    InputError
        A model that takes no images, or an FPGA.
    """
    spec = load_model(model)
    if spec.front is None:
        raise InputError("--encoder", f"{spec.name} takes tokens, not images")
    where = load_system(f"{beside.device.name}-x1" if system is None else system)
    return Encoder(deploy(spec, where, tp=1, dp=where.groups))


def with_images(stream: RequestStream, each: int | None, encoder: Encoder) -> RequestStream:
    """The same stream, its prompts longer by their images' tokens.

    Parameters
    ----------
    each : int, optional
        Images of every request, where a trace does not say how many.

    Raises
    ------
    InputError
        Neither says so, or requests follow each other, whose prompts would hold earlier images.
    """

    def blocks() -> Iterator[RequestBlock]:
        for block in stream:
            if block.turns is not None:
                raise InputError("--encoder", "cannot go with sessions")
            images = block.images
            if images is None:
                if each is None:
                    raise InputError(
                        "--encoder", "needs --images N, or a trace with a column images"
                    )
                images = np.full(len(block), each)
            prompts = block.input_tokens + images * encoder.tokens
            yield replace(block, input_tokens=prompts, images=images)

    return replace(stream, blocks=blocks)


@dataclass(slots=True)
class EncoderQueue:
    """Requests that wait for their images.

    Attributes
    ----------
    env : simpy.Environment
    encoder : Encoder
    release : callable
        Takes the row of a request whose images are encoded, and the time.
    """

    env: simpy.Environment
    encoder: Encoder
    release: Callable[[int, float], None]
    counts: EncoderCounts = field(init=False)
    _images: list[int] = field(default_factory=list)
    _free: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = EncoderCounts(self.encoder.devices)
        self._free = [0.0] * self.encoder.devices

    def read(self, block: RequestBlock) -> None:
        """Take in how many images requests have."""
        assert block.images is not None
        self._images += block.images.tolist()

    def ask(self, row: int, now: float) -> None:
        """A request arrives; without images it goes on at once."""
        images = self._images[row]
        if not images:
            self.release(row, now)
            return
        took = self.encoder.seconds(images)
        at = max(heapq.heappop(self._free), now) + took
        heapq.heappush(self._free, at)
        self.counts.images += images
        self.counts.busy_s += took
        self.counts.waited_s += at - now
        call_at(self.env, at, lambda: self.release(row, at))
