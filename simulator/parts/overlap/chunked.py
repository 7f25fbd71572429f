"""A step with overlapped exchanges, built by the explicit path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ....workloads.batch import TOKENS, Batch, Moments
from ....workloads.errors import InputError
from ....workloads.layers.base import sent_width
from ....workloads.ops import Loads, Op
from ...deploy.deployment import Deployment
from ...deploy.expert_parts import ExpertPart
from ...deploy.programs import to_and_fro
from ...step.costing import PlacedOp, Stage, StageCost, lengthened
from ...step.explicit import explicit_stage
from ...step.sections import Section, sections_of
from ...streams import COMPUTE, SubTask, Timeline
from .chunking import ChunkSize, chunk_tokens, half_moments, micro_moments
from .explicit import Key, Piece, Uncut, parts_of, scheduled
from .gates import gate_of, halved
from .tracks import NONE, Track, Way, WayKind, chunked_parts, crossing, tracks_of, visits_of, ways_of


class Overlapped(Stage):
    """Cost of a step with overlapped exchanges."""

    def in_chunks(self, way: Way, plain: Uncut | None) -> StageCost | None:
        """Return the step's cost in one way to overlap; None if the way is given up against the uncut step."""
        d = self.d
        sections = sections_of(d)
        tracks = [tracks_of(d, section) for section in sections]
        pieces: dict[Key, list[Piece]] = {}
        where: dict[Key, list[int]] = {}  # the critical ops of each piece, in `placed`
        for s, section in enumerate(sections):
            whole = {t: track for t, track in enumerate(tracks[s]) if track.part < 0}
            cut = {t: whole.pop(t) for t in list(whole) if whole[t].chunked(way)}
            for chunk in range(way.chunks):
                self._tracks(s, section, cut, way, chunk, pieces, where)
            self._tracks(s, section, whole, NONE, 0, pieces, where)
        more = sum(
            piece.seconds * sections[s].layers
            for (s, t, _), track_pieces in pieces.items() if tracks[s][t].resource == COMPUTE
            for piece in track_pieces
        ) - (plain.compute_s if plain else 0.0)  # fmt: skip
        if plain and plain.gives_up(more):
            return None
        visits = visits_of(d, sections)
        for x, (part, cut_part) in enumerate(zip(d.experts, chunked_parts(d, tracks, visits, way), strict=True)):
            for chunk, loads in enumerate(self._shares(part, way if cut_part else NONE)):
                first = len(self.placed)
                seconds, _, regions = self._groups(part, loads)
                piece = Piece("experts", "experts", seconds, parts_of(regions))
                pieces[-1, x, chunk] = [piece] if seconds else []
                if d.apart is not None and not part.kept:
                    where[-1, x, chunk] = list(range(first, len(self.placed)))
                    self._cross(x, chunk, way, loads, pieces, where)
                more += seconds * part.layers
            if plain:
                more -= plain.experts_s[x]
                if plain.gives_up(more):
                    return None
        layers, count = list[int](), 0
        for visit in visits:
            of_layer = sections[visit.section].layer is not None
            layers.append(count if of_layer else -1)
            count += of_layer
        schedule = scheduled(way, tracks, visits, layers, pieces, len(d.stages))
        for key, places in where.items():
            for i in places:
                self.placed[i] = replace(self.placed[i], exposed=schedule.exposed[key])
        joules = sum(p.cost.total_joules * p.count * p.devices for p in self.placed)
        return StageCost(
            sum(schedule.stages), joules, tuple(self.placed), schedule.stages, way.name, schedule.timelines
        )

    def _tracks(
        self, s: int, section: Section, tracks: Mapping[int, Track], way: Way,
        chunk: int, pieces: dict[Key, list[Piece]], where: dict[Key, list[int]],
    ) -> None:  # fmt: skip
        """Cost numbered tracks of a section on every rank, for one chunk; use the pieces of the slowest rank."""
        ranks = []
        known: dict[bytes, tuple[float, list[tuple[list[PlacedOp], list[Piece]]]]] = {}
        for m, added in zip(self.moments, self.unequal, strict=True):
            sums = _sums(np.append(m.values, added), way, len(m.windows), chunk)
            if sums.tobytes() not in known:  # ranks with equal batches take as long
                part = Moments(m.windows, sums[:-1])
                program = section.build(part)
                program = [lengthened(op, float(sums[-1])) for op in program]
                run_tracks = [self._track(program, track, section.layers, part.tokens) for track in tracks.values()]
                took = sum(p.seconds for _, pieces in run_tracks for p in pieces)
                known[sums.tobytes()] = took, run_tracks
            ranks.append(known[sums.tobytes()])
        slowest = max(range(len(ranks)), key=lambda r: ranks[r][0])
        for r, (_, run_tracks) in enumerate(ranks):
            for t, (placed, own_pieces) in zip(tracks, run_tracks, strict=True):
                if r == slowest:
                    pieces[s, t, chunk] = own_pieces
                    if tracks[t].resource != COMPUTE:
                        first = len(self.placed)
                        where[s, t, chunk] = list(range(first, first + len(placed)))
                self.placed += [replace(p, critical=r == slowest) for p in placed]

    def _track(
        self, program: Sequence[Op], track: Track, count: int, tokens: float
    ) -> tuple[list[PlacedOp], list[Piece]]:
        """Return the placed ops and the pieces of one track on one rank."""
        ops = [op for op in program[track.start : track.stop] if op.flops > 0 or op.act_bytes > 0]
        if track.resource != COMPUTE:
            _, placed = self._collectives(ops, count)
            return placed, [_exchange(p, track.taken[self.mixed]) for p in placed]
        costs = self._regions([op for op in ops if not op.exchange], tokens)
        placed = [
            PlacedOp(op, name, cost, count, self.d.layout.tp, True) for region in costs for op, name, cost in region.ops
        ]
        firsts = [region.ops[0][0] for region in costs]
        _, within = self._collectives(ops, count)  # of a track that waits for them
        return placed + within, [
            *(
                Piece(op.name, op.layer, region.seconds, parts_of([region]))
                for op, region in zip(firsts, costs, strict=True)
            ),
            *(_exchange(p) for p in within),
        ]

    def _cross(
        self, x: int, chunk: int, way: Way, loads: Loads, pieces: dict[Key, list[Piece]], where: dict[Key, list[int]]
    ) -> None:
        """Cost the transfers of a micro-batch to an expert part on separate devices, and back.

        Each takes as long as the busiest device of either side sends or receives.
        """
        d, part = self.d, self.d.experts[x]
        values = sent_width(part.spec) * part.spec.routed.top_k / d.layout.tp
        sent = values * max(float(_sums(m.values, way, len(m.windows), chunk)[TOKENS]) for m in self.moments)
        groups = self._slots(part, loads).tokens.reshape(part.ep, -1).sum(axis=1)
        values = max(sent, sent_width(part.spec) * float(groups.max()))
        for label, back in (("dispatch", False), ("collect", True)):
            op = to_and_fro(label, values, d.run)
            link = d.link(op)
            placed = PlacedOp(op, link.spec.name, link.cost(op), part.layers, d.layout.tp, True)
            if placed.cost.seconds > 0.0 and values > 0.0:
                key = -1, crossing(d, x, back), chunk
                pieces[key], where[key] = [_exchange(placed)], [len(self.placed)]
                self.placed.append(placed)

    def _shares(self, part: ExpertPart, way: Way) -> list[Loads]:
        """Return the expert loads of every chunk."""
        windows, several = self.d.shard.windows, self.d.several > 1
        batch_sums = [b.moments(windows, several).values for b in self.batches]
        tokens = [
            sum(float(_sums(values, way, len(windows), chunk)[TOKENS]) for values in batch_sums)
            for chunk in range(way.chunks)
        ]
        if self.expected:
            return [part.expected(share) for share in tokens]
        from .splitting import deal_draw, split_draw  # compiled code, as draws are

        assign = deal_draw if way.kind == WayKind.PING_PONG else split_draw
        return assign(part, self._loads(part), tokens, self.step, self.replica)


def _exchange(placed: PlacedOp, taken: float = 0.0) -> Piece:
    """Return the piece of a collective on its link, which occupies a share of the cores."""
    took = placed.cost.seconds
    part = SubTask(placed.processor, placed.op.name, placed.op.layer, placed.cost.bound, 0.0, took)
    return Piece(placed.op.name, placed.op.name, took, (part,), taken * took)


def _sums(m: npt.NDArray[np.float64], way: Way, windows: int, chunk: int) -> npt.NDArray[np.float64]:
    """Return the sums of one chunk of a batch."""
    out = m.copy()
    if way.kind == WayKind.TWO_BATCH:
        half_moments(m, windows, ChunkSize.BIG if chunk == 0 else ChunkSize.SMALL, out)
    elif way.kind == WayKind.PIPELINED:
        out[TOKENS] = chunk_tokens(float(m[TOKENS]), way.chunks, chunk)
    elif way.kind == WayKind.PING_PONG:
        micro_moments(m, windows, way.chunks, chunk, out)
    return out


def quickest_step(given: Any, caches: Any) -> StageCost:
    """Return the cost of the fastest way to run a step; `given` has the arguments of `Stage`."""
    d: Deployment = given[0]
    plain: Uncut | None = None
    costs: list[StageCost] = []
    chosen, gate = ways_of(d), gate_of(d.parts.get("overlap", "none"))
    if gate is not None and len(chosen) > 1:
        moments = np.array([m.values for m in Stage(*given).moments])
        chosen = chosen[1:] if halved(*gate.row, len(d.shard.windows), moments) else chosen[:1]
    for way in chosen:
        if way == NONE:
            stage = Stage(*given)
            costs.append(stage.total(caches))
            plain = _uncut(costs[0], stage.experts_s)
            continue
        cost = Overlapped(*given).in_chunks(way, plain)
        costs += [] if cost is None else [cost]
    return min(costs, key=lambda cost: cost.seconds)


def timelines_of(
    deployment: Deployment, batches: Sequence[Batch], step: int = 0, *, expected: bool = False, captured: int = 0
) -> tuple[Timeline, ...]:
    """Return the timeline of each pipeline stage of a step, also if nothing overlaps.

    Parameters are those of `explicit_stage`; the makespans add up to its ``seconds``.

    Raises
    ------
    InputError
        The deployment fetches experts: the time of a fetch within the step is not known.
    """
    if deployment.parts.get("resident-experts") is not None:
        raise InputError("--timeline", "does not support expert caches; remove --experts-resident")
    given = deployment, batches, step, 0, expected, captured
    timelines = explicit_stage(*given).timelines
    if timelines:
        return timelines
    uncut = Overlapped(*given).in_chunks(NONE, None)
    assert uncut is not None  # it is compared with no other way
    return uncut.timelines


def _uncut(cost: StageCost, experts_s: Sequence[float]) -> Uncut:
    """Return the serial step as the reference for other ways."""
    exchange = sum(p.cost.seconds * p.count for p in cost.ops if p.critical and p.op.exchange)
    return Uncut(cost.seconds - exchange - sum(experts_s), exchange, experts_s)
