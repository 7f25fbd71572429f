"""Images as requests: when each arrives, and which task it is for.

Experts of every token of an image, in order of importance: sequences, not sums.

A design that serves tokens in order (an expert cache) depends on the sequence; one that serves expert by expert only on
its counts. Both use the same sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import InputError, nearest
from .routing import make_router

I8 = npt.NDArray[np.int64]
MAX_IMAGES = 1_000_000


def arrivals(images: int, rate: float) -> npt.NDArray[np.float64]:
    """Return the arrival time of each image at a fixed frame rate, shape (images,) [s]; the first is 0.

    Raises
    ------
    InputError
        No images, or a rate that is not above 0.
    """
    check_images(images)
    if not 1e-9 <= rate < 1e9:  # as for requests: beyond, times lose their meaning in float64
        raise InputError("--rate", f"must be at least 1e-09 images per second, not {rate:g}")
    return np.arange(images) / rate


def check_images(images: int) -> int:
    """Refuse a number of images outside [1, `MAX_IMAGES`]."""
    if not 1 <= images <= MAX_IMAGES:
        raise InputError("--images", f"must be in [1, {MAX_IMAGES:,}], not {images}")
    return images


def task_sequence(order: str, images: int, tasks: int, seed: int = 0) -> I8:
    """Return the task of each image, shape (images,).

    Parameters
    ----------
    order : str
        "single" (task 0), "round-robin", "random" (equally likely, seeded), or task numbers
        such as "0,1,1", repeated as needed.

    Raises
    ------
    InputError
        Unknown order, or a task the model does not have.

    Examples
    --------
    >>> task_sequence("round-robin", 5, 2).tolist(), task_sequence("0,1,1", 5, 2).tolist()
    ([0, 1, 0, 1, 0], [0, 1, 1, 0, 1])
    """
    check_images(images)
    if order == "single":
        return np.zeros(images, dtype=np.int64)
    if order == "round-robin":
        return np.arange(images, dtype=np.int64) % tasks
    if order == "random":
        return np.random.default_rng([seed, 0x7A]).integers(0, tasks, images)
    try:
        given = [int(part) for part in order.split(",")]
    except ValueError:
        known = ("single", "round-robin", "random")
        reason = f"must be a task order, or task numbers such as 0,1,1{nearest(order, known)}"
        raise InputError(f"--tasks {order!r}", reason) from None
    wrong = [task for task in given if not 0 <= task < tasks]
    if wrong:
        raise InputError(f"--tasks {order!r}", f"task {wrong[0]} is not in [0, {tasks - 1}]")
    return np.resize(np.array(given, dtype=np.int64), images)


@dataclass(frozen=True, slots=True)
class ImageRouter:
    """Router that samples the experts of each token, by task and layer.

    Attributes
    ----------
    prob : float64 array, shape (tasks, layers, experts)
        Probability of each expert for a token's first choice.
    top_k : int
        Distinct experts of a token.
    seed : int
        First counter of every sample.
    """

    prob: npt.NDArray[np.float64]
    top_k: int
    seed: int

    def sequence(self, image: int, task: int, layer: int, tokens: int) -> I8:
        """Return the experts of every token, shape (tokens, top_k), the first choice first.

        Experts are sampled without replacement in proportion to `prob` (Plackett-Luce): the `top_k` largest of log
        probability plus Gumbel noise. Equal counters give equal samples.
        """
        if tokens < 1:
            raise InputError("tokens", f"must be at least 1, not {tokens}")
        rng = np.random.default_rng([self.seed, image, task, layer])
        p = self.prob[task, layer]
        noise = rng.gumbel(size=(tokens, len(p)))
        with np.errstate(divide="ignore"):
            score = np.log(p) + noise
        return np.argsort(-score, axis=1, kind="stable")[:, : self.top_k].astype(np.int64)


def make_image_router(routing: str, *, tasks: int, layers: int, experts: int, top_k: int, seed: int) -> ImageRouter:
    """Build the router of an encoder; every task's gate has its own popular experts.

    Raises
    ------
    InputError
        See :func:`workloads.routing.make_router`.
    """
    router = make_router(routing, layers=tasks * layers, experts=experts, top_k=top_k, seed=seed)
    return ImageRouter(router.prob.reshape(tasks, layers, experts), top_k, seed)


def queue_lengths(sequence: I8, experts: int) -> I8:
    """Return the number of tokens in each expert's queue, shape (experts,)."""
    return np.bincount(sequence.ravel(), minlength=experts).astype(np.int64)
