"""Place labels at points so that none covers another, a point, or leaves the axes.

Candidate positions are rings around each point, then a grid over the whole axes. Obstacles are boxes; crossing lines
costs extra. Labels are placed largest first, then each is moved once more. The result is deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text

from .style import GREY, NORMAL

Array = npt.NDArray[np.float64]

GAPS = (2.0, 5.0, 9.0, 14.0, 20.0, 28.0, 38.0, 50.0, 65.0, 85.0)
"""Distances from the point's edge that are tried [pt]."""
ANGLES = np.deg2rad([0, 90, 180, 270, 45, 135, 315, 225, 22, 68, 112, 158, 202, 248, 292, 338])
PADDING = 1.2
"""Free space around a label [pt]."""
BACKGROUND = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.4}
"""Style of the box behind a label, which keeps grid lines from striking through the text."""
LINE_COST, LEADER_COST = 25.0, 40.0
"""Penalties for a label that covers a line, and for a leader that crosses a point or label, as distances [pt]."""
LEADER_FROM = 6.0
"""Gap [pt] from which a leader line joins a label to its point."""
MAX_POINTS = 100
"""Maximum number of points of a line that labels avoid; longer lines are thinned."""
LABEL = "op-label"
"""Group id of op labels."""


@dataclass(frozen=True, slots=True)
class LabelledPoint:
    """A point and its label: position in data coordinates, radius of the point [pt], text and colour.

    A point of radius 0 gets no leader line.
    """

    x: float
    y: float
    radius: float
    text: str
    color: str = "#000000"


def boxes_of(texts: Sequence[Text]) -> Array:
    """Return the boxes of texts in display coordinates: rows of (left, bottom, right, top)."""
    rows = [t.get_window_extent().extents for t in texts]
    return np.array(rows, dtype=float).reshape(-1, 4)


def overlaps(boxes: Array, others: Array) -> npt.NDArray[np.bool_]:
    """Return whether box i overlaps box j of `others`, shape (len(boxes), len(others))."""
    a, b = boxes[:, None, :], others[None, :, :]
    apart = (a[..., 2] <= b[..., 0]) | (b[..., 2] <= a[..., 0]) | (a[..., 3] <= b[..., 1]) | (b[..., 3] <= a[..., 1])
    return np.asarray(~apart)


def crosses(boxes: Array, segments: Array) -> npt.NDArray[np.bool_]:
    """Return whether segment j (x0, y0, x1, y1) passes through box i (clipping by Liang and Barsky)."""
    start, end = segments[None, :, :2], segments[None, :, 2:]
    step = end - start
    step = np.where(np.abs(step) < 1e-12, 1e-12, step)
    low = (boxes[:, None, :2] - start) / step
    high = (boxes[:, None, 2:] - start) / step
    enter = np.minimum(low, high).max(axis=2)
    leave = np.maximum(low, high).min(axis=2)
    return np.asarray((enter < leave) & (leave > 0) & (enter < 1))


class _Placer:
    """State of one placement, in display coordinates."""

    def __init__(
        self, axes: Axes, points: Sequence[LabelledPoint], boxes: Array, segments: Array, texts: list[Text]
    ) -> None:
        figure = axes.get_figure()
        assert figure is not None
        self.pt = figure.dpi / 72
        self.frame = np.asarray(axes.get_window_extent().extents, dtype=float)
        self.at = axes.transData.transform([(p.x, p.y) for p in points])
        self.radius = np.array([p.radius for p in points]) * self.pt
        extents = boxes_of(texts)
        self.size = extents[:, 2:] - extents[:, :2]
        self.fixed, self.segments = boxes, segments
        self.chosen: dict[int, Array] = {}

    def candidates(self, i: int) -> Array:
        """Return the boxes to try for label i: around its point at the distances `GAPS`, then on a grid."""
        half, at = self.size[i] / 2, self.at[i]
        unit = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
        centres = [
            at + unit * (self.radius[i] + gap * self.pt) + unit * half for gap in GAPS
        ]  # the box grows away from the point
        left, bottom, right, top = self.frame
        xs = np.arange(left + half[0], right - half[0], 6 * self.pt)
        ys = np.arange(bottom + half[1], top - half[1], 6 * self.pt)
        grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
        middle = np.concatenate([*centres, grid])
        return np.concatenate([middle - half, middle + half], axis=1)

    def place(self, i: int) -> None:
        """Move label i to the free box with the lowest cost; remove its position if there is no free box."""
        boxes = self.candidates(i)
        others = [box for j, box in self.chosen.items() if j != i]
        taken = np.concatenate([self.fixed, np.array(others).reshape(-1, 4)])
        pad = PADDING * self.pt * np.array([-1.0, -1.0, 1.0, 1.0])
        inside = (boxes[:, :2] >= self.frame[:2]).all(axis=1)
        inside &= (boxes[:, 2:] <= self.frame[2:]).all(axis=1)
        boxes = boxes[inside]
        boxes = boxes[~overlaps(boxes + pad, taken).any(axis=1)]
        if not len(boxes):
            self.chosen.pop(i, None)
            return
        near = np.clip(self.at[i], boxes[:, :2], boxes[:, 2:])
        gap = np.hypot(*(near - self.at[i]).T) / self.pt
        cost = gap + LINE_COST * crosses(boxes + pad, self.segments).any(axis=1)
        leaders = np.concatenate([near, np.broadcast_to(self.at[i], near.shape)], axis=1)
        hits = crosses(taken, leaders).sum(axis=0) - 1  # its own point
        cost += LEADER_COST * np.maximum(hits, 0) + 0.05 * np.arange(len(boxes)) / len(boxes)
        self.chosen[i] = boxes[int(np.argmin(cost))]


def place(
    axes: Axes,
    points: Sequence[LabelledPoint],
    markers: Sequence[LabelledPoint] = (),
    texts: Sequence[Text] = (),
    lines: Sequence[npt.ArrayLike] = (),
    gid: str = LABEL,
) -> list[Annotation]:
    """Label points, in order of importance; call it when the axes has its final place and limits.

    Parameters
    ----------
    points : sequence of LabelledPoint
        What to label, most important first.
    markers : sequence of LabelledPoint
        All markers, labelled or not.
    texts : sequence of Text
        Texts already there.
    lines : sequence of array_like, shape (n, 2)
        Polylines in data coordinates that labels should keep off.
    gid : str
        Group id of the labels, to find them in the plot.

    Returns
    -------
    list of Annotation
        The labels; fewer than `points` if there is no room.
    """
    figure = axes.get_figure()
    assert figure is not None
    if not points:
        return []
    notes = [
        axes.annotate(
            p.text, (p.x, p.y), (0, 0), textcoords="offset points", ha="center", va="center",
            fontsize=NORMAL, color=p.color, gid=gid, linespacing=1.05, zorder=2.6,
            bbox=BACKGROUND,
        )
        for p in points
    ]  # fmt: skip
    pt = figure.dpi / 72
    centres = axes.transData.transform([(m.x, m.y) for m in markers]).reshape(-1, 2)
    radii = np.array([m.radius for m in markers]).reshape(-1, 1) * pt
    boxes = np.concatenate([np.hstack([centres - radii, centres + radii]), boxes_of(texts)])
    drawn = [axes.transData.transform(np.asarray(line, dtype=float)) for line in lines]
    thin = [line[np.unique(np.linspace(0, len(line) - 1, MAX_POINTS).round().astype(int))] for line in drawn]
    segments = [np.hstack([line[:-1], line[1:]]) for line in thin]
    placer = _Placer(axes, points, boxes, np.concatenate([np.zeros((0, 4)), *segments]), [*notes])
    for _ in range(2):
        for i in range(len(points)):
            placer.place(i)
    placed = []
    for i, note in enumerate(notes):
        if i not in placer.chosen:
            note.remove()
            continue
        box = placer.chosen[i]
        offset = ((box[:2] + box[2:]) / 2 - placer.at[i]) / pt
        note.set_position((float(offset[0]), float(offset[1])))
        near = np.clip(placer.at[i], box[:2], box[2:]) - placer.at[i]
        distance = float(np.hypot(*near))
        if 0 < placer.radius[i] < distance - LEADER_FROM * pt:
            begin = near * (placer.radius[i] / distance)
            _leader(axes, points[i], begin / pt, near / pt)
        placed.append(note)
    return placed


def _leader(axes: Axes, point: LabelledPoint, begin: Array, end: Array) -> None:
    """Add a thin line from a point's edge to its label; both ends are relative to the point's centre [pt]."""
    length = float(np.hypot(*begin))
    axes.annotate(
        "", (point.x, point.y), (float(end[0]), float(end[1])), textcoords="offset points",
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0,
                    "shrinkB": length}, zorder=2,
    )  # fmt: skip


def spread(wanted: Sequence[float], height: float, low: float, high: float) -> list[float]:
    """Move positions along a line by as little as needed for a distance of `height`.

    Parameters
    ----------
    wanted : sequence of float
        Wished-for centres, any order.
    height : float
        Least distance.
    low, high : float
        Ends of the line; positions stay between where they fit.

    Examples
    --------
    >>> spread([1.0, 1.2, 5.0], 1.0, 0.0, 10.0)
    [0.6, 1.6, 5.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[list[float]] = []  # [sum of wishes at the group's first place, members]
    for rank, i in enumerate(order):
        groups.append([wanted[i] - rank * height, 1.0])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, members = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += members
    top = high - (len(wanted) - 1) * height
    out = [0.0] * len(wanted)
    rank = 0
    for total, members in groups:
        base = max(min(total / members, top), low)
        for _ in range(int(members)):
            out[order[rank]] = round(base + rank * height, 9)
            rank += 1
    return out
